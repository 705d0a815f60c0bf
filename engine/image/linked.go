package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// linkLayer puts a layer that a registry of this machine has in a file into the content
// store, as a further name of that file: it is then neither sent nor kept twice. The
// fetch that follows finds it there. Whatever prevents that, another file system say,
// only makes the layer be fetched. What is in the file is checked when the layer is
// unpacked.
func (s *Store) linkLayer(name string) images.HandlerFunc {
	named, err := parseRef(name)
	if s.file == nil || err != nil {
		return func(context.Context, ocispec.Descriptor) ([]ocispec.Descriptor, error) { return nil, nil }
	}
	host, repository := reference.Domain(named), reference.Path(named)
	return func(_ context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if !images.IsLayerType(desc.MediaType) || desc.Digest.Validate() != nil {
			return nil, nil
		}
		path, ok := s.file(host, repository, desc.Digest)
		if !ok {
			return nil, nil
		}
		if err := s.link(path, desc); err != nil && !errors.Is(err, fs.ErrExist) {
			s.log.Debug("layer is fetched, not linked", "layer", desc.Digest, "err", err)
		}
		return nil, nil
	}
}

// link gives a file the name that the content store looks for.
func (s *Store) link(path string, desc ocispec.Descriptor) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != desc.Size {
		return errors.New("the file is not what the manifest describes")
	}
	dir := filepath.Join(s.dir, "content", "blobs", desc.Digest.Algorithm().String())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Link(path, filepath.Join(dir, desc.Digest.Encoded())); err != nil {
		return err
	}
	f, err := os.Open(dir) // a pull that returned is durable
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
