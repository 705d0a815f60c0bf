package cache

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options say how one request is served.
type Options struct {
	// Key tells routes apart; the host and the address are added to it.
	Key string
	// Private says that the request has credentials.
	Private bool
	// MaxObject bounds the body of a response that is kept.
	MaxObject int64
	// Kept adds what only this client is told to an answer that was kept, or is nil.
	Kept func(http.Header)
}

// Serve answers r from what is kept, or has next answer and keeps that.
func (c *Cache) Serve(w http.ResponseWriter, r *http.Request, o Options, next http.Handler) {
	key, private := o.Key, o.Private
	key += "\x00" + strings.ToLower(r.Host) + "\x00" + r.URL.RequestURI()
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions, http.MethodTrace:
		next.ServeHTTP(w, r)
		return
	default:
		rec := &recorder{ResponseWriter: w}
		next.ServeHTTP(rec, r)
		if rec.status >= 200 && rec.status < 400 {
			c.drop(key)
		}
		return
	}
	asked, now := directives(r.Header), c.now()
	if has(asked, "no-store") || r.Header.Get("Range") != "" || r.Header.Get("Upgrade") != "" {
		next.ServeHTTP(w, r)
		return
	}
	s := c.find(key, r)
	if s != nil && private && !s.public {
		s = nil
	}
	if s != nil && s.satisfies(asked, r.Header, now) {
		c.hits.Add(1)
		s.answer(w, r, now, o.Kept)
		return
	}
	if has(asked, "only-if-cached") {
		http.Error(w, "this is not kept here", http.StatusGatewayTimeout)
		return
	}
	c.misses.Add(1)
	o.Key = key
	c.forward(w, r, o, s, next)
}

// satisfies is section 4: fresh enough for what the request asks.
func (s *stored) satisfies(asked map[string]string, h http.Header, now time.Time) bool {
	if has(asked, "no-cache") || len(asked) == 0 && strings.Contains(strings.ToLower(h.Get("Pragma")), "no-cache") {
		return false
	}
	if most, ok := secondsOf(asked, "max-age"); ok && s.age(now) > most {
		return false
	}
	if least, ok := secondsOf(asked, "min-fresh"); ok && s.lifetime-s.age(now) < least {
		return false
	}
	return s.fresh(now)
}

// answer sends what is kept, or that the client has it already (section 4.3.2).
func (s *stored) answer(w http.ResponseWriter, r *http.Request, now time.Time, kept func(http.Header)) {
	h := w.Header()
	for name, values := range s.header {
		h[name] = slices.Clone(values)
	}
	if kept != nil {
		kept(h)
	}
	h.Set("Age", strconv.FormatInt(int64(s.age(now)/time.Second), 10))
	if s.notModified(r) {
		h.Del("Content-Length")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(s.body)))
	w.WriteHeader(s.status)
	if r.Method != http.MethodHead {
		w.Write(s.body)
	}
}

func (s *stored) notModified(r *http.Request) bool {
	if s.status != http.StatusOK {
		return false
	}
	if tags := r.Header.Values("If-None-Match"); len(tags) > 0 {
		mine := strings.TrimPrefix(s.header.Get("ETag"), "W/")
		for tag := range strings.SplitSeq(strings.Join(tags, ","), ",") {
			if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == "*" || mine != "" && tag == mine {
				return true
			}
		}
		return false
	}
	since, err := http.ParseTime(r.Header.Get("If-Modified-Since"))
	modified, err2 := http.ParseTime(s.header.Get("Last-Modified"))
	return err == nil && err2 == nil && !modified.After(since)
}

// forward has next answer, with a condition if something stale is kept.
func (c *Cache) forward(w http.ResponseWriter, r *http.Request, o Options, stale *stored, next http.Handler) {
	rec := &recorder{ResponseWriter: w, keep: o.MaxObject}
	conditional := r.Header.Get("If-None-Match") != "" || r.Header.Get("If-Modified-Since") != "" || r.Header.Get("If-Match") != "" || r.Header.Get("If-Unmodified-Since") != ""
	forwarded := r
	if stale != nil && !conditional {
		tag, modified := stale.header.Get("ETag"), stale.header.Get("Last-Modified")
		if tag != "" || modified != "" {
			asked := r.Clone(r.Context())
			set := func(name, value string) {
				if value != "" {
					asked.Header.Set(name, value)
				}
			}
			set("If-None-Match", tag)
			set("If-Modified-Since", modified)
			rec.holdNotModified, forwarded = true, asked
		}
	}
	rec.decide = func(status int, h http.Header) *stored {
		return storable(o.Key, r, o.Private, status, h, c.now())
	}
	next.ServeHTTP(rec, forwarded)
	switch {
	case rec.held:
		c.refresh(w, r, stale, rec.Header())
	case rec.storing != nil && rec.complete():
		rec.storing.body = rec.body
		c.put(rec.storing, r)
	}
}

// refresh answers with what was kept and is still right (section 4.3.4).
func (c *Cache) refresh(w http.ResponseWriter, r *http.Request, stale *stored, news http.Header) {
	header := stale.header.Clone()
	for name, values := range news {
		if name != "Content-Length" && name != "Content-Encoding" && name != "Content-Type" {
			header[name] = values
		}
	}
	for name := range news {
		delete(w.Header(), name)
	}
	now := c.now()
	fresh := storable(stale.key, r, false, stale.status, header, now)
	if fresh == nil {
		fresh = &stored{key: stale.key, status: stale.status, header: header, date: now}
	}
	fresh.body = stale.body
	if fresh.lifetime > 0 {
		c.put(fresh, r)
	} else {
		c.drop(stale.key)
	}
	fresh.answer(w, r, now, nil) // news has what this client is told
}

// recorder passes a response on and keeps a copy of it.
type recorder struct {
	http.ResponseWriter
	decide          func(int, http.Header) *stored // or nil: nothing is kept
	keep            int64
	holdNotModified bool

	status  int
	held    bool // a 304 that the client must not see
	storing *stored
	body    []byte
	failed  bool
}

// Unwrap lets http.ResponseController reach flushing.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	if status < 200 || r.status != 0 {
		r.ResponseWriter.WriteHeader(status)
		return
	}
	r.status = status
	if status == http.StatusNotModified && r.holdNotModified {
		r.held = true
		return
	}
	if r.decide != nil {
		r.storing = r.decide(status, r.Header())
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	if r.held {
		return len(p), nil
	}
	if r.storing != nil {
		if int64(len(r.body)+len(p)) > r.keep {
			r.storing, r.body = nil, nil
		} else {
			r.body = append(r.body, p...)
		}
	}
	n, err := r.ResponseWriter.Write(p)
	r.failed = r.failed || err != nil
	return n, err
}

// complete tells whether the whole body was seen.
func (r *recorder) complete() bool {
	if length := r.storing.header.Get("Content-Length"); length != "" && length != strconv.Itoa(len(r.body)) {
		return false
	}
	return !r.failed
}
