package app

import (
	"context"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

const (
	// FieldManager owns the fields that gantry up sets.
	FieldManager = "gantry-up"

	labelName      = "app.kubernetes.io/name"
	labelPartOf    = "app.kubernetes.io/part-of"
	labelManagedBy = "app.kubernetes.io/managed-by"
	managedBy      = "gantry"

	// annotationOrigin says which file and field an object comes from.
	annotationOrigin = "gantry.dev/origin"
	// annotationRerun marks a Job whose name gets a hash of its template, so
	// that a changed one runs again under a new name: Job templates are immutable.
	annotationRerun = "gantry.dev/rerun-when-changed"
)

// Application is what Load read: complete, validated as far as that goes without
// a server, and not yet built.
type Application struct {
	Name      string
	Namespace string
	Source    string // the path that was loaded, absolute
	Images    []Image
	Objects   []*Object
	// ImageChanges are all there is to deploy when there are some: then there are no Objects.
	ImageChanges []ImageChange
	// Warnings say what has no effect here, each naming file and field.
	Warnings []string
}

// Image is one image to build before the application can run.
type Image struct {
	Name  string // how the manifests refer to it: replaced by the pinned reference
	Build BuildRequest
}

// BuildRequest says what to build and where to put it.
type BuildRequest struct {
	Repository       string // path in the registry, "shop/storefront"
	Context          string // absolute directory
	Dockerfile       string // absolute file
	DockerfileInline string // instead of Dockerfile
	Target           string
	Args             map[string]string
	Labels           map[string]string
	Contexts         map[string]string // additional contexts by name
	Secrets          map[string][]byte // by id
	NoCache          bool
	// Progress, when set, receives what the build is doing now: one short line.
	Progress func(step string)
}

// Builder makes images and puts them into the registry the cluster pulls from.
type Builder interface {
	// Build builds and pushes, and returns "registry/repository@sha256:...".
	// Equal input gives an equal digest.
	Build(ctx context.Context, r BuildRequest) (string, error)
	// Base returns a digest for each of the Dockerfile's base images that can
	// change without the build context changing, so that a new base is noticed.
	// It prepares those which can be prepared.
	Base(ctx context.Context, r BuildRequest) (map[string]string, error)
	// Has reports whether the registry still holds a reference Build returned.
	Has(ctx context.Context, digestRef string) (bool, error)
}

// Object is one Kubernetes object of the application.
type Object struct {
	*unstructured.Unstructured
	Origin string // file and field, for messages
	Wave   int    // objects of a lower wave are applied first
	Await  await  // what later waves need of it
}

// await is the state of a workload on which others depend (depends_on).
type await int

const (
	awaitNothing await = iota
	awaitStarted
	awaitReady
	awaitComplete
)

func (o *Object) String() string {
	return strings.ToLower(o.GetKind()) + "/" + o.GetName()
}

// toObject converts a typed object, leaving out what only the server writes.
func toObject(typed runtime.Object, origin string) (*Object, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	if err != nil {
		return nil, fmt.Errorf("%s: convert %T: %w", origin, typed, err)
	}
	u := &unstructured.Unstructured{Object: content}
	unstructured.RemoveNestedField(u.Object, "status")
	removeNull(u.Object)
	return &Object{Unstructured: u, Origin: origin}, nil
}

// removeNull drops null values and empty maps that typed objects leave behind
// (creationTimestamp, resources, strategy), which would otherwise become fields
// that gantry owns.
func removeNull(m map[string]any) {
	for k, v := range m {
		switch v := v.(type) {
		case nil:
			delete(m, k)
		case map[string]any:
			removeNull(v)
			if len(v) == 0 && k != "emptyDir" {
				delete(m, k)
			}
		case []any:
			for _, e := range v {
				if e, ok := e.(map[string]any); ok {
					removeNull(e)
				}
			}
		}
	}
}

func (a *Application) warnf(format string, args ...any) {
	a.Warnings = append(a.Warnings, fmt.Sprintf(format, args...))
}

// Write prints the objects as one YAML stream, as kubectl apply -f - reads it.
// Images that are built are written under their unpinned names.
func (a *Application) Write(out io.Writer) error {
	for _, o := range a.Objects {
		content, err := yaml.Marshal(o.Object)
		if err != nil {
			return fmt.Errorf("%s: %w", o.Origin, err)
		}
		if _, err := fmt.Fprintf(out, "---\n# %s\n%s", o.Origin, content); err != nil {
			return fmt.Errorf("write %s: %w", o, err)
		}
	}
	return nil
}
