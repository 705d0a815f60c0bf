package app

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/gantryhq/gantry/internal/hint"
)

// imageList is gantry.yaml: what a folder of manifests needs beside them.
type imageList struct {
	Name      string       `json:"name"`      // of the application; default: the folder's
	Namespace string       `json:"namespace"` // for objects without one; default: the name
	Images    []imageEntry `json:"images"`
}

type imageEntry struct {
	Name       string            `json:"name"`       // as the manifests write it
	Context    string            `json:"context"`    // folder, relative to gantry.yaml
	Dockerfile string            `json:"dockerfile"` // relative to the context
	Target     string            `json:"target"`
	Args       map[string]string `json:"args"`
}

// kindOrder is the order of creation: what others refer to comes first.
var kindOrder = []string{
	"Namespace", "CustomResourceDefinition", "ResourceQuota", "LimitRange", "PriorityClass", "StorageClass",
	"ServiceAccount", "ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding", "Secret", "ConfigMap",
	"PersistentVolume", "PersistentVolumeClaim", "NetworkPolicy", "Service", "PodDisruptionBudget",
}

func loadManifests(app *Application, dir string, opt Options) error {
	list, err := readImageList(filepath.Join(dir, imagesFile))
	if err != nil {
		return err
	}
	app.Name = orDefault(opt.Name, orDefault(list.Name, filepath.Base(dir)))
	app.Namespace = dnsLabel(orDefault(list.Namespace, app.Name))
	if err := readObjects(app, dir); err != nil {
		return err
	}
	if len(app.Objects) == 0 {
		return hint.Wrap(fmt.Errorf("folder %s has neither compose.yaml nor a Kubernetes manifest", displayPath(dir)),
			"name a Compose file, or a folder with compose.yaml or Kubernetes manifests")
	}
	for i, entry := range list.Images {
		field := fmt.Sprintf("%s: images[%d]", displayPath(filepath.Join(dir, imagesFile)), i)
		if entry.Name == "" {
			return fmt.Errorf("%s.name: is missing: write the image as the manifests name it", field)
		}
		request := BuildRequest{
			Repository: repository(app.Namespace, entry.Name), Context: absIn(dir, orDefault(entry.Context, ".")),
			Target: entry.Target, Args: entry.Args,
		}
		request.Dockerfile = absIn(request.Context, orDefault(entry.Dockerfile, "Dockerfile"))
		if err := request.check(); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		if !app.uses(entry.Name) {
			app.warnf("%s: no manifest runs the image %q", field, entry.Name)
		}
		app.Images = append(app.Images, Image{Name: entry.Name, Build: request})
	}
	app.finishManifests()
	return nil
}

func readImageList(file string) (imageList, error) {
	var list imageList
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	if err != nil {
		return list, fmt.Errorf("read %s: %w", displayPath(file), err)
	}
	if err := yaml.UnmarshalStrict(content, &list); err != nil {
		return list, hint.Wrap(fmt.Errorf("%s: %w", displayPath(file), err), "it has name, namespace and images: [{name, context, dockerfile, target, args}]")
	}
	return list, nil
}

// readObjects reads every manifest in the folder itself, as kubectl apply -f does.
func readObjects(app *Application, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read folder %s: %w", displayPath(dir), err)
	}
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if e.IsDir() || e.Name() == imagesFile || ext != ".yaml" && ext != ".yml" && ext != ".json" {
			continue
		}
		file := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), "kustomization.") {
			return hint.Wrap(fmt.Errorf("%s: kustomizations are not read", displayPath(file)),
				"kubectl kustomize %s > DIR/all.yaml && gantry up DIR", displayPath(dir))
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read manifest: %w", err)
		}
		if err := readDocuments(app, displayPath(file), content); err != nil {
			return err
		}
	}
	return nil
}

// readDocuments splits a file at its "---" lines and remembers where each
// document begins.
func readDocuments(app *Application, file string, content []byte) error {
	var document []byte
	start := 1
	flush := func() error {
		defer func() { document = nil }()
		return readDocument(app, fmt.Sprintf("%s:%d", file, start), document)
	}
	number := 0
	for line := range bytes.Lines(content) {
		number++
		if bytes.HasPrefix(line, []byte("---")) {
			if err := flush(); err != nil {
				return err
			}
			start = number + 1
			continue
		}
		document = append(document, line...)
	}
	return flush()
}

