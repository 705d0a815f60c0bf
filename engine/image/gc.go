package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
)

// Freed is what a collection gave back.
type Freed struct {
	Images []string // names removed
	Bytes  int64    // disk space, measured before and after
}

// GCOption narrows what GC removes.
type GCOption func(*gcOptions)

type gcOptions struct {
	enough int64
}

// UntilFreed stops as soon as that many bytes are free again. Without it every
// unused image goes.
func UntilFreed(bytes int64) GCOption { return func(o *gcOptions) { o.enough = bytes } }

// GC removes images that neither inUse (called with [Image.Digest]) nor a
// container's root needs, least recently used first, and then collects all
// content nobody refers to.
func (s *Store) GC(ctx context.Context, inUse func(digest.Digest) bool, opts ...GCOption) (Freed, error) {
	var o gcOptions
	for _, opt := range opts {
		opt(&o)
	}
	var freed Freed
	before, err := s.FSUsage(ctx)
	if err != nil {
		return freed, err
	}
	groups, err := s.unused(ctx, inUse)
	if err != nil {
		return freed, err
	}
	ctx = s.context(ctx)
	for _, g := range groups {
		if o.enough > 0 && freed.Bytes >= o.enough {
			break
		}
		for _, img := range g {
			if err := s.images.Delete(ctx, img.Name); err != nil && !errdefs.IsNotFound(err) {
				return freed, fmt.Errorf("remove image %q: %w", img.Name, err)
			}
			freed.Images = append(freed.Images, img.Name)
		}
		if o.enough == 0 {
			continue // one collection at the end is cheaper
		}
		if freed.Bytes, err = s.freedSince(ctx, before); err != nil {
			return freed, err
		}
	}
	freed.Bytes, err = s.freedSince(ctx, before)
	return freed, err
}

// unused groups the removable images by digest, least recently used first.
func (s *Store) unused(ctx context.Context, inUse func(digest.Digest) bool) ([][]*Image, error) {
	rooted, err := s.digestsInUse(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	byDigest := map[digest.Digest][]*Image{}
	for _, img := range all {
		d := img.target.Digest
		if rooted[d] || (inUse != nil && inUse(d)) {
			continue
		}
		byDigest[d] = append(byDigest[d], img)
	}
	groups := make([][]*Image, 0, len(byDigest))
	for _, g := range byDigest {
		groups = append(groups, g)
	}
	sort.Slice(groups, func(a, b int) bool { return groups[a][0].LastUsed.Before(groups[b][0].LastUsed) })
	return groups, nil
}

func (s *Store) freedSince(ctx context.Context, before Usage) (int64, error) {
	if err := s.collect(ctx); err != nil {
		return 0, err
	}
	after, err := s.FSUsage(ctx)
	return max(0, before.ImageBytes-after.ImageBytes), err
}

// collect deletes the files of discarded roots, and content and layers that no
// image, lease or root refers to.
func (s *Store) collect(ctx context.Context) error {
	ctx = s.context(ctx)
	s.described.Clear()
	if err := errors.Join(s.emptyTrash(), s.releaseHolds(ctx)); err != nil {
		return fmt.Errorf("collect image content: %w", err)
	}
	if _, err := s.db.GarbageCollect(ctx); err != nil {
		return fmt.Errorf("collect image content: %w", err)
	}
	return nil
}

// useTimes remembers when images were last used. The zero value is ready.
type useTimes struct {
	mu sync.Mutex
	at map[digest.Digest]time.Time // guarded by mu
}

func (u *useTimes) touch(d digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.at == nil {
		u.at = map[digest.Digest]time.Time{}
	}
	u.at[d] = time.Now()
}

func (u *useTimes) last(d digest.Digest, otherwise time.Time) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	if t, ok := u.at[d]; ok {
		return t
	}
	return otherwise
}

// collectDelay gathers a burst of removals into one collection.
const collectDelay = time.Second

// collector runs collections in the background, one at a time.
type collector struct {
	wake   chan struct{}
	cancel context.CancelFunc
	idle   chan struct{}
}

func startCollector(collect func(context.Context) error, log *slog.Logger) *collector {
	ctx, cancel := context.WithCancel(context.Background())
	c := &collector{wake: make(chan struct{}, 1), cancel: cancel, idle: make(chan struct{})}
	go func() {
		defer close(c.idle)
		for {
			select {
			case <-ctx.Done():
				return
			case <-c.wake:
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(collectDelay):
			}
			if err := collect(ctx); err != nil && ctx.Err() == nil {
				log.Warn("image store", "err", err)
			}
		}
	}()
	return c
}

func (c *collector) kick() {
	select {
	case c.wake <- struct{}{}:
	default: // one is due already
	}
}

func (c *collector) stop() {
	c.cancel()
	<-c.idle
}
