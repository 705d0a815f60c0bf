package image

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
)

const (
	parallelDownloads = 4 // per pull
	parallelUnpacks   = 2 // per pull; unpacking is bound by CPU and disk
)

// PullOptions are what a caller may say about one pull.
type PullOptions struct {
	Keychain Keychain       // asked before the store's own
	Progress func(Progress) // called from one goroutine at a time, must not block
}

// Pull fetches ref ("nginx", "127.0.0.1:5000/shop/cart:2", "repo@sha256:...")
// from its registry, unpacks it, and records it under its name. Layers that are
// already here are not fetched again. Errors are [*Error].
func (s *Store) Pull(ctx context.Context, ref string, opt PullOptions) (*Image, error) {
	named, err := parseRef(ref)
	if err != nil {
		return nil, err
	}
	ctx = s.context(ctx)
	host := reference.Domain(named)
	img, err := s.pulls.do(ctx, s.flightKey(named, host, opt.Keychain), opt.Progress,
		func(ctx context.Context, progress func(Progress)) (*Image, error) {
			return s.pull(ctx, named.String(), opt.Keychain, progress)
		})
	if err != nil {
		return nil, explain("pull", ref, host, err)
	}
	return img, nil
}

// flightKey keeps callers with different credentials apart, so that nobody
// gets an image, or a refusal, by somebody else's password.
func (s *Store) flightKey(named reference.Named, host string, keys Keychain) string {
	key := named.String()
	if keys == nil {
		return key
	}
	if user, password, ok := keys(host); ok {
		key += fmt.Sprintf(" %x", sha256.Sum256([]byte(user+"\x00"+password)))
	}
	return key
}

func (s *Store) pull(ctx context.Context, name string, keys Keychain, report func(Progress)) (*Image, error) {
	ctx, done, err := s.lease(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	meter := newMeter(name, report)
	defer meter.stop()

	resolver := s.resolver(ctx, keys)
	name, target, err := resolver.Resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	fetcher, err := resolver.Fetcher(ctx, name)
	if err != nil {
		return nil, err
	}
	source, err := docker.AppendDistributionSourceLabel(s.content, name)
	if err != nil {
		return nil, err
	}
	fetch := images.Handlers(meter.seen(), s.linkLayer(name), remotes.FetchHandler(s.content, meter.fetcher(fetcher)), s.children(), source)
	if err := s.unpackTree(ctx, fetch, meter, target); err != nil {
		return nil, s.explainPlatform(ctx, target, err)
	}
	img, err := s.record(ctx, name, target)
	if err != nil {
		return nil, err
	}
	meter.finish()
	return img, nil
}

// children walks index, manifest and configuration, choosing this machine's
// platform, and labels parents so that collection follows the same edges.
func (s *Store) children() images.Handler {
	h := images.SetChildrenLabels(s.content, images.ChildrenHandler(s.content))
	return images.LimitManifests(images.FilterPlatforms(h, s.platform), s.platform, 1)
}

// unpackTree runs handler over the tree under target and unpacks every image
// it meets while later layers are still being fetched.
func (s *Store) unpackTree(ctx context.Context, handler images.Handler, meter *meter, target ocispec.Descriptor) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unpacker, err := unpack.NewUnpacker(ctx, s.content,
		unpack.WithUnpackPlatform(unpack.Platform{
			Platform:                platforms.All, // the manifest was chosen already
			SnapshotterKey:          snapshotterName,
			Snapshotter:             s.snaps,
			SnapshotterCapabilities: []string{snapshots.RebaseCap},
			Applier:                 s.applier,
			ApplyOpts:               []diff.ApplyOpt{diff.WithSyncFs(true), diff.WithProgress(meter.unpacked)},
		}),
		unpack.WithDuplicationSuppressor(&s.locks),
		unpack.WithLimiter(semaphore.NewWeighted(parallelDownloads)),
		unpack.WithUnpackLimiter(semaphore.NewWeighted(parallelUnpacks)))
	if err != nil {
		return err
	}
	err = images.Dispatch(ctx, unpacker.Unpack(handler), nil, target)
	if err != nil {
		cancel()
	}
	_, unpackErr := unpacker.Wait()
	if err == nil {
		err = unpackErr
	}
	if err != nil && strings.Contains(err.Error(), "wrong diff id") {
		err = fmt.Errorf("%w: %w", errWrongContent, err)
	}
	return err
}

// explainPlatform turns "no match for platform" into which ones there are.
func (s *Store) explainPlatform(ctx context.Context, target ocispec.Descriptor, err error) error {
	if !errdefs.IsNotFound(err) || !images.IsIndexType(target.MediaType) {
		return err
	}
	have, listErr := images.Platforms(ctx, s.content, target)
	if listErr != nil || len(have) == 0 {
		return err
	}
	names := make([]string, 0, len(have))
	for _, p := range have {
		if s.platform.Match(p) {
			return err // something else was not found
		}
		names = append(names, platforms.Format(p))
	}
	return fmt.Errorf("%w: this machine is %s, the image is for %s", ErrPlatform, platformName(), strings.Join(names, ", "))
}

// record names a complete image. A tag that moved leaves the former image
// under its digest, so that containers made from it can still be restarted.
func (s *Store) record(ctx context.Context, name string, target ocispec.Descriptor) (*Image, error) {
	for {
		old, err := s.images.Get(ctx, name)
		switch {
		case errdefs.IsNotFound(err):
			_, err = s.images.Create(ctx, images.Image{Name: name, Target: target})
		case err != nil:
		case old.Target.Digest != target.Digest:
			if err = s.keepByDigest(ctx, old); err == nil {
				old.Target = target
				_, err = s.images.Update(ctx, old, "target")
			}
		}
		if errdefs.IsAlreadyExists(err) || errdefs.IsNotFound(err) {
			continue // created or removed by somebody else in between
		}
		if err != nil {
			return nil, fmt.Errorf("record image: %w", err)
		}
		s.used.touch(target.Digest)
		return s.get(ctx, name)
	}
}

func (s *Store) keepByDigest(ctx context.Context, old images.Image) error {
	named, err := parseRef(old.Name)
	if err != nil {
		return err
	}
	pinned, err := reference.WithDigest(reference.TrimNamed(named), old.Target.Digest)
	if err != nil {
		return err
	}
	_, err = s.images.Create(ctx, images.Image{Name: pinned.String(), Target: old.Target})
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// parseRef reads an image name as docker does: "nginx" is
// docker.io/library/nginx:latest.
func parseRef(ref string) (reference.Named, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, fmt.Errorf("%w %q: %w", ErrBadName, ref, err)
	}
	return named, nil
}
