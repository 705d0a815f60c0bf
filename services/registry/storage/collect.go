package storage

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// CollectOptions say what is not needed.
type CollectOptions struct {
	// Grace spares manifests without a tag and blobs without a manifest that were
	// pushed, or said to be there, more recently: a push in progress, or a manifest
	// that is about to be deployed by digest.
	Grace time.Duration
	// InUse spares what is deployed by digest; nil means nothing is.
	InUse func(name string, d digest.Digest) bool
}

// Collected is what a collection removed.
type Collected struct {
	Manifests, Blobs int
	Bytes            int64
}

// sweepBatch is how many blobs are removed while new links wait.
const sweepBatch = 64

// Collect removes manifests that nothing needs and the blobs that only they needed.
// Needed is a manifest that has a tag, is younger than the grace or in use, that a
// needed index lists, or whose subject is needed: signatures go with their image.
//
// Requests go on meanwhile. What is not needed is first looked for without a lock;
// then, one repository after the other, looked for again under its lock and unlinked,
// which takes little because manifests never change and are read once. A blob's file
// goes when no repository links it, and none has linked it since the collection began.
func (s *Store) Collect(ctx context.Context, opt CollectOptions) (Collected, error) {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	if err := errors.Join(s.Ready(), s.owned()); err != nil {
		return Collected{}, err
	}
	s.setSpared(map[digest.Digest]struct{}{})
	defer s.setSpared(nil)
	c := collection{s: s, opt: opt, linked: map[digest.Digest]struct{}{}}
	err := s.Repositories(func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.repository(name); err != nil {
			return fmt.Errorf("repository %s: %w", name, err)
		}
		return nil
	})
	if err == nil {
		err = s.files.sync() // no link may come back whose blob is gone
	}
	if err == nil {
		err = c.sweep(ctx)
	}
	return c.done, err
}

func (s *Store) setSpared(to map[digest.Digest]struct{}) {
	s.sweeping.Lock() // whoever saw a blob before has linked it
	defer s.sweeping.Unlock()
	s.sparedMu.Lock()
	defer s.sparedMu.Unlock()
	s.spared = to
}

type collection struct {
	s      *Store
	opt    CollectOptions
	linked map[digest.Digest]struct{} // blobs and manifests with a link in any repository
	done   Collected
}

// edges are what a manifest says of others.
type edges struct {
	children []digest.Digest // of an index
	blobs    []digest.Digest // of an image
	subject  digest.Digest   // or ""
}

func (c *collection) repository(name string) error {
	known := map[digest.Digest]edges{}
	plan, err := c.unneeded(name, known)
	if err == nil && !plan.empty() {
		err = c.unlink(name, known)
	}
	if err != nil {
		return err
	}
	note := func(d digest.Digest, _ time.Time) error {
		c.linked[d] = struct{}{}
		return nil
	}
	if err := c.s.digestsBelow(layersDir(name), note); err != nil {
		return err
	}
	if err := c.s.digestsBelow(revisionsDir(name), note); err != nil {
		return err
	}
	return c.s.removeEmpty(name)
}

// unlink removes what nothing needs from a repository.
func (c *collection) unlink(name string, known map[digest.Digest]edges) error {
	lock := c.s.lock(name)
	lock.Lock()
	defer lock.Unlock()
	plan, err := c.unneeded(name, known)
	if err != nil {
		return err
	}
	for _, d := range plan.manifests {
		if err := c.s.deleteManifest(name, d); err != nil {
			return fmt.Errorf("remove manifest %s: %w", d, err)
		}
		c.done.Manifests++
	}
	for _, d := range plan.blobs {
		if err := c.s.files.remove(layerLink(name, d)); err != nil {
			return fmt.Errorf("remove blob %s: %w", d, err)
		}
	}
	if len(plan.blobs) > 0 {
		c.s.tellRemoval(name)
	}
	return nil
}

// removal is what a repository does not need.
type removal struct {
	manifests, blobs []digest.Digest
}

func (r removal) empty() bool { return len(r.manifests)+len(r.blobs) == 0 }

