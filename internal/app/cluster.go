package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/hint"
)

// cluster is what this package does to a cluster: apply, read and delete objects
// of any kind. Not safe for concurrent use.
type cluster struct {
	kube      kubernetes.Interface
	objects   dynamic.Interface
	discovery discovery.DiscoveryInterface
	resources map[schema.GroupVersionKind]*metav1.APIResource
}

func connect(cfg *rest.Config) (*cluster, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.WarningHandler = rest.NoWarnings{}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	objects, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	return &cluster{kube: kube, objects: objects, discovery: kube.Discovery(), resources: map[schema.GroupVersionKind]*metav1.APIResource{}}, nil
}

// resource finds how the server calls a kind. It asks only for the group and
// version in question, which costs one request each.
func (c *cluster) resource(gvk schema.GroupVersionKind) (*metav1.APIResource, error) {
	if r, ok := c.resources[gvk]; ok {
		return r, nil
	}
	list, err := c.discovery.ServerResourcesForGroupVersion(gvk.GroupVersion().String())
	if apierrors.IsNotFound(err) {
		return nil, noKind{gvk}
	}
	if err != nil {
		return nil, fmt.Errorf("ask the cluster for %s: %w", gvk.GroupVersion(), err)
	}
	for i, r := range list.APIResources {
		kind := gvk.GroupVersion().WithKind(r.Kind)
		if _, ok := c.resources[kind]; !ok && !isSubresource(r.Name) {
			c.resources[kind] = &list.APIResources[i]
		}
	}
	if r, ok := c.resources[gvk]; ok {
		return r, nil
	}
	return nil, noKind{gvk}
}

func isSubresource(name string) bool {
	for _, r := range name {
		if r == '/' {
			return true
		}
	}
	return false
}

// noKind says that the cluster does not know a kind.
type noKind struct{ gvk schema.GroupVersionKind }

func (e noKind) Error() string {
	return fmt.Sprintf("the cluster has no kind %s in %s", e.gvk.Kind, e.gvk.GroupVersion())
}

// client returns the interface for one object's resource, in its namespace.
func (c *cluster) client(o *unstructured.Unstructured, namespace string) (dynamic.ResourceInterface, error) {
	gvk := o.GroupVersionKind()
	r, err := c.resource(gvk)
	if err != nil {
		return nil, err
	}
	all := c.objects.Resource(gvk.GroupVersion().WithResource(r.Name))
	if !r.Namespaced {
		return all, nil
	}
	if o.GetNamespace() != "" {
		namespace = o.GetNamespace()
	}
	return all.Namespace(namespace), nil
}

// apply sends one object by server-side apply and returns what the server made
// of it. With dryRun nothing is stored. Unknown fields are refused.
func (c *cluster) apply(ctx context.Context, o *Object, namespace string, dryRun bool) (*unstructured.Unstructured, error) {
	client, err := c.client(o.Unstructured, namespace)
	var unknown noKind
	if errors.As(err, &unknown) {
		return nil, hint.Wrap(fmt.Errorf("%s: %w", o.Origin, err), "`kubectl api-resources` lists the kinds; a custom one needs its CustomResourceDefinition beside it")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Origin, err)
	}
	body, err := json.Marshal(o.Object)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Origin, err)
	}
	force := true
	options := metav1.PatchOptions{FieldManager: FieldManager, Force: &force, FieldValidation: metav1.FieldValidationStrict}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	applied, err := client.Patch(ctx, o.GetName(), types.ApplyPatchType, body, options)
	if err != nil {
		return nil, explainApply(o, err)
	}
	return applied, nil
}

func explainApply(o *Object, err error) error {
	wrapped := fmt.Errorf("%s: %s: %w", o.Origin, o, err)
	if immutable(err) {
		return hint.Wrap(wrapped, "this field cannot be changed on a living object: `kubectl delete %s` first (or gantry down), then run the command again", o)
	}
	return wrapped
}

