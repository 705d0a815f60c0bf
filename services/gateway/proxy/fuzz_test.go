package proxy

import (
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gantryhq/gantry/services/gateway/http1"
)

// understood are the requests that a strict reader finds in what a client sends, as
// "METHOD body": all that may reach a backend.
func understood(raw []byte) (requests []string) {
	for {
		var h http1.Head
		if http1.ParseRequest(raw, &h) != nil || h.Unusual&http1.Preface != 0 {
			return requests
		}
		method := string(h.Method)
		rest := raw[h.Len:]
		if !h.Chunked {
			n := int(max(h.ContentLength, 0))
			if n > len(rest) {
				return requests
			}
			requests, raw = append(requests, method+" "+string(rest[:n])), rest[n:]
			continue
		}
		var chunks http1.Chunks
		used, done, err := chunks.Scan(rest)
		if err != nil || !done {
			return requests
		}
		requests, raw = append(requests, method+" "+data(rest[:used])), rest[used:]
	}
}

// data joins the chunks of a well-formed body.
func data(body []byte) string {
	var all strings.Builder
	for {
		line, rest, _ := strings.Cut(string(body), "\r\n")
		size := 0
		for _, c := range line {
			digit := strings.IndexRune("0123456789abcdef", c|0x20)
			if c >= '0' && c <= '9' {
				digit = int(c - '0')
			}
			if digit < 0 {
				break
			}
			size = size<<4 | digit
		}
		if size == 0 {
			return all.String()
		}
		all.WriteString(rest[:size])
		body = []byte(rest[size+2:])
	}
}

// FuzzGateway sends anything on a connection. Whatever it is, the backend gets only
// requests that a strict reader finds there too, in their order; the connection
// comes to an end after the client's; and another client is served.
func FuzzGateway(f *testing.F) {
	for _, a := range slices.Concat(lengthAttacks(), chunkAttacks(), lineAttacks(), targetAttacks(), hopAttacks(), sequenceAttacks()) {
		if len(a.send) < 4<<10 {
			f.Add([]byte(a.send))
			f.Add([]byte("GET /a%2fb HTTP/1.1\r\nHost: shop.test\r\n\r\n" + a.send))
		}
	}
	g := attackedGateway(f, newWitness(f))
	f.Fuzz(func(t *testing.T, raw []byte) {
		w := newWitness(t) // what is late of an input before goes to the one before
		g.serve(w)
		c, err := net.Dial("tcp", g.address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		c.Write(raw)
		c.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Fatalf("the connection does not end: %v", err)
		}
		want := understood(raw)
		got, _ := w.seen()
		for _, r := range got {
			method, rest, _ := strings.Cut(r, " ")
			i := slices.IndexFunc(want, func(u string) bool {
				m, body, _ := strings.Cut(u, " ")
				return m == method && strings.HasSuffix(rest, " "+body)
			})
			if i < 0 {
				t.Fatalf("the backend got %q, of %q", got, want)
			}
			want = want[i+1:]
		}
		other := *g.gateway
		other.t = t
		if response, _ := other.get("shop.test", "/good"); response.StatusCode != 200 {
			t.Fatalf("another client got %d", response.StatusCode)
		}
	})
}
