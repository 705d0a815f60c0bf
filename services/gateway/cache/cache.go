// Package cache keeps responses in memory for everybody who may have them, as a
// shared cache of RFC 9111.
//
// It guarantees: only what says for how long it is fresh is kept, for that long; a
// response to a request with credentials (Authorization, cookies, or a client that
// the gateway has identified) is neither kept nor answered from what is kept, unless
// it is public; Set-Cookie, private and no-store are never kept; variants are told
// apart by Vary; what is stale is validated with its ETag or Last-Modified; methods
// that change something drop what was kept of their address; memory is bounded, and
// what was not asked for longest goes first. It may be used concurrently.
//
// Imported by the gateway's data plane only.
package cache

import (
	"container/list"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// perObject is about what a response takes beside its header and body.
const perObject = 512

// maxVariants is how many responses of one address are kept.
const maxVariants = 16

// Cache holds responses.
type Cache struct {
	max int64
	now func() time.Time

	hits, misses atomic.Int64

	mu      sync.Mutex // guards the following
	size    int64
	byUse   *list.List // of *stored, used last at the front
	entries map[string][]*stored
}

// stored is a response. Its header and body do not change.
type stored struct {
	key    string
	vary   []field // of the request, as Vary names them
	status int
	header http.Header
	body   []byte
	public bool

	date     time.Time // when it was fresh as new
	lifetime time.Duration
	size     int64
	use      *list.Element
}

type field struct{ name, value string }

// New returns a cache of at most maxBytes.
func New(maxBytes int64, now func() time.Time) *Cache {
	return &Cache{max: maxBytes, now: now, byUse: list.New(), entries: map[string][]*stored{}}
}

// Counts are the requests that were answered from the cache, and those that could
// not be.
func (c *Cache) Counts() (hits, misses int64) { return c.hits.Load(), c.misses.Load() }

// Size is about how many bytes are in use.
func (c *Cache) Size() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}

// find returns the response that was kept for a request.
func (c *Cache) find(key string, r *http.Request) *stored {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.entries[key] {
		if s.fits(r) {
			c.byUse.MoveToFront(s.use)
			return s
		}
	}
	return nil
}

// fits compares the fields that Vary names (section 4.1).
func (s *stored) fits(r *http.Request) bool {
	for _, f := range s.vary {
		if strings.Join(r.Header.Values(f.name), ",") != f.value {
			return false
		}
	}
	return true
}

// put keeps a response in the place of the one it fits.
func (c *Cache) put(s *stored, r *http.Request) {
	s.size = perObject + int64(len(s.key)+len(s.body))
	for name, values := range s.header {
		for _, v := range values {
			s.size += int64(len(name) + len(v) + 32)
		}
	}
	if s.size > c.max {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, old := range c.entries[s.key] {
		if old.fits(r) {
			c.remove(old)
			break
		}
	}
	if variants := c.entries[s.key]; len(variants) >= maxVariants {
		c.remove(variants[0])
	}
	s.use = c.byUse.PushFront(s)
	c.entries[s.key] = append(c.entries[s.key], s)
	for c.size += s.size; c.size > c.max; {
		c.remove(c.byUse.Back().Value.(*stored))
	}
}

// remove needs the lock.
func (c *Cache) remove(s *stored) {
	variants := c.entries[s.key]
	for i, v := range variants {
		if v != s {
			continue
		}
		c.byUse.Remove(s.use)
		c.size -= s.size
		rest := append(append([]*stored(nil), variants[:i]...), variants[i+1:]...)
		if c.entries[s.key] = rest; len(rest) == 0 {
			delete(c.entries, s.key)
		}
		return
	}
}

// drop forgets everything that is kept of an address (section 4.4).
func (c *Cache) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.entries[key]) > 0 {
		c.remove(c.entries[key][0])
	}
}

func (s *stored) age(now time.Time) time.Duration { return max(now.Sub(s.date), 0) }

func (s *stored) fresh(now time.Time) bool { return s.age(now) < s.lifetime }

// directives reads Cache-Control. A directive that comes twice, or is no number, is
// taken for the strictest.
func directives(h http.Header) map[string]string {
	d := map[string]string{}
	for _, line := range h.Values("Cache-Control") {
		for part := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			if name = strings.ToLower(strings.TrimSpace(name)); name == "" {
				continue
			}
			value = strings.Trim(strings.TrimSpace(value), `"`)
			if before, twice := d[name]; twice && before != value {
				value = "0"
			}
			d[name] = value
		}
	}
	return d
}

func has(d map[string]string, names ...string) bool {
	for _, name := range names {
		if _, ok := d[name]; ok {
			return true
		}
	}
	return false
}

// secondsOf is the value of a directive; not ok where it is not there.
func secondsOf(d map[string]string, name string) (time.Duration, bool) {
	text, ok := d[name]
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, true
	}
	return time.Duration(min(n, 1<<31)) * time.Second, true
}

// lifetime is section 4.2.1, without heuristics: what does not say for how long it
// is fresh is not kept.
func lifetime(h http.Header, d map[string]string, date time.Time) time.Duration {
	for _, name := range []string{"s-maxage", "max-age"} {
		if life, ok := secondsOf(d, name); ok {
			return life
		}
	}
	if len(h.Values("Expires")) == 1 {
		if at, err := http.ParseTime(h.Get("Expires")); err == nil {
			return at.Sub(date)
		}
	}
	return 0
}

// cacheable are the status codes of complete answers that may be kept.
func cacheable(status int) bool {
	switch status {
	case 200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501:
		return true
	}
	return false
}

// storable decides whether a response may be kept (section 3) and makes it.
func storable(key string, r *http.Request, private bool, status int, h http.Header, now time.Time) *stored {
	asked, said := directives(r.Header), directives(h)
	if r.Method != http.MethodGet || !cacheable(status) || has(asked, "no-store") || has(said, "no-store", "private", "no-cache") ||
		len(h.Values("Set-Cookie")) > 0 || r.Header.Get("Range") != "" {
		return nil
	}
	s := &stored{key: key, status: status, public: has(said, "public")}
	if private && !s.public {
		return nil
	}
	s.date = now
	if date, err := http.ParseTime(h.Get("Date")); err == nil && date.Before(now) {
		s.date = date // its clock, or the time it took
	}
	if age, err := strconv.ParseInt(h.Get("Age"), 10, 64); err == nil && age > 0 {
		s.date = now.Add(-time.Duration(min(age, 1<<31)) * time.Second)
	}
	s.lifetime = lifetime(h, said, s.date)
	if !s.fresh(now) {
		return nil
	}
	for _, line := range h.Values("Vary") {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name == "*" {
				return nil
			}
			s.vary = append(s.vary, field{name, strings.Join(r.Header.Values(name), ",")})
		}
	}
	s.header = h.Clone()
	for _, name := range []string{"RateLimit", "RateLimit-Policy", "Age"} { // of one client, or of one moment
		s.header.Del(name)
	}
	return s
}
