package app

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/gantryhq/gantry/internal/hint"
)

var update = flag.Bool("update", false, "rewrite the expectations in testdata from what the code does")

// Each testdata/*.txtar is one story: an application as people write it, and
// what becomes of it: objects and warnings, or the error.
func TestTranslation(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories in testdata: %v", err)
	}
	for _, file := range files {
		absolute, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { translate(t, absolute) })
	}
}

func translate(t *testing.T, file string) {
	story, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "demo")
	var inputs []txtar.File
	want := map[string]string{}
	for _, f := range story.Files {
		if strings.HasPrefix(f.Name, "want") {
			want[f.Name] = string(f.Data)
			continue
		}
		inputs = append(inputs, f)
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	var profiles []string
	for line := range strings.Lines(string(story.Comment)) {
		if names, ok := strings.CutPrefix(strings.TrimSpace(line), "profiles: "); ok {
			profiles = strings.Fields(names)
		}
	}
	got := outcome(t, dir, profiles)
	if *update {
		story.Files = inputs
		for _, name := range []string{"want.error", "want.warnings", "want.images", "want.yaml"} {
			if got[name] != "" {
				story.Files = append(story.Files, txtar.File{Name: name, Data: []byte(got[name])})
			}
		}
		if err := os.WriteFile(file, txtar.Format(story), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, name := range []string{"want.error", "want.warnings", "want.images", "want.yaml"} {
		if got[name] != want[name] {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got[name], want[name])
		}
	}
}

func outcome(t *testing.T, dir string, profiles []string) map[string]string {
	app, err := Load(context.Background(), dir, Options{Profiles: profiles, Env: []string{"FROM_SHELL=yes", "DB_PASSWORD=secret"}})
	plain := func(text string) string { return strings.ReplaceAll(text, dir, "/demo") }
	if err != nil {
		text := "error: " + err.Error() + "\n"
		if h := hint.Of(err); h != "" {
			text += "hint: " + h + "\n"
		}
		return map[string]string{"want.error": plain(text)}
	}
	var objects, images bytes.Buffer
	for _, o := range app.Objects {
		content, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		header := "--- # wave " + string(rune('0'+o.Wave))
		if o.Await != awaitNothing {
			header += ", others wait until " + [...]string{"", "started", "ready", "complete"}[o.Await]
		}
		objects.WriteString(header + "\n" + string(content))
	}
	for _, image := range app.Images {
		content, err := yaml.Marshal(image)
		if err != nil {
			t.Fatal(err)
		}
		images.WriteString("---\n" + string(content))
	}
	var warnings string
	for _, w := range app.Warnings {
		warnings += w + "\n"
	}
	return map[string]string{"want.warnings": plain(warnings), "want.yaml": plain(objects.String()), "want.images": plain(images.String())}
}
