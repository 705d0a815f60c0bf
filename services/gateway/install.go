package gateway

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/crd"
)

// fieldManager owns what this package writes to the API.
const fieldManager = "gantry-gateway"

//go:embed crds/*.yaml
var crdFiles embed.FS

// EnsureCRDs installs the kinds that the gateway serves, of the Gateway API and of
// our own, and waits until the API serves them. It needs an administrator.
func EnsureCRDs(ctx context.Context, cfg *rest.Config) error {
	standard, err := fs.Sub(crdFiles, "crds")
	if err != nil {
		return fmt.Errorf("install Gateway API: %w", err)
	}
	var installing errgroup.Group
	for _, files := range []fs.FS{standard, v1alpha1.CRDs()} {
		installing.Go(func() error { return crd.Ensure(ctx, cfg, fieldManager, files) })
	}
	return installing.Wait()
}

// WriteKinds writes the definitions of those kinds as YAML documents.
func WriteKinds(w io.Writer) error {
	for _, files := range []fs.FS{crdFiles, v1alpha1.CRDs()} {
		err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			text, err := fs.ReadFile(files, path)
			if err == nil {
				_, err = fmt.Fprintf(w, "---\n%s\n", bytes.TrimPrefix(text, []byte("---\n")))
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("write the definitions of the gateway's kinds: %w", err)
		}
	}
	return nil
}

//go:embed defaults.yaml
var defaults []byte

// Defaults is what EnsureDefaults creates, as YAML documents.
func Defaults() []byte { return bytes.Clone(defaults) }

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
