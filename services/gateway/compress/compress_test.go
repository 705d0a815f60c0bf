package compress

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/gantryhq/gantry/services/gateway/guard"
)

func policy() *guard.Compress {
	return &guard.Compress{Algorithms: []string{"zstd", "br", "gzip"}, Types: []string{"text/*", "application/json"}, MinSize: 100}
}

// answer runs a handler behind a Writer.
func answer(t *testing.T, accept string, private bool, handler http.HandlerFunc) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	if accept != "" {
		r.Header.Set("Accept-Encoding", accept)
	}
	rec := httptest.NewRecorder()
	w := New(rec, r, policy(), private)
	handler(w, r)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return rec
}

func decode(t *testing.T, rec *httptest.ResponseRecorder) string {
	t.Helper()
	var from io.Reader = bytes.NewReader(rec.Body.Bytes())
	var err error
	switch rec.Header().Get("Content-Encoding") {
	case "gzip":
		from, err = gzip.NewReader(from)
	case "br":
		from = brotli.NewReader(from)
	case "zstd":
		from, err = zstd.NewReader(from)
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(from)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestWhichResponsesAreCompressed(t *testing.T) {
	long := strings.Repeat("all work and no play ", 1000)
	for _, c := range []struct {
		name, accept string
		private      bool
		header       []string
		body, want   string
	}{
		{"zstd before others", "gzip, br, zstd", false, []string{"Content-Type: text/html; charset=utf-8"}, long, "zstd"},
		{"what the client prefers", "gzip;q=1, br;q=0.5, zstd;q=0.1", false, []string{"Content-Type: application/json"}, long, "gzip"},
		{"br", "br", false, []string{"Content-Type: text/css"}, long, "br"},
		{"anything", "*", false, []string{"Content-Type: text/css"}, long, "zstd"},
		{"refused", "gzip;q=0, identity", false, []string{"Content-Type: text/css"}, long, ""},
		{"nothing accepted", "", false, []string{"Content-Type: text/css"}, long, ""},
		{"other type", "gzip", false, []string{"Content-Type: image/png"}, long, ""},
		{"short", "gzip", false, []string{"Content-Type: text/css"}, "short", ""},
		{"short with length", "gzip", false, []string{"Content-Type: text/css", "Content-Length: 5"}, "short", ""},
		{"encoded already", "gzip", false, []string{"Content-Type: text/css", "Content-Encoding: br"}, long, "br"},
		{"not to be changed", "gzip", false, []string{"Content-Type: text/css", "Cache-Control: public, no-transform"}, long, ""},
		{"private", "gzip", true, []string{"Content-Type: text/css"}, long, ""},
		{"with a cookie", "gzip", false, []string{"Content-Type: text/css", "Set-Cookie: a=b"}, long, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec := answer(t, c.accept, c.private, func(w http.ResponseWriter, _ *http.Request) {
				for _, h := range c.header {
					name, value, _ := strings.Cut(h, ": ")
					w.Header().Add(name, value)
				}
				w.Header().Set("ETag", `"1"`)
				io.WriteString(w, c.body)
			})
			if got := rec.Header().Get("Content-Encoding"); got != c.want {
				t.Fatalf("encoded as %q, want %q", got, c.want)
			}
			if c.name == "encoded already" {
				return
			}
			if got := decode(t, rec); got != c.body {
				t.Errorf("the body is %d bytes, want %d", len(got), len(c.body))
			}
			if compressed := c.want != ""; compressed != (rec.Header().Get("ETag") == `W/"1"`) || compressed && (rec.Header().Get("Vary") != "Accept-Encoding" || rec.Body.Len() > len(c.body)/5) {
				t.Errorf("%d bytes with %v", rec.Body.Len(), rec.Header())
			}
		})
	}
}

func TestAStreamIsNotHeldBack(t *testing.T) {
	rec := answer(t, "gzip", false, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "first")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Fatal(err)
		}
		if w.(*Writer).ResponseWriter.(*httptest.ResponseRecorder).Body.Len() == 0 {
			t.Error("what was flushed has not left")
		}
		io.WriteString(w, " second")
	})
	if got := decode(t, rec); got != "first second" {
		t.Errorf("got %q", got)
	}
}
