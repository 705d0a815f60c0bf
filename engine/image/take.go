package image

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Take copies an image from another content store of this machine, unpacks it and records
// it under a name.
func (s *Store) Take(ctx context.Context, target ocispec.Descriptor, from content.Provider, name string) (*Image, error) {
	named, err := parseRef(name)
	if err != nil {
		return nil, err
	}
	ctx, done, err := s.lease(s.context(ctx))
	if err != nil {
		return nil, err
	}
	defer done()
	meter := newMeter(name, func(Progress) {})
	defer meter.stop()
	fetcher := remotes.FetcherFunc(func(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
		blob, err := from.ReaderAt(ctx, desc)
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{content.NewReader(blob), blob}, nil
	})
	fetch := images.Handlers(remotes.FetchHandler(s.content, fetcher), s.children())
	if err := s.unpackTree(ctx, fetch, meter, target); err != nil {
		return nil, fmt.Errorf("take image %q: %w", name, s.explainPlatform(ctx, target, err))
	}
	return s.record(ctx, named.String(), target)
}
