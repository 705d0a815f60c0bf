package cache

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// origin is a server behind a cache, at a time that stands still.
type origin struct {
	t     *testing.T
	cache *Cache
	now   time.Time
	asked int
	last  http.Header // of the request that came through
	serve http.HandlerFunc
}

func newOrigin(t *testing.T, serve http.HandlerFunc) *origin {
	o := &origin{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), serve: serve}
	o.cache = New(1<<20, func() time.Time { return o.now })
	return o
}

// says is an origin whose answers have these fields and a body that counts them.
func says(t *testing.T, header ...string) *origin {
	n := 0
	return newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		for _, h := range header {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Add(name, value)
		}
		n++
		fmt.Fprintf(w, "answer %d", n)
	})
}

func (o *origin) do(method, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	rec := httptest.NewRecorder()
	private := r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != ""
	o.cache.Serve(rec, r, Options{Key: "route", Private: private, MaxObject: 1000}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.asked++
		o.last = r.Header
		o.serve(w, r)
	}))
	return rec
}

func (o *origin) get(header ...string) *httptest.ResponseRecorder {
	return o.do("GET", "http://shop.example.com/a", header...)
}

// RFC 9111, section 3: which responses are kept.
func TestWhatIsKept(t *testing.T) {
	for _, c := range []struct {
		name     string
		response []string
		request  []string
		kept     bool
	}{
		{"max-age", []string{"Cache-Control: max-age=60"}, nil, true},
		{"s-maxage before max-age", []string{"Cache-Control: max-age=0, s-maxage=60"}, nil, true},
		{"s-maxage of 0", []string{"Cache-Control: max-age=60, s-maxage=0"}, nil, false},
		{"Expires", []string{"Expires: Sun, 01 Mar 2026 12:01:00 GMT"}, nil, true},
		{"Expires in the past", []string{"Expires: Sun, 01 Mar 2026 11:00:00 GMT"}, nil, false},
		{"Expires that is no date", []string{"Expires: 0"}, nil, false},
		{"nothing said", nil, nil, false},
		{"no-store", []string{"Cache-Control: no-store, max-age=60"}, nil, false},
		{"no-store in a second field", []string{"Cache-Control: max-age=60", "Cache-Control: no-store"}, nil, false},
		{"private", []string{"Cache-Control: private, max-age=60"}, nil, false},
		{"no-cache", []string{"Cache-Control: no-cache, max-age=60"}, nil, false},
		{"a cookie", []string{"Cache-Control: max-age=60", "Set-Cookie: a=b"}, nil, false},
		{"two lifetimes", []string{"Cache-Control: max-age=60, max-age=3600"}, nil, false},
		{"nonsense", []string{"Cache-Control: max-age=soon"}, nil, false},
		{"too old when it comes", []string{"Cache-Control: max-age=60", "Age: 100"}, nil, false},
		{"Vary: *", []string{"Cache-Control: max-age=60", "Vary: *"}, nil, false},
		{"with credentials", []string{"Cache-Control: max-age=60"}, []string{"Authorization: Bearer x"}, false},
		{"with credentials, public", []string{"Cache-Control: public, max-age=60"}, []string{"Authorization: Bearer x"}, true},
		{"with a cookie of the client", []string{"Cache-Control: max-age=60"}, []string{"Cookie: a=b"}, false},
		{"the client forbids it", []string{"Cache-Control: max-age=60"}, []string{"Cache-Control: no-store"}, false},
		{"a part", []string{"Cache-Control: max-age=60"}, []string{"Range: bytes=0-1"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := says(t, c.response...)
			o.get(c.request...)
			o.get(c.request...)
			if kept := o.asked == 1; kept != c.kept {
				t.Errorf("kept: %v, want %v", kept, c.kept)
			}
		})
	}
}

func TestHowLongItIsKept(t *testing.T) {
	o := says(t, "Cache-Control: max-age=60")
	o.get()
	o.now = o.now.Add(59 * time.Second)
	if r := o.get(); r.Body.String() != "answer 1" || r.Header().Get("Age") != "59" {
		t.Errorf("got %q with age %s", r.Body, r.Header().Get("Age"))
	}
	for _, c := range []struct{ header, body string }{
		{"Cache-Control: max-age=10", "answer 2"}, {"Cache-Control: no-cache", "answer 3"}, {"Pragma: no-cache", "answer 4"},
		{"Cache-Control: min-fresh=61", "answer 5"}, {"Cache-Control: max-age=100", "answer 5"},
	} {
		if r := o.get(c.header); r.Body.String() != c.body {
			t.Errorf("%s: %q, want %q", c.header, r.Body, c.body)
		}
	}
	o.now = o.now.Add(time.Minute)
	if r := o.get("Cache-Control: only-if-cached"); r.Code != 504 {
		t.Errorf("only-if-cached: %d", r.Code)
	}
	if r := o.get(); r.Body.String() != "answer 6" {
		t.Errorf("it is kept for longer than it is fresh: %q", r.Body)
	}
}

