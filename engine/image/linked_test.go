package image

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	digest "github.com/opencontainers/go-digest"

	"github.com/gantryhq/gantry/internal/testenv"
)

func TestALayerInAFileOfThisMachineIsLinkedInsteadOfFetched(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	here, lying, elsewhere := layer(t, file("a", strings.Repeat("a", 1<<16))), layer(t, file("b", "bb")), layer(t, file("c", "cc"))
	ref := reg.push(t, "shop/cart:1", image(t, here, lying, elsewhere))
	data := tempDir(t)
	files := map[string]string{
		hexOf(t, here): contentFile(t, data, "here", here), hexOf(t, lying): filepath.Join(data, "lying"),
	}
	must(t, os.WriteFile(files[hexOf(t, lying)], []byte("of another size"), 0o644))
	s, err := Open(Config{DataDir: data, File: func(host, repository string, d digest.Digest) (string, bool) {
		path, ok := files[d.Encoded()]
		return path, ok && host == reg.host && repository == "shop/cart"
	}})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	if _, err := s.Pull(context.Background(), ref, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	root := mountRoot(t, s, "c-0", ref)
	if read(t, root, "a") != strings.Repeat("a", 1<<16) || read(t, root, "b") != "bb" || read(t, root, "c") != "cc" {
		t.Error("the root directory has something else")
	}
	for name, l := range map[string]v1.Layer{"here": here, "lying": lying, "elsewhere": elsewhere} {
		if got, want := reg.fetched("sha256:"+hexOf(t, l)), name != "here"; (got > 0) != want {
			t.Errorf("layer %s was fetched %d times", name, got)
		}
	}
	kept, err := os.Stat(filepath.Join(s.dir, "content/blobs/sha256", hexOf(t, here)))
	must(t, err)
	source, err := os.Stat(files[hexOf(t, here)])
	must(t, err)
	if !os.SameFile(kept, source) {
		t.Error("the layer is there twice")
	}
	must(t, os.Remove(files[hexOf(t, here)])) // the registry collects its name
	must(t, s.Unmount(context.Background(), "c-0"))
	if got := read(t, mountRoot(t, s, "c-1", ref), "c"); got != "cc" {
		t.Errorf("after the file has gone: %q", got)
	}
}

// fetched counts the requests for a blob.
func (r *testRegistry) fetched(d string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gets[d]
}

func hexOf(t *testing.T, l v1.Layer) string {
	t.Helper()
	d, err := l.Digest()
	must(t, err)
	return d.Hex
}

// contentFile writes a layer to a file.
func contentFile(t *testing.T, dir, name string, l v1.Layer) string {
	t.Helper()
	rc, err := l.Compressed()
	must(t, err)
	defer rc.Close()
	raw, err := io.ReadAll(rc)
	must(t, err)
	path := filepath.Join(dir, name)
	must(t, os.WriteFile(path, raw, 0o644))
	return path
}
