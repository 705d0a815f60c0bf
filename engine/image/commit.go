package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// CommitOptions say what an image that is made of a kept root says of itself.
type CommitOptions struct {
	Name            string // under which it is recorded
	Config          any    // what becomes "config" of its configuration
	Author, Comment string
	CreatedBy       string
}

// Commit makes an image of a kept root: the layers below it and, as one more, what was
// written to it so far.
func (s *Store) Commit(ctx context.Context, kept string, o CommitOptions) (*Image, error) {
	named, err := parseRef(o.Name)
	if err != nil {
		return nil, err
	}
	r, err := readRoot(s.rootDir(kept))
	if err != nil {
		return nil, fmt.Errorf("commit root %s: %w", kept, fs.ErrNotExist)
	}
	base, err := s.Get(ctx, r.ImageDigest)
	if err != nil {
		return nil, err
	}
	ctx, done, err := s.lease(s.context(ctx))
	if err != nil {
		return nil, err
	}
	defer done()
	below, err := images.Manifest(ctx, s.content, base.target, s.platform)
	if err != nil {
		return nil, fmt.Errorf("commit image %q: %w", o.Name, err)
	}
	layer, err := s.writtenLayer(ctx, kept)
	if err != nil {
		return nil, fmt.Errorf("commit image %q: %w", o.Name, err)
	}
	img, err := s.onTop(ctx, &base.Config, below.Layers, layer, named.String(), o)
	if err != nil {
		return nil, fmt.Errorf("commit image %q: %w", o.Name, err)
	}
	return img, nil
}

// ImportRoot makes an image of one layer of an archive of a root directory, which may be
// compressed with gzip or zstd.
func (s *Store) ImportRoot(ctx context.Context, archive io.Reader, o CommitOptions) (*Image, error) {
	named, err := parseRef(o.Name)
	if err != nil {
		return nil, err
	}
	ctx, done, err := s.lease(s.context(ctx))
	if err != nil {
		return nil, err
	}
	defer done()
	layer, err := s.archivedLayer(ctx, archive)
	if err != nil {
		return nil, fmt.Errorf("import root directory as %q: %w", o.Name, err)
	}
	config := &ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	img, err := s.onTop(ctx, config, nil, layer, named.String(), o)
	if err != nil {
		return nil, fmt.Errorf("import root directory as %q: %w", o.Name, err)
	}
	return img, nil
}

// onTop makes and unpacks an image of some layers with one more.
func (s *Store) onTop(ctx context.Context, base *ocispec.Image, below []ocispec.Descriptor, layer ocispec.Descriptor, name string, o CommitOptions) (*Image, error) {
	target, err := s.writeImage(ctx, base, below, layer, o)
	if err != nil {
		return nil, err
	}
	meter := newMeter(o.Name, func(Progress) {})
	defer meter.stop()
	if err := s.unpackTree(ctx, images.Handlers(s.children()), meter, target); err != nil {
		return nil, err
	}
	return s.record(ctx, name, target)
}

// archivedLayer keeps an archive as a layer, compressed whatever it was.
func (s *Store) archivedLayer(ctx context.Context, archive io.Reader) (ocispec.Descriptor, error) {
	plain, err := compression.DecompressStream(archive)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer plain.Close()
	ref := "import-" + rand.Text()
	w, err := content.OpenWriter(ctx, s.content, content.WithRef(ref))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer w.Close()
	defer func() { _ = s.content.Abort(context.WithoutCancel(ctx), ref) }() // nothing to abort once it is committed
	packed, err := compression.CompressStream(w, compression.Gzip)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	diffID := digest.SHA256.Digester()
	_, err = io.Copy(packed, io.TeeReader(plain, diffID.Hash()))
	if err := errors.Join(err, packed.Close()); err != nil {
		return ocispec.Descriptor{}, err
	}
	status, err := w.Status()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: w.Digest(), Size: status.Offset}
	err = w.Commit(ctx, layer.Size, layer.Digest, content.WithLabels(map[string]string{labels.LabelUncompressed: diffID.Digest().String()}))
	return layer, ignoreExisting(err)
}

func ignoreExisting(err error) error {
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// writtenLayer makes a layer of what was written to a kept root. The root may be in use:
// it is looked at through a mount that only reads.
func (s *Store) writtenLayer(ctx context.Context, kept string) (ocispec.Descriptor, error) {
	layers, err := s.Layers(ctx, kept)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	below := overlayMount(layers, s.rootDir(kept), true)
	whole := overlayMount(append([]string{s.Written(kept)}, layers...), s.rootDir(kept), true)
	return walking.NewWalkingDiff(s.content).Compare(ctx, []mount.Mount{below}, []mount.Mount{whole}, diff.WithMediaType(ocispec.MediaTypeImageLayerGzip))
}

// writeImage writes configuration and manifest of base and its layers with one more.
func (s *Store) writeImage(ctx context.Context, base *ocispec.Image, below []ocispec.Descriptor, layer ocispec.Descriptor, o CommitOptions) (ocispec.Descriptor, error) {
	info, err := s.content.Info(ctx, layer.Digest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	now := time.Now().UTC()
	history := ocispec.History{Created: &now, CreatedBy: o.CreatedBy, Author: o.Author, Comment: o.Comment}
	config, err := s.writeBlob(ctx, ocispec.MediaTypeImageConfig, map[string]any{
		"created": now, "author": o.Author, "architecture": base.Architecture, "os": base.OS, "variant": base.Variant, "config": o.Config,
		"rootfs":  ocispec.RootFS{Type: "layers", DiffIDs: append(slices.Clip(base.RootFS.DiffIDs), digest.Digest(info.Labels[labels.LabelUncompressed]))},
		"history": append(slices.Clip(base.History), history),
	}, nil)
	if err != nil {
		return config, err
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config,
		Layers: append(slices.Clip(below), ocispec.Descriptor{MediaType: layer.MediaType, Digest: layer.Digest, Size: layer.Size})}
	refs := map[string]string{"containerd.io/gc.ref.content.config": config.Digest.String()}
	for i, l := range manifest.Layers {
		refs["containerd.io/gc.ref.content.l."+strconv.Itoa(i)] = l.Digest.String()
	}
	return s.writeBlob(ctx, ocispec.MediaTypeImageManifest, manifest, refs)
}

func (s *Store) writeBlob(ctx context.Context, mediaType string, v any, refs map[string]string) (ocispec.Descriptor, error) {
	blob, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	return desc, content.WriteBlob(ctx, s.content, "commit-"+desc.Digest.String(), bytes.NewReader(blob), desc, content.WithLabels(refs))
}
