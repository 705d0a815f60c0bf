package conformance

import (
	"bytes"
	"io/fs"
	"os"
	"testing"
	"time"

	"sigs.k8s.io/gateway-api/conformance"
)

// TestConformance runs the suite with what KUBECONFIG and the suite's own flags
// say. Images are taken from the registry GATEWAY_CONFORMANCE_REGISTRY.
func TestConformance(t *testing.T) {
	registry := os.Getenv("GATEWAY_CONFORMANCE_REGISTRY")
	if registry == "" {
		t.Skip("test/conformance-gateway/run starts an instance and sets GATEWAY_CONFORMANCE_REGISTRY")
	}
	options := conformance.DefaultOptions(t)
	options.ManifestFS = []fs.FS{manifests{conformance.Manifests, registry}}
	conformance.RunConformanceWithOptions(t, options)
}

// manifests are the suite's, with images of the instance's registry: others
// cannot be reached.
type manifests struct {
	fs.FS
	registry string
}

// Open reads a manifest.
func (m manifests) Open(name string) (fs.File, error) {
	text, err := fs.ReadFile(m.FS, name)
	if err != nil {
		return nil, err
	}
	text = bytes.ReplaceAll(text, []byte("image: registry.k8s.io/"), []byte("image: "+m.registry+"/"))
	return &file{Reader: bytes.NewReader(text), name: name, size: int64(len(text))}, nil
}

// file is a manifest in memory; it is its own description.
type file struct {
	*bytes.Reader
	name string
	size int64
}

func (f *file) Stat() (fs.FileInfo, error) { return f, nil }
func (f *file) Close() error               { return nil }
func (f *file) Name() string               { return f.name }
func (f *file) Size() int64                { return f.size }
func (f *file) Mode() fs.FileMode          { return 0o444 }
func (f *file) ModTime() time.Time         { return time.Time{} }
func (f *file) IsDir() bool                { return false }
func (f *file) Sys() any                   { return nil }
