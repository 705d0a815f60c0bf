package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestOrdinaryRequestsAreRead(t *testing.T) {
	raw := []byte("POST /api/v1?q=%20a HTTP/1.1\r\nHost: shop.example.com:8080\r\nUser-Agent: x/1 \r\nConnection: keep-alive\r\nX-Forwarded-For: 10.0.0.1\r\nContent-Length: 12\r\nCookie: a=b\r\n\r\nbody")
	var h Head
	if err := ParseRequest(raw, &h); err != nil {
		t.Fatal(err)
	}
	if string(h.Method) != "POST" || string(h.Path) != "/api/v1" || string(h.Host) != "shop.example.com:8080" ||
		string(h.UserAgent) != "x/1" || string(h.ForwardedFor) != "10.0.0.1" || h.ContentLength != 12 || h.Close || h.Unusual != 0 {
		t.Errorf("read %+v", h)
	}
	if rest := raw[h.Len:]; string(rest) != "body" {
		t.Errorf("the body begins with %q", rest)
	}
	want := "Host: shop.example.com:8080\r\nUser-Agent: x/1 \r\nContent-Length: 12\r\nCookie: a=b\r\n"
	if got := string(h.AppendFields(nil, raw)); got != want {
		t.Errorf("forwarded %q, want %q", got, want)
	}
	except := h.AppendFieldsExcept(nil, raw, func(name []byte) bool { return strings.EqualFold(string(name), "cookie") })
	if got := string(except); got != strings.TrimSuffix(want, "Cookie: a=b\r\n") {
		t.Errorf("without cookies %q", got)
	}
	if v, ok := h.Lookup(raw, "cookie"); !ok || v != "a=b" {
		t.Errorf("looked up %q, %v", v, ok)
	}
}

func TestAHeadMayArriveInAnyPieces(t *testing.T) {
	raw := []byte("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n")
	var h Head
	for n := range raw {
		if err := ParseRequest(raw[:n], &h); !errors.Is(err, ErrIncomplete) {
			t.Fatalf("%q: %v", raw[:n], err)
		}
	}
	if err := ParseRequest(raw, &h); err != nil {
		t.Fatal(err)
	}
}

// malformed are requests on whose meaning or end two servers could disagree.
var malformed = []string{
	"GET / HTTP/1.1\nHost: h\n\n",
	"GET / HTTP/1.1\r\nHost: h\r\nA: b\n\r\n",
	"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
	"GET / HTTP/1.1\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\n: empty\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nA\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nA: b\x00c\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nA\x01: b\r\n\r\n",
	"GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
	"GET / a HTTP/1.1\r\nHost: h\r\n\r\n",
	"GET / HTTP/1.2\r\nHost: h\r\n\r\n",
	"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
	"GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
	"GET /\r\nHost: h\r\n\r\n",
	" GET / HTTP/1.1\r\nHost: h\r\n\r\n",
	"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
	"G(T / HTTP/1.1\r\nHost: h\r\n\r\n",
	"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -3\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3 3\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999999999999999\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
	"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
}

func TestAmbiguousRequestsAreRefused(t *testing.T) {
	var h Head
	for _, raw := range malformed {
		if err := ParseRequest([]byte(raw), &h); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v %+v", raw, err, h.Unusual)
		}
	}
}

func TestUnusualRequestsAreMarked(t *testing.T) {
	for raw, want := range map[string]Unusual{
		"GET / HTTP/1.0\r\n\r\n": HTTP10 | OddHost,
		"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n":           Upgrade,
		"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n":          Expect,
		"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n":                                                OddTarget,
		"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n":                                                    OddTarget,
		"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n":                                                OddTarget,
		"GET /a%2fb HTTP/1.1\r\nHost: h\r\n\r\n":                                                   OddTarget,
		"GET /a/../b HTTP/1.1\r\nHost: h\r\n\r\n":                                                  OddTarget,
		"GET //admin HTTP/1.1\r\nHost: h\r\n\r\n":                                                  OddTarget,
		"GET /a\\b HTTP/1.1\r\nHost: h\r\n\r\n":                                                    OddTarget,
		"GET / HTTP/1.1\r\nHost: h/x\r\n\r\n":                                                      OddHost,
		"GET / HTTP/1.1\r\nHost:\r\n\r\n":                                                          OddHost,
		"GET / HTTP/1.1\r\nHost: h\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\n\r\n":          NamedFields,
		"GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n":                                        Trailers,
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n":           Trailers,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                                         Preface,
		"GET / HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("A: b\r\nKeep-Alive: 1\r\n", 13) + "\r\n": ManyHopFields,
	} {
		var h Head
		if err := ParseRequest([]byte(raw), &h); err != nil || h.Unusual != want {
			t.Errorf("%q: %v, marked %b, want %b", raw, err, h.Unusual, want)
		}
	}
}

