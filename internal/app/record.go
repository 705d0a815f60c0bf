package app

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The record is a ConfigMap in the application's namespace. It holds which
// objects gantry up made, so that those no longer declared can be deleted, and
// which build inputs gave which image, so that nothing is built twice.
const (
	recordName  = "gantry-application"
	recordLabel = "gantry.dev/application"
	recordKey   = "record.json"
)

type record struct {
	Name    string           `json:"name"`
	Source  string           `json:"source"`
	Objects []objectRef      `json:"objects"`
	Builds  map[string]built `json:"builds,omitempty"` // by repository

	version string // resourceVersion, "" when there is no record yet
}

type objectRef struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
}

type built struct {
	Input string `json:"input"` // BuildRequest.inputHash
	Ref   string `json:"ref"`   // registry/repository@digest
}

func (r objectRef) object() *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(r.APIVersion)
	u.SetKind(r.Kind)
	u.SetNamespace(r.Namespace)
	u.SetName(r.Name)
	return u
}

func (r objectRef) String() string { return strings.ToLower(r.Kind) + "/" + r.Name }

func (r objectRef) holdsData() bool {
	return r.Kind == "PersistentVolumeClaim" || r.Kind == "PersistentVolume"
}

// same ignores the version: apps/v1beta1 and apps/v1 name the same object.
func (r objectRef) same(o objectRef) bool {
	group := func(apiVersion string) string {
		if g, _, ok := strings.Cut(apiVersion, "/"); ok {
			return g
		}
		return ""
	}
	return group(r.APIVersion) == group(o.APIVersion) && r.Kind == o.Kind && r.Namespace == o.Namespace && r.Name == o.Name
}

func (c *cluster) refs(app *Application) ([]objectRef, error) {
	var refs []objectRef
	for _, o := range app.Objects {
		ref := objectRef{APIVersion: o.GetAPIVersion(), Kind: o.GetKind(), Name: o.GetName(), Namespace: o.GetNamespace()}
		r, err := c.resource(o.GroupVersionKind())
		switch {
		case err != nil: // a kind that the application brings: assume the usual scope
			ref.Namespace = orDefault(ref.Namespace, app.Namespace)
		case !r.Namespaced:
			ref.Namespace = ""
		default:
			ref.Namespace = orDefault(ref.Namespace, app.Namespace)
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// readRecord returns an empty record when there is none.
func (c *cluster) readRecord(ctx context.Context, namespace string) (*record, error) {
	cm, err := c.kube.CoreV1().ConfigMaps(namespace).Get(ctx, recordName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &record{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of %s: %w", namespace, explainConnection(err))
	}
	return parseRecord(cm)
}

func parseRecord(cm *corev1.ConfigMap) (*record, error) {
	r := &record{version: cm.ResourceVersion}
	if err := json.Unmarshal([]byte(cm.Data[recordKey]), r); err != nil {
		return nil, fmt.Errorf("configmap %s/%s is not a record of gantry: %w", cm.Namespace, cm.Name, err)
	}
	return r, nil
}

// writeRecord stores r and refuses to overwrite one that changed meanwhile:
// two deployments of one application at a time would undo each other.
func (c *cluster) writeRecord(ctx context.Context, namespace string, r *record) error {
	content, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", namespace, err)
	}
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Name: recordName, Namespace: namespace, ResourceVersion: r.version,
			Labels: map[string]string{recordLabel: namespace, labelPartOf: namespace, labelManagedBy: managedBy},
		},
		Data: map[string]string{recordKey: string(content)},
	}
	configMaps := c.kube.CoreV1().ConfigMaps(namespace)
	if r.version == "" {
		cm, err = configMaps.Create(ctx, cm, metav1.CreateOptions{FieldManager: FieldManager})
	} else {
		cm, err = configMaps.Update(ctx, cm, metav1.UpdateOptions{FieldManager: FieldManager})
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("another gantry up or down is working on %s: %w", namespace, err)
	}
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", namespace, err)
	}
	r.version = cm.ResourceVersion
	return nil
}

// union keeps the order of a and appends what only b has.
func union(a, b []objectRef) []objectRef {
	out := slices.Clone(a)
	for _, ref := range b {
		if !slices.ContainsFunc(a, ref.same) {
			out = append(out, ref)
		}
	}
	return out
}

// missing are the refs of a that b does not have.
func missing(a, b []objectRef) []objectRef {
	return slices.DeleteFunc(slices.Clone(a), func(ref objectRef) bool { return slices.ContainsFunc(b, ref.same) })
}
