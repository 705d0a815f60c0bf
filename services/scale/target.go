package scale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// errNotScalable is that a kind has no scale subresource.
var errNotScalable = errors.New("it has no scale subresource")

// kinds finds the resources of kinds.
type kinds struct {
	discovery discovery.DiscoveryInterface
	known     sync.Map // apiVersion/kind to schema.GroupVersionResource
}

// resource is what the API calls a kind that can be scaled. The error satisfies
// errors.Is(err, errNotScalable), or IsNotFound, when there is none.
func (k *kinds) resource(ref v1alpha1.ScaleTargetReference) (schema.GroupVersionResource, error) {
	key := ref.APIVersion + "/" + ref.Kind
	if r, ok := k.known.Load(key); ok {
		return r.(schema.GroupVersionResource), nil
	}
	list, err := k.discovery.ServerResourcesForGroupVersion(ref.APIVersion)
	if err != nil {
		return schema.GroupVersionResource{}, err
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return schema.GroupVersionResource{}, err
	}
	scalable := map[string]bool{}
	for _, r := range list.APIResources {
		if name, ok := strings.CutSuffix(r.Name, "/scale"); ok {
			scalable[name] = true
		}
	}
	for _, r := range list.APIResources {
		if r.Kind == ref.Kind && !strings.Contains(r.Name, "/") {
			if !scalable[r.Name] {
				return schema.GroupVersionResource{}, fmt.Errorf("kind %s cannot be scaled: %w", ref.Kind, errNotScalable)
			}
			found := gv.WithResource(r.Name)
			k.known.Store(key, found)
			return found, nil
		}
	}
	return schema.GroupVersionResource{}, apierrors.NewNotFound(schema.GroupResource{Group: gv.Group, Resource: ref.Kind}, ref.Name)
}

func groupOf(apiVersion string) string {
	gv, _ := schema.ParseGroupVersion(apiVersion)
	return gv.Group
}

// target is what a policy scales, as it was last seen.
type target struct {
	resource schema.GroupVersionResource
	// wanted is what it is told to have, present what it says it has.
	wanted, present int32
	selector        string
	podLabels       labels.Set
	podRequests     corev1.ResourceList // of one pod; nil when not known
	hasTemplate     bool
}

// readTarget reads the target and its scale.
func (c *controller) readTarget(ctx context.Context, p *v1alpha1.ScalePolicy) (*target, error) {
	ref := p.Spec.TargetRef
	resource, err := c.kinds.resource(ref)
	if err != nil {
		return nil, err
	}
	t := &target{resource: resource}
	client := c.clients.dynamic.Resource(resource).Namespace(p.Namespace)
	scale, err := client.Get(ctx, ref.Name, metav1.GetOptions{}, "scale")
	if err != nil {
		return nil, err
	}
	t.take(scale)
	// Without the right to read the target itself its selector must do.
	if object, err := client.Get(ctx, ref.Name, metav1.GetOptions{}); err == nil {
		t.readTemplate(object)
	} else if !apierrors.IsForbidden(err) {
		return nil, err
	}
	if !t.hasTemplate {
		t.podLabels = requiredBy(t.selector)
	}
	return t, nil
}

// take reads a Scale.
func (t *target) take(scale *unstructured.Unstructured) {
	wanted, _, _ := unstructured.NestedInt64(scale.Object, "spec", "replicas")
	present, _, _ := unstructured.NestedInt64(scale.Object, "status", "replicas")
	t.selector, _, _ = unstructured.NestedString(scale.Object, "status", "selector")
	t.wanted, t.present = int32(wanted), int32(present)
}

// readTemplate reads the pod template where Kubernetes' own kinds have it.
func (t *target) readTemplate(object *unstructured.Unstructured) {
	raw, found, _ := unstructured.NestedMap(object.Object, "spec", "template")
	if !found {
		return
	}
	var template corev1.PodTemplateSpec
	if runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &template) != nil {
		return
	}
	t.hasTemplate, t.podLabels = true, template.Labels
	t.podRequests = corev1.ResourceList{}
	for _, c := range template.Spec.Containers {
		for name, q := range c.Resources.Requests {
			sum := t.podRequests[name]
			sum.Add(q)
			t.podRequests[name] = sum
		}
	}
}

// requiredBy are the labels that a selector asks for by value.
func requiredBy(selector string) labels.Set {
	set := labels.Set{}
	parsed, err := labels.Parse(selector)
	if err != nil {
		return set
	}
	requirements, _ := parsed.Requirements()
	for _, r := range requirements {
		if op := r.Operator(); (op == selection.Equals || op == selection.DoubleEquals || op == selection.In) && r.Values().Len() == 1 {
			set[r.Key()] = r.Values().UnsortedList()[0]
		}
	}
	return set
}

// scaleTo tells the target to have n replicas.
func (c *controller) scaleTo(ctx context.Context, p *v1alpha1.ScalePolicy, t *target, n int32) error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"replicas": n}})
	if err != nil {
		return err
	}
	scale, err := c.clients.dynamic.Resource(t.resource).Namespace(p.Namespace).
		Patch(ctx, p.Spec.TargetRef.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "gantry-scale"}, "scale")
	if err != nil {
		return fmt.Errorf("scale %s %s to %d: %w", p.Spec.TargetRef.Kind, p.Spec.TargetRef.Name, n, err)
	}
	t.take(scale)
	return nil
}