func readDocument(app *Application, origin string, document []byte) error {
	var content map[string]any
	if err := yaml.UnmarshalStrict(document, &content); err != nil {
		return fmt.Errorf("%s: %w", origin, err)
	}
	if len(content) == 0 {
		return nil // only comments
	}
	u := &unstructured.Unstructured{Object: content}
	if u.IsList() {
		return u.EachListItem(func(item runtime.Object) error {
			return addManifest(app, origin, item.(*unstructured.Unstructured))
		})
	}
	return addManifest(app, origin, u)
}

func addManifest(app *Application, origin string, u *unstructured.Unstructured) error {
	switch {
	case u.GetAPIVersion() == "":
		return fmt.Errorf("%s: apiVersion is missing", origin)
	case u.GetKind() == "":
		return fmt.Errorf("%s: kind is missing", origin)
	case u.GetName() == "" && u.GetGenerateName() != "":
		return fmt.Errorf("%s: metadata.generateName: an object must have a fixed name, or it could not be found again", origin)
	case u.GetName() == "":
		return fmt.Errorf("%s: metadata.name is missing", origin)
	}
	for _, o := range app.Objects {
		if o.GroupVersionKind().GroupKind() == u.GroupVersionKind().GroupKind() && o.GetName() == u.GetName() && o.GetNamespace() == u.GetNamespace() {
			return fmt.Errorf("%s: %s is defined already at %s", origin, o, o.Origin)
		}
	}
	unstructured.RemoveNestedField(u.Object, "status")
	app.Objects = append(app.Objects, &Object{Unstructured: u, Origin: origin})
	return nil
}

// finishManifests labels and orders what was read. Scopes are known only to the
// server, so the namespace is filled in when deploying.
func (a *Application) finishManifests() {
	if !slices.ContainsFunc(a.Objects, func(o *Object) bool { return o.GetKind() == "Namespace" && o.GetName() == a.Namespace }) {
		o, err := toObject(&corev1.Namespace{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: a.Namespace},
		}, displayPath(a.Source))
		if err == nil { // a Namespace always converts
			a.Objects = append(a.Objects, o)
		}
	}
	for _, o := range a.Objects {
		o.SetLabels(merge(o.GetLabels(), map[string]string{labelPartOf: a.Namespace, labelManagedBy: managedBy}))
		o.SetAnnotations(merge(o.GetAnnotations(), map[string]string{annotationOrigin: fileOf(o.Origin)}))
		switch o.GetKind() {
		case "Namespace":
		case "CustomResourceDefinition":
			o.Wave, o.Await = 1, awaitReady
		default:
			o.Wave = 2
		}
	}
	rank := func(o *Object) int {
		if i := slices.Index(kindOrder, o.GetKind()); i >= 0 {
			return i
		}
		return len(kindOrder)
	}
	slices.SortStableFunc(a.Objects, func(x, y *Object) int { return rank(x) - rank(y) })
	slices.SortStableFunc(a.Objects, func(x, y *Object) int { return x.Wave - y.Wave })
}

// fileOf is the origin of an object without its line, which moves too easily to
// be kept in the cluster.
func fileOf(origin string) string {
	file, _, _ := strings.Cut(filepath.Base(origin), ":")
	return file
}

// repository is where an image goes in the built-in registry: under its own name
// when that has a folder, else under the application's.
func repository(namespace, image string) string {
	parts := strings.Split(image, "/")
	if len(parts) > 1 && (strings.ContainsAny(parts[0], ".:") || parts[0] == "localhost") {
		parts = parts[1:] // a registry's host
	}
	last := len(parts) - 1
	parts[last], _, _ = strings.Cut(parts[last], ":")
	for i := range parts {
		parts[i] = dnsLabel(parts[i])
	}
	if len(parts) == 1 {
		parts = append([]string{namespace}, parts...)
	}
	return strings.Join(parts, "/")
}