// immutable is whether the server refused to change a field of a living object.
func immutable(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != http.StatusUnprocessableEntity || status.Status().Details == nil {
		return false
	}
	for _, cause := range status.Status().Details.Causes {
		for _, sign := range []string{"immutable", "may not be changed", "may not change once set", "updates to statefulset spec"} {
			if containsFold(cause.Message, sign) {
				return true
			}
		}
	}
	return false
}

// validate asks the server to judge every object without storing any. Kinds that
// the application itself brings (CustomResourceDefinitions) cannot be judged yet.
func (c *cluster) validate(ctx context.Context, app *Application) error {
	brings := map[schema.GroupKind]bool{}
	namespaces := map[string]bool{}
	for _, o := range app.Objects {
		switch o.GetKind() {
		case "CustomResourceDefinition":
			group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
			kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
			brings[schema.GroupKind{Group: group, Kind: kind}] = true
		case "Namespace":
			namespaces[o.GetName()] = o.GetName() != app.Namespace
		}
	}
	for _, o := range app.Objects {
		if brings[o.GroupVersionKind().GroupKind()] || namespaces[o.GetNamespace()] {
			continue
		}
		if _, err := c.apply(ctx, o, app.Namespace, true); err != nil && !replaceable(o, err) {
			return err
		}
	}
	return nil
}

// replaceable is whether an object that the server refused to change may simply
// be deleted and made again. A Service holds nothing but its address, and has to
// be when it gets its first declared port or loses its last.
func replaceable(o *Object, err error) bool {
	return err != nil && o.GetKind() == "Service" && immutable(err)
}

// delete removes one object and everything it owns. An absent one is no error.
func (c *cluster) delete(ctx context.Context, o *unstructured.Unstructured, policy metav1.DeletionPropagation) error {
	client, err := c.client(o, "")
	if err == nil {
		err = client.Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &policy})
	}
	var unknown noKind
	if err == nil || apierrors.IsNotFound(err) || errors.As(err, &unknown) {
		return nil
	}
	return fmt.Errorf("delete %s %s: %w", o.GetKind(), o.GetName(), err)
}

// ensureNamespace creates the namespace of the application when it is absent and
// reports that it did.
func (c *cluster) ensureNamespace(ctx context.Context, app *Application) (bool, error) {
	// Who may only work in a namespace that exists may not try to create it.
	present, err := c.kube.CoreV1().Namespaces().Get(ctx, app.Namespace, metav1.GetOptions{})
	if err == nil && present.DeletionTimestamp == nil {
		return false, nil
	}
	_, err = c.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{
			Name:   app.Namespace,
			Labels: map[string]string{labelManagedBy: managedBy, labelPartOf: app.Namespace},
		},
	}, metav1.CreateOptions{FieldManager: FieldManager})
	if err == nil {
		return true, nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return false, fmt.Errorf("create namespace %s: %w", app.Namespace, explainConnection(err))
	}
	existing, err := c.kube.CoreV1().Namespaces().Get(ctx, app.Namespace, metav1.GetOptions{})
	if err != nil {
		return false, fmt.Errorf("read namespace %s: %w", app.Namespace, err)
	}
	if existing.DeletionTimestamp == nil {
		return false, nil
	}
	if err := c.gone(ctx, app.Namespace); err != nil {
		return false, err
	}
	return c.ensureNamespace(ctx, app)
}

// gone waits until a namespace that is being deleted has disappeared.
func (c *cluster) gone(ctx context.Context, namespace string) error {
	for {
		_, err := c.kube.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for the end of namespace %s: %w", namespace, err)
		}
		if err := pause(ctx, pollInterval); err != nil {
			return fmt.Errorf("namespace %s is still being deleted: %w", namespace, err)
		}
	}
}

// pollInterval is how often the state of the cluster is looked at.
const pollInterval = 200 * time.Millisecond

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// explainConnection adds what to do when no server answers.
func explainConnection(err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) || meta.IsNoMatchError(err) {
		return err
	}
	return hint.Wrap(err, "is `gantry serve` running? `gantry doctor` says what this machine lacks")
}
