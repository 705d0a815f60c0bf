package eventloop

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gantryhq/gantry/services/gateway/http1"
)

// patience bounds every wait of a test that is expected to succeed.
const patience = 10 * time.Second

// everything is a policy that sends all requests to the same backends in turn.
type everything struct {
	mu       sync.Mutex
	backends []*Backend
	next     int
	begun    int
	ended    []int // statuses
	refused  []int
	timeouts Timeouts
	picky    bool          // refuses answers with status 503
	pause    time.Duration // before each further attempt
	after    []Failure     // why there were attempts
}

func (p *everything) Begin(r *Request) Exchange {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun++
	return &attempt{policy: p, repeatable: string(r.Head.Method) != "POST"}
}

func (p *everything) Refused(_ *Request, status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused = append(p.refused, status)
}

// balanced waits until every exchange that was begun has ended.
func (p *everything) balanced(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		p.mu.Lock()
		begun, ended := p.begun, len(p.ended)
		p.mu.Unlock()
		if begun == ended {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d exchanges were begun, %d ended", begun, ended)
		}
		time.Sleep(time.Millisecond)
	}
}

type attempt struct {
	policy     *everything
	repeatable bool
	tried      int
}

func (a *attempt) Next(after Failure) (*Backend, time.Duration) {
	a.policy.mu.Lock()
	defer a.policy.mu.Unlock()
	a.policy.after = append(a.policy.after, after)
	if a.tried >= len(a.policy.backends) {
		return nil, 0
	}
	if d := a.policy.pause; d > 0 && after != NoBackend && after != Paused {
		return nil, d
	}
	a.tried++
	a.policy.next++
	return a.policy.backends[a.policy.next%len(a.policy.backends)], 0
}

func (a *attempt) AppendRequest(b []byte, r *Request) []byte {
	b = append(append(b, r.Head.Method...), ' ')
	b = append(append(b, r.Head.Target...), " HTTP/1.1\r\n"...)
	return append(r.Head.AppendFields(b, r.Raw), "Via: test\r\n"...)
}

func (a *attempt) Repeatable() bool { return a.repeatable }

func (a *attempt) Timeouts() Timeouts {
	a.policy.mu.Lock()
	defer a.policy.mu.Unlock()
	return a.policy.timeouts
}

// limit sets the timeouts of the exchanges to come.
func (p *everything) limit(t Timeouts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timeouts = t
}

func (a *attempt) PassesResponse() bool {
	return a.repeatable && !a.policy.picky
}

func (a *attempt) AppendResponse(b, raw []byte, h *http1.Head, refusable bool) []byte {
	if refusable && a.policy.picky && a.repeatable && h.Status == http.StatusServiceUnavailable && a.tried < len(a.policy.backends) {
		return nil
	}
	return h.AppendFields(http1.AppendStatus(b, raw), raw)
}

func (a *attempt) AppendFailure(b []byte, f Failure, last bool) []byte {
	end := ""
	if last {
		end = Close
	}
	return fmt.Appendf(b, "HTTP/1.1 502 Bad Gateway\r\n%sContent-Length: 1\r\n\r\n%d", end, f)
}

func (a *attempt) End(status int, _ int64, _ time.Duration) {
	a.policy.mu.Lock()
	defer a.policy.mu.Unlock()
	a.policy.ended = append(a.policy.ended, status)
}

// front is a group with one port.
type front struct {
	*Group
	t        *testing.T
	policy   *everything
	port     *Port
	address  string
	handed   chan net.Conn
	listener *net.TCPListener
}

func newFront(t *testing.T, config Config, port *Port, backends ...string) *front {
	t.Helper()
	g, err := Start(config)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{Group: g, t: t, policy: &everything{}, port: port, address: l.Addr().String(), handed: make(chan net.Conn, 8), listener: l.(*net.TCPListener)}
	for _, b := range backends {
		f.policy.backends = append(f.policy.backends, NewBackend(netip.MustParseAddrPort(b)))
	}
	port.Policy, port.HandOff = f.policy, func(c net.Conn) { f.handed <- c }
	if err := g.Serve(f.listener, port); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := g.Drain(ctx); err != nil {
			t.Error(err)
		}
		l.Close()
		f.policy.balanced(t)
	})
	return f
}

// dial connects and says something.
func (f *front) dial(say string) *wire {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	w := newWire(f.t, conn)
	w.say(say)
	return w
}

// wire is one end of a connection, spoken byte by byte.
type wire struct {
	net.Conn
	t      *testing.T
	reader *bufio.Reader
}

func newWire(t *testing.T, conn net.Conn) *wire {
	conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { conn.Close() })
	return &wire{Conn: conn, t: t, reader: bufio.NewReader(conn)}
}

func (w *wire) say(text string) {
	w.t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		w.t.Fatal(err)
	}
}

// response reads a response to a request with this method.
func (w *wire) response(method string) (*http.Response, string) {
	w.t.Helper()
	r, err := http.ReadResponse(w.reader, &http.Request{Method: method})
	if err != nil {
		w.t.Fatalf("read response: %v", err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Fatalf("read body: %v", err)
	}
	return r, string(body)
}

// hears checks the next bytes.
func (w *wire) hears(text string) {
	w.t.Helper()
	got := make([]byte, len(text))
	if n, err := io.ReadFull(w.reader, got); err != nil || string(got) != text {
		w.t.Fatalf("heard %q, %v; want %q", got[:n], err, text)
	}
}

// ends checks that nothing more comes but the end.
func (w *wire) ends() {
	w.t.Helper()
	if rest, err := io.ReadAll(w.reader); err != nil || len(rest) > 0 {
		w.t.Fatalf("the connection goes on with %q, %v", rest, err)
	}
}

// served is an ordinary server.
func served(t *testing.T, handler http.HandlerFunc) string {
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// scripted is a backend whose connections a test speaks itself.
func scripted(t *testing.T) (address string, accept func() *wire) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String(), func() *wire {
		l.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return newWire(t, conn)
	}
}
