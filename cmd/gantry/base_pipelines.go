package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

var builds = schema.GroupVersionResource{Group: "gantry.dev", Version: "v1alpha1", Resource: "builds"}

// pipelineRef is the pipeline that built an image, and its newest build's number.
type pipelineRef struct {
	namespace, name string
	number          int64
}

// builtBy finds the pipelines that built images, by the images' repositories. Where
// there are no pipelines, or no right to see them, none are known.
func builtBy(ctx context.Context, g *globals) map[string]pipelineRef {
	out := map[string]pipelineRef{}
	client, err := dynamicClient(g)
	if err != nil {
		return out
	}
	list, err := client.Resource(builds).List(ctx, metav1.ListOptions{})
	if err != nil {
		return out
	}
	for _, item := range list.Items {
		var b struct {
			Spec struct {
				Pipeline string `json:"pipeline"`
				Number   int64  `json:"number"`
			} `json:"spec"`
			Status struct {
				Images []struct {
					Name      string `json:"name"`
					Reference string `json:"reference"`
				} `json:"images"`
			} `json:"status"`
		}
		text, err := item.MarshalJSON()
		if err != nil || json.Unmarshal(text, &b) != nil || b.Spec.Pipeline == "" {
			continue
		}
		for _, i := range b.Status.Images {
			_, repository, _ := strings.Cut(i.Reference, "/")
			repository, _, _ = strings.Cut(repository, "@")
			if repository == "" {
				repository = i.Name
			}
			out[repository] = pipelineRef{item.GetNamespace(), b.Spec.Pipeline, max(out[repository].number, b.Spec.Number)}
		}
	}
	return out
}

// startPipeline makes the next Build of a pipeline, which its service runs.
func startPipeline(ctx context.Context, g *globals, p pipelineRef) error {
	client, err := dynamicClient(g)
	if err != nil {
		return err
	}
	number := p.number + 1
	_, err = client.Resource(builds).Namespace(p.namespace).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gantry.dev/v1alpha1", "kind": "Build",
		"metadata": map[string]any{"name": fmt.Sprintf("%s-%d", p.name, number), "labels": map[string]any{"gantry.dev/pipeline": p.name}},
		"spec":     map[string]any{"pipeline": p.name, "number": number, "trigger": "Manual"},
	}}, metav1.CreateOptions{FieldManager: "gantry-base"})
	if err != nil {
		return fmt.Errorf("start pipeline %s/%s: %w", p.namespace, p.name, err)
	}
	return nil
}

func dynamicClient(g *globals) (dynamic.Interface, error) {
	cfg, err := g.config()
	if err != nil {
		return nil, err
	}
	return dynamic.NewForConfig(cfg)
}
