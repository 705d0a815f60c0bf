package app

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestABuildIsRepeatedOnlyWhenItsInputsChange(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("Dockerfile", "FROM scratch\nCOPY src /src\n")
	write("src/main.go", "package main")
	write("notes/todo.txt", "nothing")
	write(".dockerignore", "notes\n!notes/keep.txt\n")
	request := BuildRequest{Repository: "demo/web", Context: dir, Dockerfile: filepath.Join(dir, "Dockerfile"), Args: map[string]string{"A": "1"}}
	bases := map[string]string{"registry/base": "sha256:1"}
	hash := func(r BuildRequest) string {
		t.Helper()
		h, err := r.inputHash(bases)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	before := hash(request)

	request.Progress = func(string) {}
	write("notes/todo.txt", "something")
	if hash(request) != before {
		t.Error("an ignored file or the progress callback changed the hash")
	}
	for what, change := range map[string]func() BuildRequest{
		"a source file":               func() BuildRequest { write("src/main.go", "package other"); return request },
		"a new file":                  func() BuildRequest { write("src/new.go", "package new"); return request },
		"an ignored file re-included": func() BuildRequest { write("notes/keep.txt", "x"); return request },
		"the Dockerfile":              func() BuildRequest { write("Dockerfile", "FROM scratch\n"); return request },
		"an argument":                 func() BuildRequest { r := request; r.Args = map[string]string{"A": "2"}; return r },
		"the target stage":            func() BuildRequest { r := request; r.Target = "test"; return r },
		"the base image":              func() BuildRequest { bases = map[string]string{"registry/base": "sha256:2"}; return request },
	} {
		last := hash(request)
		if hash(change()) == last {
			t.Errorf("%s changed, the hash did not", what)
		}
	}
}

func TestPinningReplacesExactlyTheImagesThatWereBuilt(t *testing.T) {
	deployment := func(images ...any) *Object {
		var containers []any
		for _, image := range images {
			containers = append(containers, map[string]any{"image": image})
		}
		return &Object{Unstructured: &unstructured.Unstructured{Object: map[string]any{
			"kind": "Deployment", "metadata": map[string]any{"name": "web"},
			"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"containers": containers}}},
		}}}
	}
	a := &Application{Objects: []*Object{deployment("shop/web", "shop/web:v1", "shop/web-admin", "other/shop/web", "shop/web:5000/x")}}
	if err := a.pin(map[string]string{"shop/web": "reg/shop/web@sha256:abc"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	a.eachImage(func(image string) string { got = append(got, image); return image })
	want := []string{"reg/shop/web@sha256:abc", "reg/shop/web@sha256:abc", "shop/web-admin", "other/shop/web", "shop/web:5000/x"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("image %d: got %s, want %s", i, got[i], want[i])
		}
	}
}

func TestAJobRunsAgainWhenItsTemplateChangesAndOnlyThen(t *testing.T) {
	name := func(image, ref string) string {
		o := &Object{Unstructured: &unstructured.Unstructured{Object: map[string]any{
			"kind": "Job", "metadata": map[string]any{"name": "migrate", "annotations": map[string]any{annotationRerun: "true"}},
			"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"image": image}}}}},
		}}}
		if err := (&Application{Objects: []*Object{o}}).pin(map[string]string{image: ref}); err != nil {
			t.Fatal(err)
		}
		return o.GetName()
	}
	first := name("demo/migrate", "r@sha256:1")
	if again := name("demo/migrate", "r@sha256:1"); again != first {
		t.Errorf("unchanged, yet %s became %s", first, again)
	}
	if changed := name("demo/migrate", "r@sha256:2"); changed == first {
		t.Errorf("changed, yet still %s", first)
	}
}