func TestResponsesAreRead(t *testing.T) {
	raw := []byte("HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nContent-Length: 0\r\nKeep-Alive: timeout=5\r\n\r\n")
	var h Head
	if err := ParseResponse(raw, &h); err != nil {
		t.Fatal(err)
	}
	if got := string(h.AppendFields(AppendStatus(nil, raw), raw)); h.Status != 404 || h.Close || got != "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n" {
		t.Errorf("read %+v, forwarded %q", h, got)
	}
	for _, raw := range []string{
		"HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1  200 OK\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 099 OK\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
	} {
		if err := ParseResponse([]byte(raw), &h); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestChunkedBodiesEndInAnyPieces(t *testing.T) {
	for _, body := range []string{
		"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "5;name=\"v\"\r\nhello\r\n00\r\n\r\n", "1\r\nx\r\n0\r\nDigest: y\r\nB: c\r\n\r\n", "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
	} {
		stream := body + "GET / HTTP/1.1\r\n"
		for size := 1; size <= len(stream); size++ {
			var c Chunks
			total, done := 0, false
			for at := 0; at < len(stream) && !done; at += size {
				used, d, err := c.Scan([]byte(stream[at:min(at+size, len(stream))]))
				if err != nil {
					t.Fatalf("%q in pieces of %d: %v", body, size, err)
				}
				total, done = total+used, d
			}
			if !done || total != len(body) {
				t.Fatalf("%q in pieces of %d: %d bytes, ended %v", body, size, total, done)
			}
		}
	}
	for _, body := range []string{
		"\r\n", "x\r\n", "-1\r\n", "0x1\r\nz", "5\nhello", "5\r\nhelloX", "5\r\nhello\n0", "0\n", "0\r\n\n", "0\r\n folded: x\r\n\r\n",
		"ffffffffffffffff\r\n", "1;\n", "1;a\x00\r\n", "0\r\nA: b\n\r\n", "1" + strings.Repeat(" ", maxExtension+2), "0\r\n" + strings.Repeat("a: b\r\n", maxTrailers),
	} {
		var c Chunks
		if _, _, err := c.Scan([]byte(body)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.40q: %v", body, err)
		}
	}
}

// FuzzRequest compares with net/http: what is accepted as ordinary must be
// understood alike there, byte for byte.
func FuzzRequest(f *testing.F) {
	for _, raw := range malformed {
		f.Add([]byte(raw))
	}
	f.Add([]byte("POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabcGET"))
	f.Add([]byte("POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var h Head
		if ParseRequest(raw, &h) != nil || h.Unusual != 0 {
			return
		}
		source := bytes.NewReader(raw)
		reader := bufio.NewReader(source)
		r, err := http.ReadRequest(reader)
		if err != nil {
			t.Fatalf("accepted %q, which net/http refuses: %v", raw, err)
		}
		if r.Method != string(h.Method) || r.Host != string(h.Host) || r.URL.Path != string(h.Path) || r.Close != h.Close {
			t.Fatalf("read %+v, net/http %+v", h, r)
		}
		if length := max(h.ContentLength, 0); !h.Chunked && r.ContentLength != length || h.Chunked && r.ContentLength != -1 {
			t.Fatalf("length %d, net/http %d", h.ContentLength, r.ContentLength)
		}
		body, err := io.ReadAll(r.Body)
		if h.Chunked {
			compareChunks(t, raw[h.Len:], err == nil, len(raw)-h.Len-reader.Buffered()-source.Len())
		} else if want := min(int(max(h.ContentLength, 0)), len(raw)-h.Len); len(body) != want {
			t.Fatalf("body of %d bytes, want %d", len(body), want)
		}
	})
}

// compareChunks checks that a body which is read to its end is also accepted by
// net/http, and ends at the same byte for both.
func compareChunks(t *testing.T, raw []byte, accepted bool, end int) {
	var c Chunks
	used, done, err := c.Scan(raw)
	if err != nil || !done {
		return
	}
	if !accepted || used != end {
		t.Fatalf("read the body %q up to byte %d; net/http (accepted: %v) up to %d", raw, used, accepted, end)
	}
}

func BenchmarkParseRequest(b *testing.B) {
	raw := []byte("GET /api/v1/orders/17?page=2 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\nCookie: session=0123456789abcdef\r\n\r\n")
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	var h Head
	out := make([]byte, 0, 1024)
	for b.Loop() {
		if err := ParseRequest(raw, &h); err != nil {
			b.Fatal(err)
		}
		out = h.AppendFields(out[:0], raw)
	}
}

func BenchmarkParseResponse(b *testing.B) {
	raw := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: be\r\nDate: Sun, 22 Nov 2026 08:00:00 GMT\r\nContent-Type: application/json\r\nContent-Length: 1024\r\nCache-Control: no-store\r\n\r\n")
	b.ReportAllocs()
	var h Head
	for b.Loop() {
		if err := ParseResponse(raw, &h); err != nil {
			b.Fatal(err)
		}
	}
}

func TestValuesAreJudgedAlikeOneByOneAndTogether(t *testing.T) {
	for length := range 20 {
		for at := range length {
			for c := range 256 {
				b := bytes.Repeat([]byte{'a'}, length)
				b[at] = byte(c)
				if got, want := allValue(b), all(b, valueByte); got != want {
					t.Fatalf("allValue(%q) is %v, all says %v", b, got, want)
				}
			}
		}
	}
}
