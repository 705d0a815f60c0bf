package pipeline

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/app"
)

func TestWhatARepositoryBuildsIsConfined(t *testing.T) {
	parent := t.TempDir()
	checkout := filepath.Join(parent, "checkout")
	for _, dir := range []string{"web/sub", "../secret"} {
		if err := os.MkdirAll(filepath.Join(checkout, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"web/Dockerfile", "../secret/Dockerfile"} {
		if err := os.WriteFile(filepath.Join(checkout, file), []byte("FROM scratch"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"out": "../secret", "absolute": filepath.Join(parent, "secret"), "web/inner": "../web", "web/Dockerfile.out": "../../secret/Dockerfile"} {
		if err := os.Symlink(target, filepath.Join(checkout, link)); err != nil {
			t.Fatal(err)
		}
	}
	r := &run{build: &v1alpha1.Build{}, checkout: checkout}
	r.build.Namespace = "shop"
	for _, c := range []struct{ repository, context, dockerfile, want, refused string }{
		{"cart", "/web", "/web/Dockerfile", "shop/cart", ""},
		{"shop/cart", "/web", "/web/Dockerfile", "shop/cart", ""},
		{"cart", "/web/inner", "/web/inner/Dockerfile", "shop/cart", ""}, // a link that stays inside
		{"base/debian", "/web", "/web/Dockerfile", "", "is not below shop/"},
		{"shopping/cart", "/web", "/web/Dockerfile", "", "is not below shop/"},
		{"cart", "/out", "/out/Dockerfile", "", "leads out"},
		{"cart", "/absolute", "/absolute/Dockerfile", "", "leads out"},
		{"cart", "/web", "/web/Dockerfile.out", "", "leads out"},
		{"cart", "/web", "/web/none", "", "has no web/none"},
		{"cart", "/../secret", "/web/Dockerfile", "", "has no secret"},
	} {
		got, err := r.confine(app.BuildRequest{Repository: c.repository, Context: c.context, Dockerfile: c.dockerfile})
		switch {
		case c.refused == "" && err != nil:
			t.Errorf("%+v: %v", c, err)
		case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%+v: got %v", c, err)
		case c.refused == "" && (got.Repository != c.want || !strings.HasPrefix(got.Context, checkout+"/") || !strings.HasPrefix(got.Dockerfile, checkout+"/")):
			t.Errorf("%+v: %+v", c, got)
		}
	}
}
