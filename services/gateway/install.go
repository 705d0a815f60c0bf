package gateway

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"regexp"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// fieldManager owns what this package writes to the API.
const fieldManager = "gantry-gateway"

// hashAnnotation holds a hash of the schema, so that one that is already
// installed is recognised without comparing it.
const hashAnnotation = "gantry.dev/schema-hash"

//go:embed crds/*.yaml
var crdFiles embed.FS

var (
	crdName = regexp.MustCompile(`(?m)^  name: (\S+)$`)
	crdHash = regexp.MustCompile(`(?m)^    ` + hashAnnotation + `: (\S+)$`)
)

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// EnsureCRDs installs the Gateway API kinds that the gateway serves, by
// server-side apply, and waits until the API serves them. Those that are
// installed in the same version cost one read each. It needs an administrator.
func EnsureCRDs(ctx context.Context, cfg *rest.Config) error {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("install Gateway API: %w", err)
	}
	files, err := crdFiles.ReadDir("crds")
	if err != nil {
		return fmt.Errorf("install Gateway API: %w", err)
	}
	crds := client.Resource(crdResource)
	var installing errgroup.Group // validating a schema keeps a core busy for a while
	for _, file := range files {
		text, err := crdFiles.ReadFile("crds/" + file.Name())
		if err != nil {
			return fmt.Errorf("install Gateway API: %w", err)
		}
		installing.Go(func() error { return ensureCRD(ctx, crds, text) })
	}
	return installing.Wait()
}

func ensureCRD(ctx context.Context, crds dynamic.ResourceInterface, text []byte) error {
	name, hash := string(crdName.FindSubmatch(text)[1]), string(crdHash.FindSubmatch(text)[1])
	present, err := crds.Get(ctx, name, metav1.GetOptions{})
	if err == nil && present.GetAnnotations()[hashAnnotation] == hash && established(present) {
		return nil
	}
	force := true
	_, err = crds.Patch(ctx, name, types.ApplyPatchType, text, metav1.PatchOptions{FieldManager: fieldManager, Force: &force})
	if err != nil {
		return fmt.Errorf("install CustomResourceDefinition %s: %w", name, err)
	}
	err = wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		present, err := crds.Get(ctx, name, metav1.GetOptions{})
		return err == nil && established(present), err
	})
	if err != nil {
		return fmt.Errorf("wait for CustomResourceDefinition %s: %w", name, err)
	}
	return nil
}

// established says whether the API serves the kind that a definition defines.
func established(crd *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, c := range conditions {
		c, _ := c.(map[string]any)
		if c["type"] == "Established" && c["status"] == "True" {
			return true
		}
	}
	return false
}

//go:embed defaults.yaml
var defaults []byte

// EnsureDefaults creates what a platform starts with: the namespace
// gantry-system, GatewayClass and IngressClass "gantry", the Gateway
// gantry-system/default that takes routes from all namespaces, and the role of
// the user system:gantry:gateway. What exists stays as its owner changed it;
// only the role is brought up to date. It needs an administrator, and the kinds
// that EnsureCRDs installs.
func EnsureDefaults(ctx context.Context, cfg *rest.Config) error {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("create gateway defaults: %w", err)
	}
	objects, err := defaultObjects()
	if err != nil {
		return err
	}
	for _, d := range objects {
		if err := ensureDefault(ctx, client.Resource(d.resource).Namespace(d.object.GetNamespace()), d); err != nil {
			return fmt.Errorf("create %s %s: %w", d.object.GetKind(), d.object.GetName(), err)
		}
	}
	return nil
}

func ensureDefault(ctx context.Context, client dynamic.ResourceInterface, d defaultObject) error {
	present, err := client.Get(ctx, d.object.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, d.object, metav1.CreateOptions{FieldManager: fieldManager})
		if apierrors.IsAlreadyExists(err) { // somebody was faster
			return nil
		}
		return err
	}
	if err != nil {
		return err
	}
	rules := present.DeepCopy()
	for _, field := range []string{"rules", "subjects"} {
		if wanted, ok := d.object.Object[field]; ok {
			rules.Object[field] = wanted
		}
	}
	if equality.Semantic.DeepEqual(present.Object, rules.Object) {
		return nil
	}
	_, err = client.Update(ctx, rules, metav1.UpdateOptions{FieldManager: fieldManager})
	return err
}

type defaultObject struct {
	resource schema.GroupVersionResource
	object   *unstructured.Unstructured
}

// plurals of the kinds in defaults.yaml: asking the API for them would cost
// more than the whole installation.
var plurals = map[string]string{
	"Namespace": "namespaces", "GatewayClass": "gatewayclasses", "Gateway": "gateways", "IngressClass": "ingressclasses",
	"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings",
}

func defaultObjects() ([]defaultObject, error) {
	var list []defaultObject
	for _, text := range regexp.MustCompile(`(?m)^---$`).Split(string(defaults), -1) {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
			return nil, fmt.Errorf("read defaults.yaml: %w", err)
		}
		plural, known := plurals[o.GetKind()]
		if !known {
			return nil, errors.New("read defaults.yaml: kind " + o.GetKind() + " has no plural in install.go")
		}
		list = append(list, defaultObject{o.GroupVersionKind().GroupVersion().WithResource(plural), o})
	}
	return list, nil
}
