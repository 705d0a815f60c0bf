package pipeline

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/apiclient"
)

// NewBuild makes the next Build of a Pipeline: the service carries it out. Only spec's
// Pipeline and Number are filled in here. Whoever may create Builds may call it.
func NewBuild(ctx context.Context, api *apiclient.Client, p *v1alpha1.Pipeline, spec v1alpha1.BuildSpec) (*v1alpha1.Build, error) {
	present, err := api.Builds(p.Namespace).List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.PipelineLabel + "=" + p.Name})
	if err != nil {
		return nil, fmt.Errorf("list the builds of pipeline %s: %w", p.Name, err)
	}
	spec.Pipeline, spec.Number = p.Name, 0
	if last := p.Status.LastBuild; last != nil {
		spec.Number = last.Number
	}
	for _, b := range present.Items {
		spec.Number = max(spec.Number, b.Spec.Number)
	}
	controls := true
	for {
		spec.Number++
		b, err := api.Builds(p.Namespace).Create(ctx, &v1alpha1.Build{
			TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Build"},
			ObjectMeta: metav1.ObjectMeta{
				Name: BuildName(p.Name, spec.Number), Namespace: p.Namespace, Labels: map[string]string{v1alpha1.PipelineLabel: p.Name},
				OwnerReferences: []metav1.OwnerReference{{
					APIVersion: v1alpha1.GroupVersion.String(), Kind: "Pipeline", Name: p.Name, UID: p.UID, Controller: &controls,
				}},
			},
			Spec: spec,
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			continue // somebody was faster
		}
		if err != nil {
			return nil, fmt.Errorf("make build %d of pipeline %s: %w", spec.Number, p.Name, err)
		}
		return b, nil
	}
}
