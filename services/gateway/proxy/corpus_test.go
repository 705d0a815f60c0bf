package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// witness is a backend that notes exactly what arrives: every connection's bytes,
// and the requests that it takes them for. It understands HTTP by net/http, which
// is more lenient than the gateway may be.
type witness struct {
	address netip.AddrPort

	mu       sync.Mutex
	bytes    bytes.Buffer
	requests []string // "METHOD host target body"
}

func newWitness(t testing.TB) *witness {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{address: netip.MustParseAddrPort(l.Addr().String())}
	var open sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		open.Wait()
	})
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			open.Go(func() { w.serve(c) })
		}
	})
	return w
}

func (w *witness) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReaderSize(io.TeeReader(c, w), 64<<10) // net/http takes as long a trailer as fits
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if r.Header.Get("Expect") != "" {
			fmt.Fprint(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.mu.Lock()
		w.requests = append(w.requests, fmt.Sprintf("%s %s %s %s", r.Method, r.Host, r.RequestURI, body))
		w.mu.Unlock()
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
	}
}

func (w *witness) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes.Write(p)
}

// seen returns what arrived since it was last asked.
func (w *witness) seen() (requests []string, raw string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	requests, raw = w.requests, w.bytes.String()
	w.requests = nil
	w.bytes.Reset()
	return requests, raw
}

// attack is one sequence of bytes that a client sends on a connection, and what
// must come of it.
type attack struct {
	name string
	// section says where the expectation is written.
	section string
	send    string
	// answers are the final statuses that the client gets, in order.
	answers []int
	// closed says that the connection must end after the last answer.
	closed bool
	// requests are those that the backend gets, complete ones only.
	requests []string
	// contains and lacks are looked for in the bytes that the backend gets.
	contains, lacks []string
}

// refused is an attack that gets one answer and the end of the connection, and of
// which the backend sees no whole request.
func refused(name, section string, status int, send string) attack {
	return attack{name: name, section: section, send: send, answers: []int{status}, closed: true}
}

// passed is a request that is forwarded.
func passed(name, section, send string, requests ...string) attack {
	a := attack{name: name, section: section, send: send, requests: requests}
	for range requests {
		a.answers = append(a.answers, http.StatusOK)
	}
	return a
}

func (a attack) with(contains ...string) attack   { a.contains = contains; return a }
func (a attack) without(lacks ...string) attack   { a.lacks = lacks; return a }
func (a attack) ending() attack                   { a.closed = true; return a }
func (a attack) answering(statuses ...int) attack { a.answers = statuses; return a }

// get is a request that nobody misunderstands; smuggled is what attackers hide.
const (
	get      = "GET /next HTTP/1.1\r\nHost: shop.test\r\n\r\n"
	smuggled = "GET /smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n"
	gotNext  = "GET shop.test /next "
)

// post is a POST with these field lines and body.
func post(fields, body string) string {
	return "POST /p HTTP/1.1\r\nHost: shop.test\r\n" + fields + "\r\n" + body
}

// head is a GET with these field lines.
func head(fields string) string { return "GET /g HTTP/1.1\r\nHost: shop.test\r\n" + fields + "\r\n" }

// TestAttacks sends every attack over every way into the gateway.
func TestAttacks(t *testing.T) {
	for _, way := range []struct {
		name   string
		tls    bool
		before string // sent first, answered with 200
		seen   string
	}{
		{name: "plain"},
		{name: "TLS", tls: true},
		// An encoded target is not ordinary: net/http serves the connection from here on.
		{name: "after a handed-over request", before: "GET /a%2fb HTTP/1.1\r\nHost: shop.test\r\n\r\n", seen: "GET shop.test /a%2fb "},
		{name: "after a handed-over request, TLS", tls: true, before: "GET /a%2fb HTTP/1.1\r\nHost: shop.test\r\n\r\n", seen: "GET shop.test /a%2fb "},
	} {
		t.Run(way.name, func(t *testing.T) {
			w := newWitness(t)
			g := attackedGateway(t, w)
			for _, a := range slices.Concat(lengthAttacks(), chunkAttacks(), lineAttacks(), targetAttacks(), hopAttacks(), sequenceAttacks()) {
				t.Run(a.name, func(t *testing.T) {
					if way.before != "" {
						a.send = way.before + a.send
						a.answers = append([]int{http.StatusOK}, a.answers...)
						for i, status := range a.answers {
							if status == http.StatusRequestURITooLong { // net/http has one status for both
								a.answers[i] = http.StatusRequestHeaderFieldsTooLarge
							}
						}
						a.requests = append([]string{way.seen}, a.requests...)
					}
					g.attack(t, w, a, way.tls)
				})
			}
		})
	}
}

// attacked is a gateway with a TLS port.
type attacked struct {
	*gateway
	secure string // address
}

