package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Import reads an image archive, in the OCI layout or as `docker save` writes
// it, unpacks its images and records them under the names in the archive.
// An image without a name needs one: pass it as name, "" otherwise.
func (s *Store) Import(ctx context.Context, r io.Reader, name string, progress func(Progress)) ([]*Image, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	ctx, done, err := s.lease(s.context(ctx))
	if err != nil {
		return nil, err
	}
	defer done()
	meter := newMeter(name, progress)
	defer meter.stop()

	index, err := archive.ImportIndex(ctx, s.content, r)
	if err != nil {
		return nil, fmt.Errorf("import images: read archive: %w", err)
	}
	blob, err := content.ReadBlob(ctx, s.content, index)
	if err != nil {
		return nil, fmt.Errorf("import images: read index: %w", err)
	}
	var idx ocispec.Index
	if err := json.Unmarshal(blob, &idx); err != nil {
		return nil, fmt.Errorf("import images: read index: %w", err)
	}
	var imported []*Image
	for _, target := range idx.Manifests {
		img, err := s.importOne(ctx, target, name, meter)
		if err != nil {
			return imported, fmt.Errorf("import images: %w", err)
		}
		imported = append(imported, img)
	}
	if len(imported) == 0 {
		return nil, errors.New("import images: the archive holds none")
	}
	meter.finish()
	return imported, nil
}

func (s *Store) importOne(ctx context.Context, target ocispec.Descriptor, fallback string, meter *meter) (*Image, error) {
	name := target.Annotations[images.AnnotationImageName]
	if name == "" {
		name = target.Annotations[ocispec.AnnotationRefName]
	}
	if _, err := parseRef(name); name == "" || err != nil {
		name = fallback // a bare tag, or nothing
	}
	if name == "" {
		return nil, fmt.Errorf("image %s in the archive has no name: say under which name to keep it", target.Digest)
	}
	named, err := parseRef(name)
	if err != nil {
		return nil, err
	}
	target.Annotations = nil // they are about the archive, not the image
	if err := s.unpackTree(ctx, images.Handlers(s.children()), meter, target); err != nil {
		return nil, fmt.Errorf("unpack %q: %w", name, s.explainPlatform(ctx, target, err))
	}
	return s.record(ctx, named.String(), target)
}

// Export writes images as an archive that both `docker load` and OCI tools read.
func (s *Store) Export(ctx context.Context, w io.Writer, refs ...string) error {
	if len(refs) == 0 {
		return errors.New("export images: no image named")
	}
	opts := []archive.ExportOpt{archive.WithPlatform(s.platform), archive.WithSkipMissing(s.content)}
	for _, ref := range refs {
		img, err := s.Get(ctx, ref)
		if err != nil {
			return fmt.Errorf("export images: %w", err)
		}
		opts = append(opts, archive.WithImages([]images.Image{{Name: img.Name, Target: img.target}}))
	}
	if err := archive.Export(s.context(ctx), s.content, w, opts...); err != nil {
		return fmt.Errorf("export images: %w", err)
	}
	return nil
}
