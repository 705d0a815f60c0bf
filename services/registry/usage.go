package registry

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/gantryhq/gantry/services/registry/storage"
)

// usage counts the content of namespaces that have a quota. A namespace is counted when
// it is first asked for, and again after something left it.
type usage struct {
	store *storage.Store

	mu      sync.Mutex
	counted map[string]*content // guarded by mu: by namespace
}

// content is what a namespace has.
type content struct {
	blobs map[digest.Digest]struct{}
	bytes int64
}

// add counts a blob, unless that would make the content larger than the quota.
func (u *usage) add(namespace string, d digest.Digest, bytes, quota int64) (ok bool, used int64, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	c, err := u.count(namespace)
	if err != nil {
		return false, 0, err
	}
	if _, here := c.blobs[d]; here {
		return true, c.bytes, nil
	}
	if bytes > quota-c.bytes {
		return false, c.bytes, nil
	}
	c.blobs[d] = struct{}{}
	c.bytes += bytes
	return true, c.bytes, nil
}

// forget has a namespace counted again.
func (u *usage) forget(namespace string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.counted, namespace)
}

// count returns what a namespace has. The caller holds mu.
func (u *usage) count(namespace string) (*content, error) {
	if c := u.counted[namespace]; c != nil {
		return c, nil
	}
	c := &content{blobs: map[digest.Digest]struct{}{}}
	err := u.store.Repositories(func(name string) error {
		if Namespace(name) != namespace {
			return nil
		}
		return u.store.Usage(name, func(d digest.Digest, bytes int64) {
			if _, here := c.blobs[d]; !here {
				c.blobs[d] = struct{}{}
				c.bytes += bytes
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("count content of namespace %s: %w", namespace, err)
	}
	if u.counted == nil {
		u.counted = map[string]*content{}
	}
	u.counted[namespace] = c
	return c, nil
}

// charged keeps content, unless the quota refuses it.
func (c *call) charged(d digest.Digest, bytes int64, keep func() error) error {
	if c.holds.Quota == nil {
		return keep()
	}
	namespace := Namespace(c.name)
	ok, used, err := c.usage.add(namespace, d, bytes, *c.holds.Quota)
	if err != nil {
		return err
	}
	if !ok {
		return c.overQuotaWith(*c.holds.Quota, used, bytes)
	}
	if err := keep(); err != nil {
		c.usage.forget(namespace)
		return err
	}
	// It was perhaps counted anew before the content was there.
	_, _, err = c.usage.add(namespace, d, bytes, math.MaxInt64)
	return err
}

func (c *call) overQuota(quota int64) error { return c.overQuotaWith(quota, -1, 0) }

func (c *call) overQuotaWith(quota, used, more int64) error {
	namespace := Namespace(c.name)
	have := ""
	if used >= 0 {
		have = fmt.Sprintf(": it has %d bytes, and this would add %d", used, more)
	}
	return &refusal{status: http.StatusForbidden, code: "DENIED", message: fmt.Sprintf("the repositories of namespace %s may have %d bytes%s: delete images, or have the quota of its RegistryPolicy raised", namespace, quota, have)}
}

// limited reads at most so many bytes, and then gives an error.
type limited struct {
	io.Reader
	left int64
	err  error
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, l.err
	}
	return n, err
}

// Usage is what a namespace has in the registry.
type Usage struct {
	Bytes              int64 // each blob counted once
	Repositories, Tags int
}

// Usage measures a namespace.
func (r *Registry) Usage(namespace string) (Usage, error) {
	var total Usage
	err := r.store.Repositories(func(name string) error {
		if Namespace(name) != namespace || !r.store.HasManifests(name) {
			return nil
		}
		tags, err := r.store.Tags(name)
		total.Repositories++
		total.Tags += len(tags)
		return err
	})
	if err != nil {
		return Usage{}, fmt.Errorf("measure namespace %s: %w", namespace, err)
	}
	r.usage.mu.Lock()
	defer r.usage.mu.Unlock()
	c, err := r.usage.count(namespace)
	if err != nil {
		return Usage{}, err
	}
	total.Bytes = c.bytes
	return total, nil
}

// Tagged is a tag with what it names and since when.
type Tagged = storage.Tagged

// Retain removes tags of a namespace's repositories: those that expired names, of a
// repository whose name in the namespace and whose tags it is given. A tag that is moved
// meanwhile stays. It returns how many went.
func (r *Registry) Retain(namespace string, expired func(name string, tags []Tagged) []Tagged) (removed int, err error) {
	err = r.store.Repositories(func(repository string) error {
		if Namespace(repository) != namespace {
			return nil
		}
		tags, err := r.store.TagsWithTimes(repository)
		if err != nil {
			return err
		}
		for _, t := range expired(strings.TrimPrefix(repository, namespace+"/"), tags) {
			if err := r.store.DeleteTag(repository, t.Tag, t.Digest); err == nil {
				removed++
			} else if explain(err) == nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return removed, fmt.Errorf("remove tags of namespace %s: %w", namespace, err)
	}
	return removed, nil
}
