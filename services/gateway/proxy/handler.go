package proxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/gantryhq/gantry/services/gateway/route"
	"github.com/gantryhq/gantry/services/gateway/upstream"
)

var (
	errRequestTimeout = errors.New("the route's request timeout has passed")
	errBackendTimeout = errors.New("the route's backendRequest timeout has passed")
	errFirstByte      = errors.New("the policy's first-byte timeout has passed")
	errIdle           = errors.New("the idle timeout has passed")
)

// handler serves one port.
type handler struct {
	server *Server
	port   *port
}

// exchange is one request and its response on their way through the gateway.
type exchange struct {
	port     *port
	host     string // of the request, lower case, without port
	tls      bool
	rule     *route.Rule
	prefix   string
	backend  *route.Backend
	pool     *upstream.Pool
	course   *upstream.Course // or nil for the pool's usual way
	attempts upstream.Attempts
	endpoint string // last one tried
	timer    *time.Timer
	// waitsUntil is how long it may wait for an endpoint; zero if it never did.
	waitsUntil time.Time

	admission *admission // or nil

	brokenBody atomic.Bool // of the request: it is malformed
	trailer    http.Header // of the request, complete when its body has been read
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

func (x *exchange) stopTimer() {
	if x.timer != nil {
		x.timer.Stop()
	}
}

// ServeHTTP routes, forwards or answers one request, and accounts for it.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := h.server
	s.exchanges.Add(1)
	defer s.exchanges.Done()
	lane := len(s.lanes)
	s.metrics.inFlight[lane].Add(1)
	defer s.metrics.inFlight[lane].Add(-1)

	if state := secureState(r.Context()); state != nil {
		r.TLS = state
	}
	x := &exchange{port: h.port, host: hostOf(r), tls: r.TLS != nil}
	rec := &recorder{ResponseWriter: w, ends: r.ProtoMajor == 1 && (r.Header.Get("Upgrade") != "" || h.port.leaving.begun.Load())}
	start := time.Now()
	// Also when the response is cut, which ReverseProxy does by a panic.
	defer func() {
		took := time.Since(start)
		s.metrics.of(x.rule).observe(lane, rec.status, took)
		line := logLine{
			start: start, client: r.RemoteAddr, method: r.Method, host: x.host, path: r.URL.Path, protocol: r.Proto,
			status: rec.status, bytes: rec.bytes, took: took, route: x.route(), endpoint: x.endpoint, agent: r.UserAgent(),
		}
		if x.admission.logs(&line) {
			s.access.write(lane, &line)
		}
		x.admission.audit(s.cfg.Audit, x.route(), rec.status, start, took)
	}()
	h.serve(rec, r, x)
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request, x *exchange) {
	s := h.server
	if r.TLS == nil && s.Challenges.serve(w, r.URL.Path) {
		return
	}
	serving := h.port.serving.Load()
	if r.TLS != nil && r.TLS.ServerName != "" && !serving.SameListener(strings.ToLower(r.TLS.ServerName), x.host) {
		problem(w, http.StatusMisdirectedRequest, "this connection was opened for another host name")
		return
	}
	if r.ProtoMajor > 1 && !sound(r) {
		problem(w, http.StatusBadRequest, "the request is malformed")
		return
	}
	if r.Method == http.MethodConnect {
		w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		problem(w, http.StatusMethodNotAllowed, "this is no proxy for other destinations")
		return
	}
	if hasDotSegment(r.URL.Path) {
		problem(w, http.StatusBadRequest, `the path has a "." or ".." segment: send it resolved`)
		return
	}
	asked := &attributes{server: s, request: r, host: x.host}
	hit, ok := serving.Lookup(x.host, r.Method, r.URL.Path, asked)
	if !ok {
		problem(w, http.StatusNotFound, fmt.Sprintf("no route serves host %q and this path", x.host))
		return
	}
	x.rule, x.prefix = hit.Rule, hit.Prefix
	switch {
	case x.rule.Invalid != "":
		problem(w, http.StatusInternalServerError, "the route is not valid; see its status")
		return
	case !h.admit(w, r, x):
		return
	case x.rule.CORS != nil && isPreflight(r):
		preflight(w, r, x.rule.CORS)
		return
	case x.rule.Redirect != nil:
		h.redirect(w, r, x)
		return
	}
	if x.rule.Session != nil {
		x.backend, x.course = s.upstreams.Resume(x.rule, asked)
	}
	if x.backend == nil {
		x.backend = choose(x.rule.Backends)
	}
	if x.backend == nil || x.backend.Invalid != "" {
		problem(w, http.StatusInternalServerError, "the route has no valid backend; see its status")
		return
	}
	x.pool = s.upstreams.Get(x.backend.Service)
	x.pool.Count()
	x.course = x.pool.Course(x.rule, asked, x.course)
	x.attempts.Begin(x.pool, x.rule.Retry)
	ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), exchangeKey{}, x))
	defer cancel(nil)
	if d := x.rule.RequestTimeout; d > 0 {
		x.timer = time.AfterFunc(d, func() { cancel(errRequestTimeout) })
		defer x.timer.Stop()
	}
	if r = r.WithContext(ctx); r.Body != nil && r.Body != http.NoBody {
		stall := s.cfg.StallTimeout
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			stall = 0 // a stream, which may rest
		}
		deadlines := &readDeadlines{control: http.NewResponseController(w)}
		defer deadlines.end()
		r.Body = clientBody{r.Body, deadlines, stall, &x.brokenBody}
	}
	x.trailer = r.Trailer
	s.respond(w, r, x)
}

