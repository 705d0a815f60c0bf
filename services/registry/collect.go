package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// repositories is where upstream's layout keeps them.
const repositories = "/docker/registry/v2/repositories"

// CollectOptions say which manifests without a tag go.
type CollectOptions struct {
	// UntaggedFor spares manifests pushed more recently: a push in progress,
	// or one that is about to be deployed by digest.
	UntaggedFor time.Duration
	// InUse spares what is deployed by digest; nil means nothing is. Repository
	// has no host.
	InUse func(repository string, d digest.Digest) bool
}

// Collected is what a collection removed.
type Collected struct {
	Manifests int
}

// Collect deletes manifests that no tag, no index and nobody else refers to,
// and the blobs that only they needed. Pushes wait while it runs; pulls do not.
func (r *Registry) Collect(ctx context.Context, opt CollectOptions) (Collected, error) {
	if err := r.stopWriting(ctx); err != nil {
		return Collected{}, fmt.Errorf("collect registry: %w", err)
	}
	defer r.writing.Unlock()
	var done Collected
	var empty driver.PathNotFoundError
	if _, err := r.driver.Stat(ctx, repositories); errors.As(err, &empty) {
		return done, nil // nothing was ever pushed
	}
	reg, err := storage.NewRegistry(ctx, r.driver, storage.EnableDelete)
	if err != nil {
		return done, fmt.Errorf("collect registry: %w", err)
	}
	all, ok := reg.(distribution.RepositoryEnumerator)
	if !ok {
		return done, errors.New("collect registry: its storage cannot list repositories")
	}
	err = all.Enumerate(ctx, func(name string) error {
		removed, err := r.collectRepository(ctx, reg, name, opt)
		done.Manifests += removed
		if err != nil {
			return fmt.Errorf("repository %s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return done, fmt.Errorf("collect registry: %w", err)
	}
	if err := storage.MarkAndSweep(ctx, r.driver, reg, storage.GCOpts{Quiet: true}); err != nil {
		return done, fmt.Errorf("collect registry: %w", err)
	}
	return done, nil
}

// stopWriting takes the lock at a moment without a push. Waiting in its queue would
// hold up all new pushes behind one that is stuck.
func (r *Registry) stopWriting(ctx context.Context) error {
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for !r.writing.TryLock() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of a push: %w", ctx.Err())
		case <-poll.C:
		}
	}
	return nil
}

// collectRepository deletes a repository's unneeded manifests; their blobs are
// swept afterwards.
func (r *Registry) collectRepository(ctx context.Context, reg distribution.Namespace, name string, opt CollectOptions) (removed int, err error) {
	named, err := reference.WithName(name)
	if err != nil {
		return 0, err
	}
	repository, err := reg.Repository(ctx, named)
	if err != nil {
		return 0, err
	}
	manifests, err := repository.Manifests(ctx)
	if err != nil {
		return 0, err
	}
	enumerator, ok := manifests.(distribution.ManifestEnumerator)
	if !ok {
		return 0, errors.New("its manifests cannot be listed")
	}
	var present []digest.Digest
	err = enumerator.Enumerate(ctx, func(d digest.Digest) error {
		present = append(present, d)
		return nil
	})
	var none driver.PathNotFoundError
	if errors.As(err, &none) {
		return 0, nil // only uploads, no manifest yet
	}
	if err != nil {
		return 0, err
	}
	needed, err := r.neededManifests(ctx, repository, manifests, present, opt)
	if err != nil {
		return 0, err
	}
	for _, d := range present {
		if needed[d] {
			continue
		}
		if err := manifests.Delete(ctx, d); err != nil {
			return removed, fmt.Errorf("delete manifest %s: %w", d, err)
		}
		removed++
	}
	return removed, nil
}

// neededManifests are those that are tagged, young or in use, and what their
// indexes list.
func (r *Registry) neededManifests(ctx context.Context, repository distribution.Repository, manifests distribution.ManifestService, present []digest.Digest, opt CollectOptions) (map[digest.Digest]bool, error) {
	name := repository.Named().Name()
	here := make(map[digest.Digest]bool, len(present))
	needed := make(map[digest.Digest]bool, len(present))
	var follow []digest.Digest
	for _, d := range present {
		here[d] = true
		tags, err := repository.Tags(ctx).Lookup(ctx, v1.Descriptor{Digest: d})
		if err != nil {
			return nil, fmt.Errorf("look for tags of %s: %w", d, err)
		}
		link := fmt.Sprintf("%s/%s/_manifests/revisions/%s/%s/link", repositories, name, d.Algorithm(), d.Encoded())
		pushed, err := r.driver.Stat(ctx, link)
		if err != nil {
			return nil, err
		}
		if len(tags) > 0 || time.Since(pushed.ModTime()) < opt.UntaggedFor || (opt.InUse != nil && opt.InUse(name, d)) {
			follow = append(follow, d)
		}
	}
	for len(follow) > 0 {
		d := follow[0]
		follow = follow[1:]
		if needed[d] {
			continue
		}
		needed[d] = true
		m, err := manifests.Get(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("read manifest %s: %w", d, err)
		}
		for _, ref := range m.References() {
			if here[ref.Digest] {
				follow = append(follow, ref.Digest)
			}
		}
	}
	return needed, nil
}
