package image

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
)

// Push sends an image to the registry that name says, under that name. Of a
// multi-platform image of which only this machine's platform is here, that one
// is sent. Errors are [*Error].
func (s *Store) Push(ctx context.Context, ref, name string, opt PullOptions) error {
	named, err := parseRef(name)
	if err != nil {
		return err
	}
	img, err := s.Get(ctx, ref)
	if err != nil {
		return err
	}
	ctx, done, err := s.lease(s.context(ctx))
	if err != nil {
		return err
	}
	defer done()
	report := opt.Progress
	if report == nil {
		report = func(Progress) {}
	}
	meter := newMeter(named.String(), report)
	defer meter.stop()
	if err := s.push(ctx, img, named.String(), opt.Keychain, meter); err != nil {
		return explain("push", name, reference.Domain(named), err)
	}
	meter.finish()
	return nil
}

func (s *Store) push(ctx context.Context, img *Image, name string, keys Keychain, meter *meter) error {
	target, err := s.complete(ctx, img.target)
	if err != nil {
		return err
	}
	pusher, err := s.resolver(ctx, keys).Pusher(ctx, name)
	if err != nil {
		return err
	}
	return remotes.PushContent(ctx, meter.pusher(pusher), target, s.content,
		semaphore.NewWeighted(parallelDownloads), platforms.All, nil)
}

// complete returns target when all of it is here, else this platform's part.
func (s *Store) complete(ctx context.Context, target ocispec.Descriptor) (ocispec.Descriptor, error) {
	if !images.IsIndexType(target.MediaType) {
		return target, nil
	}
	if whole, _, _, _, err := images.Check(ctx, s.content, target, platforms.All); err == nil && whole {
		return target, nil
	}
	children, err := s.children().Handle(ctx, target)
	if err != nil {
		return target, err
	}
	if len(children) == 0 {
		return target, fmt.Errorf("%w: this machine is %s", ErrPlatform, platformName())
	}
	return children[0], nil
}

// pusher counts what p transfers.
func (m *meter) pusher(p remotes.Pusher) remotes.Pusher {
	return remotes.PusherFunc(func(ctx context.Context, desc ocispec.Descriptor) (content.Writer, error) {
		w, err := p.Push(ctx, desc)
		if err != nil || !images.IsLayerType(desc.MediaType) {
			return w, err
		}
		m.start(desc)
		return countingWriter{Writer: w, add: func(n int64) { m.add(desc, n) }}, nil
	})
}

type countingWriter struct {
	content.Writer
	add func(int64)
}

func (w countingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if n > 0 {
		w.add(int64(n))
	}
	return n, err
}
