package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// idleBackendConnection is how long an unused connection to an endpoint is
// kept: less than the 5 s after which common servers (Node.js, Apache) close
// theirs, because a request sent while the server closes is lost.
const idleBackendConnection = 4 * time.Second

// candidates is how many endpoints are compared for each request.
const candidates = 8

// upstreams finds the pool of a Service port without a lock.
type upstreams struct {
	connectTimeout time.Duration
	forget         func(*eventloop.Backend) // closes the event loop's connections

	mu    sync.Mutex // serialises set
	pools atomic.Pointer[map[route.ServicePort]*pool]
}

// pool balances between the endpoints of one Service port.
type pool struct {
	endpoints atomic.Pointer[[]*endpoint]
	next      atomic.Uint32
}

// endpoint is one address. It has a Transport of its own, so that its idle
// connections can be closed when it leaves, before another pod gets its address.
type endpoint struct {
	address   netip.AddrPort
	host      string // address as text
	protocol  route.Protocol
	transport *http.Transport
	loop      *eventloop.Backend // the same on the event loop
	inFlight  atomic.Int32
	removed   atomic.Bool // set before anyone may take a count of 0 in flight for drained
}

func (u *upstreams) get(s route.ServicePort) *pool {
	if pools := u.pools.Load(); pools != nil {
		return (*pools)[s]
	}
	return nil
}

func (u *upstreams) set(changed []route.Upstream, gone []route.ServicePort) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var current map[route.ServicePort]*pool
	if pools := u.pools.Load(); pools != nil {
		current = *pools
	}
	// Copied only when the set of Service ports changes, not for endpoints.
	pools, copied := current, false
	own := func() {
		if !copied {
			pools, copied = maps.Clone(current), true
		}
		if pools == nil {
			pools = map[route.ServicePort]*pool{}
		}
	}
	for _, s := range gone {
		if p := pools[s]; p != nil {
			own()
			delete(pools, s)
			p.set(route.Upstream{}, u)
		}
	}
	for _, c := range changed {
		p := pools[c.Service]
		if p == nil {
			own()
			p = &pool{}
			pools[c.Service] = p
		}
		p.set(c, u)
	}
	if copied {
		u.pools.Store(&pools)
	}
}

// set replaces the endpoints. Those that stay keep their connections and their
// count of requests in flight.
func (p *pool) set(u route.Upstream, all *upstreams) {
	old := map[netip.AddrPort]*endpoint{}
	for _, e := range p.list() {
		old[e.address] = e
	}
	list := make([]*endpoint, 0, len(u.Endpoints))
	for _, address := range u.Endpoints {
		e := old[address]
		if e == nil || e.protocol != u.Protocol {
			e = newEndpoint(address, u.Protocol, all.connectTimeout)
		} else {
			delete(old, address)
		}
		list = append(list, e)
	}
	p.endpoints.Store(&list)
	for _, e := range old {
		e.removed.Store(true)
		e.transport.CloseIdleConnections()
		all.forget(e.loop)
	}
}

func (p *pool) list() []*endpoint {
	if p == nil {
		return nil
	}
	if list := p.endpoints.Load(); list != nil {
		return *list
	}
	return nil
}

func newEndpoint(address netip.AddrPort, protocol route.Protocol, connectTimeout time.Duration) *endpoint {
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}
	e := &endpoint{
		loop:     eventloop.NewBackend(address),
		address:  address,
		host:     address.String(),
		protocol: protocol,
		transport: &http.Transport{
			DialContext:         dialer.DialContext,
			DisableCompression:  true, // what the client accepts is between it and the backend
			MaxIdleConnsPerHost: 256,
			IdleConnTimeout:     idleBackendConnection,
			Protocols:           new(http.Protocols),
		},
	}
	e.transport.Protocols.SetHTTP1(protocol == route.HTTP1)
	e.transport.Protocols.SetUnencryptedHTTP2(protocol == route.H2C)
	return e
}

// acquire picks an endpoint and counts a request in flight there; nil if there
// is none that was not tried. Once an endpoint was removed and has no request
// in flight, it never gets another one.
func (p *pool) acquire(tried []*endpoint) *endpoint {
	for {
		e := p.pick(tried)
		if e == nil {
			return nil
		}
		e.inFlight.Add(1)
		if !e.removed.Load() {
			return e
		}
		e.inFlight.Add(-1) // removed since the list was read
	}
}