// attackedGateway serves all hosts from the witness, plain and with TLS.
func attackedGateway(t testing.TB, w *witness, edit ...func(*Config)) *attacked {
	g := &attacked{gateway: newGateway(t, edit...)}
	g.rule("", "/", to("witness"))
	g.builder.AddListener(443, true, "")
	g.builder.AddCertificate(443, route.HostPattern{Name: "shop.test"}, certificate(t, "shop.test"))
	g.builder.AddRule(443, true, "", route.HostPattern{}, route.Match{Kind: route.Prefix, Path: "/"}, to("witness"))
	g.secure = g.apply()[443].Address.String()
	g.serve(w)
	return g
}

// serve makes the witness the only backend.
func (g *attacked) serve(w *witness) {
	g.SetUpstreams([]route.Upstream{{Service: servicePort("witness"), Protocol: route.HTTP1, Endpoints: []netip.AddrPort{w.address}}}, nil)
}

// patience is how long an answer may take on a busy machine.
const patience = 20 * time.Second

func (g *attacked) attack(t *testing.T, w *witness, a attack, secure bool) {
	t.Helper()
	w.seen()
	c := g.connect(t, secure)
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	go io.WriteString(c, a.send) // the gateway may answer, and close, before it has read all
	in := bufio.NewReader(c)
	var got []int
	for range a.answers {
		status, err := finalAnswer(in)
		if err != nil {
			requests, raw := w.seen()
			t.Fatalf("%s: after answers %v: %v; the backend got %q: %q", a.section, got, err, requests, raw)
		}
		got = append(got, status)
	}
	if !slices.Equal(got, a.answers) {
		t.Errorf("%s: answered %v, want %v", a.section, got, a.answers)
	}
	if a.closed {
		if rest, err := io.ReadAll(in); err != nil && errors.Is(err, os.ErrDeadlineExceeded) || len(rest) > 0 {
			t.Errorf("%s: the connection must end after the answer; it says %q, %v", a.section, rest, err)
		}
	}
	requests, raw := w.seen()
	if !slices.Equal(requests, a.requests) {
		t.Errorf("%s: the backend got %q, want %q: %q", a.section, requests, a.requests, raw)
	}
	for _, text := range a.contains {
		if !strings.Contains(raw, text) {
			t.Errorf("%s: the backend misses %q in %q", a.section, text, raw)
		}
	}
	for _, text := range append(a.lacks, "/smuggled") {
		if strings.Contains(strings.ToLower(raw), strings.ToLower(text)) && !slices.Contains(a.contains, text) {
			t.Errorf("%s: the backend must not see %q: %q", a.section, text, raw)
		}
	}
}

// connect opens a connection to the gateway.
func (g *attacked) connect(t *testing.T, secure bool) net.Conn {
	t.Helper()
	if !secure {
		c, err := net.Dial("tcp", g.address)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c, err := tls.Dial("tcp", g.secure, &tls.Config{ServerName: "shop.test", InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// finalAnswer reads one response, after interim ones.
func finalAnswer(in *bufio.Reader) (int, error) {
	for {
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			return 0, err
		}
		_, err = io.Copy(io.Discard, r.Body)
		if err != nil {
			return r.StatusCode, err
		}
		if r.StatusCode >= 200 {
			return r.StatusCode, nil
		}
	}
}

// TestSlowClientsAreTimedOut has clients stop in the middle of everything.
func TestSlowClientsAreTimedOut(t *testing.T) {
	w := newWitness(t)
	g := attackedGateway(t, w, func(c *Config) {
		c.HeaderTimeout, c.IdleTimeout, c.StallTimeout = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
	})
	const odd = "GET /a%2fb HTTP/1.1\r\nHost: shop.test\r\n\r\n" // net/http goes on from there
	for name, sent := range map[string]string{
		"nothing":                            "",
		"a part of a line":                   "GET /",
		"a part of the fields":               "GET / HTTP/1.1\r\nHost: shop.test\r\nA: ",
		"a part of a body":                   post("Content-Length: 100\r\n", "hello"),
		"a part of a chunk":                  post("Transfer-Encoding: chunked\r\n", "ff\r\nhello"),
		"nothing after a request":            get,
		"a part of a line after a request":   get + "GET /",
		"nothing, on net/http":               odd,
		"a part of a line, on net/http":      odd + "GET /",
		"a part of the fields, on net/http":  odd + "GET / HTTP/1.1\r\nHost: shop.test\r\nA: ",
		"a part of a body, on net/http":      odd + post("Content-Length: 100\r\n", "hello"),
		"a part of a chunk, on net/http":     odd + post("Transfer-Encoding: chunked\r\n", "ff\r\nhello"),
		"no body although it was announced":  post("Content-Length: 5\r\nExpect: 100-continue\r\n", ""),
		"a part of the preface of HTTP/2":    "PRI * HTTP/2.0\r\n",
		"a part of a head that is odd later": "GET /a%2fb HTTP/1.1\r\nHost: shop.test\r\n",
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS=%v", name, secure), func(t *testing.T) {
				t.Parallel()
				c := g.connect(t, secure)
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				io.WriteString(c, sent)
				if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("the connection is still open after %v", patience)
				}
			})
		}
	}
}