// choose picks a backend by weight; nil if no weight is above 0.
func choose(backends []route.Backend) *route.Backend {
	if len(backends) == 1 && backends[0].Weight > 0 {
		return &backends[0]
	}
	var total int32
	for i := range backends {
		total += backends[i].Weight
	}
	if total <= 0 {
		return nil
	}
	at := rand.Int32N(total)
	for i := range backends {
		if at -= backends[i].Weight; at < 0 {
			return &backends[i]
		}
	}
	return nil
}

// failed answers a request that could not be forwarded.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	x.admission.changeResponse(w.Header())
	switch cause := context.Cause(r.Context()); {
	case errors.Is(err, upstream.ErrNoEndpoints):
		w.Header().Set("Retry-After", "1")
		problem(w, http.StatusServiceUnavailable, fmt.Sprintf("Service %s has no endpoint that is ready", x.backend.Service))
	case x.admission.bodyTooLarge(err):
		x.admission.pass.Refusal = x.admission.rules.MaxBody.Refusal()
		x.admission.refuse(w)
	case errors.Is(err, upstream.ErrCrowded):
		w.Header().Set("Retry-After", "1")
		problem(w, http.StatusServiceUnavailable, crowdedDetail(x.backend.Service))
	case errors.Is(err, errWaited):
		w.Header().Set("Retry-After", "1")
		problem(w, http.StatusGatewayTimeout, waitedDetail(x.backend.Service))
	case errors.Is(cause, errRequestTimeout), errors.Is(err, errBackendTimeout), errors.Is(err, errFirstByte):
		problem(w, http.StatusGatewayTimeout, "the backend did not answer in time")
	case x.brokenBody.Load():
		w.Header().Set("Connection", "close")
		problem(w, http.StatusBadRequest, "the body of the request is malformed")
	case errors.Is(r.Context().Err(), context.Canceled):
		w.WriteHeader(statusClientGone) // only the log and the metrics see it
	default:
		s.log.Debug("forward request", "method", r.Method, "route", x.rule.Route, "endpoint", x.endpoint, "error", err)
		problem(w, http.StatusBadGateway, "the backend could not be reached or broke the connection")
	}
}

// hostOf is the host a request is for, without port, in lower case.
func hostOf(r *http.Request) string {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// hasDotSegment finds segments that a backend would resolve to another path
// than the one the route was chosen by.
func hasDotSegment(path string) bool {
	if !strings.Contains(path, "/.") {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// sound tells whether an HTTP/2 request can be written as HTTP/1.1, of which
// net/http does not make sure: its method, host and length (RFC 9113, section 8.3.1
// and 8.1.1) mean there what they say. For HTTP/1.1 that is checked before.
func sound(r *http.Request) bool {
	const host = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=%:[]"
	if !httpguts.ValidHeaderFieldName(r.Method) || strings.Trim(r.Host, host) != "" {
		return false
	}
	for _, length := range r.Header["Content-Length"] {
		if strings.Trim(length, "0123456789") != "" || length == "" {
			return false
		}
	}
	return len(r.Header["Content-Length"]) <= 1
}

// attributes reads headers and query for the route table, the query only once.
type attributes struct {
	server  *Server
	request *http.Request
	host    string
	query   url.Values
}

// Client implements upstream.Request, as the next two.
func (a *attributes) Client() netip.Addr {
	peer, _ := netip.ParseAddrPort(a.request.RemoteAddr) // of a connection, so it has one
	return a.server.clientOf(peer.Addr(), &requestFields{request: a.request})
}

// Host is the host the request is for.
func (a *attributes) Host() string { return a.host }

// Path is the request's path, decoded.
func (a *attributes) Path() string { return a.request.URL.Path }

func (a *attributes) Header(name string) (string, bool) {
	if strings.EqualFold(name, "Host") {
		return a.request.Host, true
	}
	values := a.request.Header.Values(name)
	return strings.Join(values, ","), len(values) > 0
}

func (a *attributes) Query(name string) (string, bool) {
	if a.query == nil {
		a.query = a.request.URL.Query()
	}
	values := a.query[name]
	if len(values) == 0 {
		return "", false
	}
	return values[0], true
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	// ends says that the connection ends with any answer but another protocol: the
	// port closes, or what follows was sent by a client that expects to be understood
	// otherwise.
	ends bool
}

// Unwrap lets http.ResponseController reach flushing and hijacking.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		r.status = status
	}
	if status == statusClientGone {
		return
	}
	if r.ends && status >= 200 {
		r.Header().Set("Connection", "close")
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}
