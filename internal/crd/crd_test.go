package crd

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// definitions is a server that knows definitions and serves a kind a while after
// its definition was applied, as real ones do.
type definitions struct {
	mu      sync.Mutex
	hashes  map[string]string // by name
	applied []string
	asked   int // for the kinds of the group since the last one was applied
}

func (d *definitions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	meta := func(name string) metav1.PartialObjectMetadata {
		return metav1.PartialObjectMetadata{
			TypeMeta:   metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadata"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{hashAnnotation: d.hashes[name]}},
		}
	}
	var answer any
	switch name := strings.TrimPrefix(r.URL.Path, path+"/"); {
	case r.Method == http.MethodPatch:
		body, _ := io.ReadAll(r.Body)
		_, after, _ := strings.Cut(string(body), hashAnnotation+": ")
		d.hashes[name], _, _ = strings.Cut(after, "\n")
		d.applied, d.asked = append(d.applied, name), 0
		answer = meta(name)
	case r.URL.Path == path:
		list := metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadataList"}}
		for name := range d.hashes {
			list.Items = append(list.Items, meta(name))
		}
		answer = list
	case r.URL.Path == "/apis/example.org" && d.asked > 2:
		answer = metav1.APIGroup{TypeMeta: metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}, Name: "example.org",
			Versions: []metav1.GroupVersionForDiscovery{{GroupVersion: "example.org/v1", Version: "v1"}}}
	case r.URL.Path == "/apis/example.org/v1":
		list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "example.org/v1"}
		for name := range d.hashes {
			plural, _, _ := strings.Cut(name, ".")
			list.APIResources = append(list.APIResources, metav1.APIResource{Name: plural})
		}
		answer = list
	default:
		d.asked++
		http.NotFound(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func file(name, rest string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte("metadata:\n  annotations:\n    by: hand\n  name: " + name + ".example.org\n" + rest)}
}

func TestDefinitionsAreInstalledOnceAndAwaited(t *testing.T) {
	d := &definitions{hashes: map[string]string{}}
	server := httptest.NewServer(d)
	defer server.Close()
	ensure := func(files fstest.MapFS) []string {
		t.Helper()
		d.applied, d.asked = nil, 3 // what is there is served
		if len(d.hashes) == 0 {
			d.asked = 0
		}
		if err := Ensure(t.Context(), &rest.Config{Host: server.URL}, "test", files); err != nil {
			t.Fatal(err)
		}
		return d.applied
	}
	files := fstest.MapFS{"a.yaml": file("gadgets", ""), "b.yaml": file("gizmos", ""), "README.md": file("readme", "")}
	if applied := ensure(files); len(applied) != 2 {
		t.Errorf("applied %v, want both", applied)
	}
	if d.asked <= 2 {
		t.Error("it did not wait until the kinds were served")
	}
	if applied := ensure(files); len(applied) != 0 {
		t.Errorf("applied %v again", applied)
	}
	files["b.yaml"] = file("gizmos", "spec: {}\n")
	if applied := ensure(files); len(applied) != 1 || applied[0] != "gizmos.example.org" {
		t.Errorf("applied %v, want the one that changed", applied)
	}
	files["c.yaml"] = &fstest.MapFile{Data: []byte("kind: ConfigMap\n")}
	if err := Ensure(t.Context(), &rest.Config{Host: server.URL}, "test", files); err == nil || !strings.Contains(err.Error(), "c.yaml") {
		t.Errorf("got %v, want an error that names c.yaml", err)
	}
}