// What is private to one client never reaches another.
func TestCredentialsAndKeptResponses(t *testing.T) {
	o := says(t, "Cache-Control: max-age=60")
	o.get()
	if r := o.get("Authorization: Bearer x"); r.Body.String() != "answer 2" {
		t.Errorf("a client with credentials got what was kept: %q", r.Body)
	}
	if r := o.get(); r.Body.String() != "answer 1" {
		t.Errorf("a client without credentials got %q", r.Body)
	}
}

func TestVariants(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "Accept-Language, X-Shop")
		io.WriteString(w, r.Header.Get("Accept-Language"))
	})
	for range 2 {
		for _, language := range []string{"de", "en"} {
			if r := o.get("Accept-Language: " + language); r.Body.String() != language {
				t.Errorf("asked for %s, got %q", language, r.Body)
			}
		}
	}
	if o.asked != 2 {
		t.Errorf("the origin was asked %d times, want 2", o.asked)
	}
	for n := range 100 {
		o.get(fmt.Sprintf("Accept-Language: x%d", n))
	}
	if n := len(o.cache.entries["route\x00shop.example.com\x00http://shop.example.com/a"]); n > maxVariants {
		t.Errorf("%d variants are kept", n)
	}
}

func TestValidation(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("ETag", `"v1"`)
		if r.Header.Get("If-None-Match") == `"v1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		io.WriteString(w, "content")
	})
	o.get()
	o.now = o.now.Add(2 * time.Minute)
	if r := o.get(); r.Code != 200 || r.Body.String() != "content" || o.last.Get("If-None-Match") != `"v1"` {
		t.Errorf("stale: %d %q, asked with %v", r.Code, r.Body, o.last)
	}
	if o.get(); o.asked != 2 {
		t.Error("what was validated is not fresh again")
	}
	for _, tags := range []string{`"v1"`, `W/"v1"`, `"v0", "v1"`, "*"} {
		if r := o.get("If-None-Match: " + tags); r.Code != 304 || r.Body.Len() != 0 {
			t.Errorf("the client has %s: %d", tags, r.Code)
		}
	}
	if r := o.get(`If-None-Match: "v0"`); r.Code != 200 {
		t.Errorf("the client has an old one: %d", r.Code)
	}
}

func TestWritesForgetWhatWasKept(t *testing.T) {
	o := says(t, "Cache-Control: max-age=60")
	o.get()
	if r := o.do("HEAD", "http://shop.example.com/a"); r.Body.Len() != 0 || o.asked != 1 {
		t.Errorf("HEAD got %q and asked %d times", r.Body, o.asked)
	}
	o.do("POST", "http://shop.example.com/a")
	if r := o.get(); r.Body.String() != "answer 3" {
		t.Errorf("after a write: %q", r.Body)
	}
	if r := o.do("GET", "http://other.example.com/a"); r.Body.String() != "answer 4" {
		t.Errorf("another host: %q", r.Body)
	}
	if r := o.do("GET", "http://shop.example.com/a?b"); r.Body.String() != "answer 5" {
		t.Errorf("another query: %q", r.Body)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, strings.Repeat("x", 1000))
	})
	for n := range 10_000 {
		o.do("GET", fmt.Sprintf("http://shop.example.com/%d", n))
	}
	if size := o.cache.Size(); size > 1<<20 || size < 1<<19 {
		t.Errorf("%d bytes are in use, want about a megabyte", size)
	}
	if o.do("GET", "http://shop.example.com/9999"); o.asked != 10_000 {
		t.Error("what was used last is not kept")
	}
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, strings.Repeat("x", 1001))
	}
	o.do("GET", "http://shop.example.com/big")
	o.do("GET", "http://shop.example.com/big")
	if o.asked != 10_002 {
		t.Error("a body that is too large is kept")
	}
}

func TestABodyThatWasCutIsNotKept(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "half")
	})
	o.get()
	o.get()
	if o.asked != 2 {
		t.Error("half a body is kept")
	}
}
