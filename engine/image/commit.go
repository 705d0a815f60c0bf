package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
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
	layer, err := s.writtenLayer(ctx, kept)
	if err == nil {
		var target ocispec.Descriptor
		if target, err = s.writeImage(ctx, base, layer, o); err == nil {
			meter := newMeter(o.Name, func(Progress) {})
			defer meter.stop()
			err = s.unpackTree(ctx, images.Handlers(s.children()), meter, target)
		}
		if err == nil {
			return s.record(ctx, named.String(), target)
		}
	}
	return nil, fmt.Errorf("commit image %q: %w", o.Name, err)
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

// writeImage writes configuration and manifest of base with one more layer.
func (s *Store) writeImage(ctx context.Context, base *Image, layer ocispec.Descriptor, o CommitOptions) (ocispec.Descriptor, error) {
	info, err := s.content.Info(ctx, layer.Digest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	old, err := images.Manifest(ctx, s.content, base.target, s.platform)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	now := time.Now().UTC()
	history := ocispec.History{Created: &now, CreatedBy: o.CreatedBy, Author: o.Author, Comment: o.Comment}
	config, err := s.writeBlob(ctx, ocispec.MediaTypeImageConfig, map[string]any{
		"created": now, "author": o.Author, "architecture": base.Config.Architecture, "os": base.Config.OS, "variant": base.Config.Variant, "config": o.Config,
		"rootfs":  ocispec.RootFS{Type: "layers", DiffIDs: append(base.Config.RootFS.DiffIDs[:len(base.Config.RootFS.DiffIDs):len(base.Config.RootFS.DiffIDs)], digest.Digest(info.Labels[labels.LabelUncompressed]))},
		"history": append(base.Config.History[:len(base.Config.History):len(base.Config.History)], history),
	}, nil)
	if err != nil {
		return config, err
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config,
		Layers: append(old.Layers[:len(old.Layers):len(old.Layers)], ocispec.Descriptor{MediaType: layer.MediaType, Digest: layer.Digest, Size: layer.Size})}
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
