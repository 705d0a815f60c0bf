package image

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ConfigBlob is an image's configuration as it was written, with what others than the OCI
// have added to it.
func (s *Store) ConfigBlob(ctx context.Context, img *Image) ([]byte, error) {
	ctx = s.context(ctx)
	manifest, err := images.Manifest(ctx, s.content, img.target, s.platform)
	if err != nil {
		return nil, fmt.Errorf("read manifest of image %q: %w", img.Name, err)
	}
	blob, err := content.ReadBlob(ctx, s.content, manifest.Config)
	if err != nil {
		return nil, fmt.Errorf("read configuration of image %q: %w", img.Name, err)
	}
	return blob, nil
}

// LayerSizes are the bytes on disk of an image's layers, lowest first. One that is not
// unpacked counts for nothing.
func (s *Store) LayerSizes(ctx context.Context, img *Image) ([]int64, error) {
	ctx = s.context(ctx)
	sizes := make([]int64, len(img.Config.RootFS.DiffIDs))
	for i := range sizes {
		if u, err := s.snaps.Usage(ctx, identity.ChainID(img.Config.RootFS.DiffIDs[:i+1]).String()); err == nil {
			sizes[i] = u.Size
		}
	}
	return sizes, nil
}

// PushDigest is [Store.Push] that also tells what the registry has got: the digest and
// the size of the manifest.
func (s *Store) PushDigest(ctx context.Context, ref, name string, opt PullOptions) (digest string, size int64, err error) {
	if err := s.Push(ctx, ref, name, opt); err != nil {
		return "", 0, err
	}
	img, err := s.Get(ctx, ref)
	if err != nil {
		return "", 0, err
	}
	target, err := s.complete(s.context(ctx), img.target)
	return target.Digest.String(), target.Size, err
}

// Resolve asks a registry what a name stands for, and for which platforms.
func (s *Store) Resolve(ctx context.Context, ref string, keys Keychain) (ocispec.Descriptor, []ocispec.Platform, error) {
	named, err := parseRef(ref)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	ctx = s.context(ctx)
	_, target, err := s.resolver(ctx, keys).Resolve(ctx, named.String())
	if err != nil {
		return target, nil, explain("look up", ref, reference.Domain(named), err)
	}
	return target, nil, nil
}