// pick returns the endpoint with the fewest requests in flight among a few,
// taken in turn, leaving out those already tried; nil if there is none.
func (p *pool) pick(tried []*endpoint) *endpoint {
	list := p.list()
	if len(list) == 0 {
		return nil
	}
	start := int(p.next.Add(1)) % len(list)
	var best *endpoint
	for i, seen := 0, 0; i < len(list) && seen < candidates; i++ {
		e := list[(start+i)%len(list)]
		if contains(tried, e) {
			continue
		}
		seen++
		if best == nil || e.inFlight.Load() < best.inFlight.Load() {
			best = e
		}
	}
	return best
}

func contains(tried []*endpoint, e *endpoint) bool {
	for _, t := range tried {
		if t == e {
			return true
		}
	}
	return false
}

// maxAttempts bounds how many endpoints one request is offered to.
const maxAttempts = 5

var errNoEndpoints = errors.New("no endpoint is ready")

// RoundTrip sends the request to an endpoint of the exchange's pool, and to
// another one if that could not be reached.
func (s *Server) RoundTrip(out *http.Request) (*http.Response, error) {
	x := exchangeOf(out.Context())
	if err := prepareBody(out); err != nil {
		return nil, err
	}
	s.mirror(out, x)
	var tried []*endpoint
	var lastErr error
	for len(tried) < maxAttempts {
		e := x.pool.acquire(tried)
		if e == nil {
			break
		}
		if len(tried) > 0 {
			s.metrics.retries.Inc()
		}
		tried = append(tried, e)
		x.endpoint = e.host
		response, err := x.attempt(out, e)
		if err == nil {
			return response, nil
		}
		lastErr = err
		if out.Context().Err() != nil || !safeToRepeat(out, err) {
			return nil, err
		}
	}
	if lastErr == nil {
		lastErr = errNoEndpoints
	}
	return nil, lastErr
}

// attempt is one try at an endpoint that was acquired. It counts as in flight
// until the response body is closed.
func (x *exchange) attempt(out *http.Request, e *endpoint) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(out.Context())
	var timer *time.Timer
	if d := x.rule.BackendTimeout; d > 0 {
		timer = time.AfterFunc(d, func() { cancel(errBackendTimeout) })
	}
	finish := sync.OnceFunc(func() {
		if timer != nil {
			timer.Stop()
		}
		e.inFlight.Add(-1)
		cancel(nil)
	})
	request := out.Clone(ctx)
	request.URL.Scheme, request.URL.Host = "http", e.host
	if out.GetBody != nil {
		request.Body, _ = out.GetBody() // from memory
	}
	response, err := e.transport.RoundTrip(request)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errBackendTimeout) {
			err = cause
		}
		finish()
		return nil, err
	}
	if response.StatusCode == http.StatusSwitchingProtocols {
		// From here it is a stream of its own, which timeouts do not concern.
		if timer != nil {
			timer.Stop()
		}
		x.stopTimer()
		response.Body = upgraded{response.Body.(io.ReadWriteCloser), finish}
		return response, nil
	}
	response.Body = onClose{response.Body, finish}
	return response, nil
}

// idempotencyKey is the header by which clients declare that a request may be
// repeated: the server does it once (draft-ietf-httpapi-idempotency-key-header).
const idempotencyKey = "Idempotency-Key"

// maxRepeatedBody is how much of a body is held to be able to send it again.
const maxRepeatedBody = 64 << 10

// prepareBody makes a body survive an attempt that sent nothing and, for small
// ones of requests that declare it, also one that did.
func prepareBody(out *http.Request) error {
	if out.Body == nil {
		return nil
	}
	// The Transport closes the body even of a request that it never sent.
	body := out.Body
	out.Body = keepOpen{body}
	if out.Header.Get(idempotencyKey) == "" || out.ContentLength <= 0 || out.ContentLength > maxRepeatedBody {
		return nil
	}
	held, err := io.ReadAll(body)
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(held)), nil }
	return nil
}

// safeToRepeat says whether the request may go to another endpoint: nothing of
// it was sent; or the connection broke before an answer, its method is
// idempotent (RFC 9110, section 9.2.2) or it says so itself, and its body is
// none or still there.
func safeToRepeat(r *http.Request, err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return true
	}
	if r.Body != nil && r.GetBody == nil {
		return false
	}
	if !idempotent(r.Method) && r.Header.Get(idempotencyKey) == "" {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// keepOpen leaves closing to whoever made the body.
type keepOpen struct{ io.Reader }

func (keepOpen) Close() error { return nil }

type onClose struct {
	io.ReadCloser
	then func()
}

func (c onClose) Close() error {
	defer c.then()
	return c.ReadCloser.Close()
}

type upgraded struct {
	io.ReadWriteCloser
	then func()
}

func (u upgraded) Close() error {
	defer u.then()
	return u.ReadWriteCloser.Close()
}