// unneeded finds what a repository does not need. known keeps what manifests say
// between calls.
func (c *collection) unneeded(name string, known map[digest.Digest]edges) (removal, error) {
	var plan removal
	present := map[digest.Digest]time.Time{}
	err := c.s.digestsBelow(revisionsDir(name), func(d digest.Digest, pushed time.Time) (err error) {
		present[d] = pushed
		if _, ok := known[d]; !ok {
			known[d], err = c.s.edges(name, d)
		}
		return err
	})
	if err != nil {
		return plan, err
	}
	needed, err := c.needed(name, present, known)
	if err != nil {
		return plan, err
	}
	blobs := map[digest.Digest]struct{}{}
	for d := range present {
		if !needed[d] {
			plan.manifests = append(plan.manifests, d)
			continue
		}
		for _, b := range known[d].blobs {
			blobs[b] = struct{}{}
		}
	}
	err = c.s.digestsBelow(layersDir(name), func(d digest.Digest, linked time.Time) error {
		if _, ok := blobs[d]; !ok && time.Since(linked) >= c.opt.Grace {
			plan.blobs = append(plan.blobs, d)
		}
		return nil
	})
	return plan, err
}

// needed follows tags, indexes and subjects.
func (c *collection) needed(name string, present map[digest.Digest]time.Time, known map[digest.Digest]edges) (map[digest.Digest]bool, error) {
	tags, err := c.s.tagsOf(name)
	if err != nil {
		return nil, err
	}
	referrers := map[digest.Digest][]digest.Digest{}
	var follow []digest.Digest
	for d, pushed := range present {
		if subject := known[d].subject; subject != "" {
			referrers[subject] = append(referrers[subject], d)
		}
		if len(tags[d]) > 0 || time.Since(pushed) < c.opt.Grace || c.opt.InUse != nil && c.opt.InUse(name, d) {
			follow = append(follow, d)
		}
	}
	needed := make(map[digest.Digest]bool, len(present))
	for len(follow) > 0 {
		d := follow[len(follow)-1]
		follow = follow[:len(follow)-1]
		if _, here := present[d]; !here || needed[d] {
			continue
		}
		needed[d] = true
		follow = append(append(follow, known[d].children...), referrers[d]...)
	}
	return needed, nil
}

// edges reads a manifest. One that cannot be read needs nothing.
func (s *Store) edges(name string, d digest.Digest) (edges, error) {
	m, err := s.Manifest(name, d)
	if errors.Is(err, ErrManifestUnknown) || errors.Is(err, ErrManifestInvalid) {
		return edges{}, nil
	}
	if err != nil {
		return edges{}, err
	}
	var e edges
	for _, r := range m.References() {
		if m.IsIndex() {
			e.children = append(e.children, r.Digest)
		} else {
			e.blobs = append(e.blobs, r.Digest)
		}
	}
	if m.Subject != nil {
		e.subject = m.Subject.Digest
	}
	return e, nil
}

// sweep removes the files of blobs without a link.
func (c *collection) sweep(ctx context.Context) error {
	for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		root := path.Join("blobs", a.String())
		prefixes, err := c.s.files.children(root)
		if err != nil {
			return err
		}
		for _, p := range prefixes {
			var unlinked []unlinkedBlob
			err := c.s.files.each(path.Join(root, p), "data", func(encoded string, i info) error {
				d := digest.NewDigestFromEncoded(a, encoded)
				if _, ok := c.linked[d]; !ok && d.Validate() == nil {
					unlinked = append(unlinked, unlinkedBlob{d, i.size})
				}
				return nil
			})
			if err != nil {
				return err
			}
			for batch := range slices.Chunk(unlinked, sweepBatch) {
				if err := errors.Join(ctx.Err(), c.remove(batch)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

type unlinkedBlob struct {
	digest.Digest
	size int64
}

func (c *collection) remove(batch []unlinkedBlob) error {
	c.s.sweeping.Lock()
	defer c.s.sweeping.Unlock()
	c.s.sparedMu.Lock()
	defer c.s.sparedMu.Unlock()
	for _, b := range batch {
		if _, ok := c.s.spared[b.Digest]; ok || c.s.pinned[b.Digest] > 0 {
			continue
		}
		if err := c.s.files.remove(blobPath(b.Digest)); err != nil {
			return fmt.Errorf("remove blob %s: %w", b.Digest, err)
		}
		c.done.Blobs++
		c.done.Bytes += b.size
	}
	return nil
}

// removeEmpty removes the directories of a repository that holds nothing any more.
func (s *Store) removeEmpty(name string) error {
	lock := s.lock(name)
	lock.Lock()
	defer lock.Unlock()
	empty := errors.New("not empty")
	for _, dir := range []string{layersDir(name), revisionsDir(name)} {
		err := s.digestsBelow(dir, func(digest.Digest, time.Time) error { return empty })
		if errors.Is(err, empty) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return s.files.prune(repositoryDir(name))
}
