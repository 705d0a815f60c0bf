package proxy

import (
	"cmp"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unsafe"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/http1"
	"github.com/gantryhq/gantry/services/gateway/route"
	"github.com/gantryhq/gantry/services/gateway/upstream"
)

// ordinary is the policy of a port for requests that need nothing but to be
// forwarded: the event loop carries them. It declines everything else, in
// particular whatever is answered by the gateway itself; handler serves that.
type ordinary struct {
	server *Server
	port   *port
}

// ordinaryExchange is one request on the event loop.
type ordinaryExchange struct {
	server   *Server
	port     *port
	rule     *route.Rule
	prefix   string
	backend  *route.Backend
	pool     *upstream.Pool
	course   *upstream.Course   // or nil for the pool's usual way
	endpoint *upstream.Endpoint // the one being tried, which counts the request as in flight
	waiter   *upstream.Waiter   // while it waits for an endpoint, or has waited
	attempts upstream.Attempts
	pause    time.Duration // before the next attempt, after an answer that was refused
	info     *ruleInfo
	start    time.Time
	loop     int

	admission *admission // or nil

	waitsSince, waitsUntil    time.Time // zero if it never waited
	client                    netip.AddrPort
	text                      []byte // holds the next
	method, host, path, agent string
	trusted, tls, repeatable  bool
	request                   *eventloop.Request // only while it begins
}

// Header implements route.Attributes.
func (x *ordinaryExchange) Header(name string) (string, bool) {
	return x.request.Head.Lookup(x.request.Raw, name)
}

// Query implements route.Attributes.
func (x *ordinaryExchange) Query(name string) (string, bool) {
	_, query, _ := strings.Cut(string(x.request.Head.Target), "?")
	values, _ := url.ParseQuery(query) // as url.URL.Query
	v, ok := values[name]
	if !ok {
		return "", false
	}
	return v[0], true
}

// Client implements upstream.Request, as the next two.
func (x *ordinaryExchange) Client() netip.Addr { return x.server.clientOf(x.client.Addr(), x) }

// Host is the host the request is for.
func (x *ordinaryExchange) Host() string { return x.host }

// Path is the request's path, decoded.
func (x *ordinaryExchange) Path() string { return x.path }

// Begin implements eventloop.Policy.
func (o *ordinary) Begin(r *eventloop.Request) eventloop.Exchange {
	s := o.server
	x := s.lanes[r.Loop].exchange()
	x.server, x.port, x.request, x.client, x.tls = s, o.port, r, r.Client, r.TLS
	x.start, x.loop = r.Time, r.Loop
	x.remember(r.Head)
	ok := x.route(r) && x.judge(r) && x.admit(r)
	x.request = nil
	if !ok {
		x.recycle()
		return nil
	}
	if !x.admission.refused() {
		x.pool.Count()
	}
	x.trusted = s.trusts(r.Client)
	s.metrics.inFlight[r.Loop].Add(1)
	return x
}

// Refused implements eventloop.Policy.
func (o *ordinary) Refused(r *eventloop.Request, status int) {
	s := o.server
	s.metrics.of(nil).observe(r.Loop, status, 0)
	s.access.write(r.Loop, &logLine{start: r.Time, peer: r.Client, protocol: "HTTP/1.1", status: status})
}

// remember copies what is needed after the request's bytes are gone.
func (x *ordinaryExchange) remember(h *http1.Head) {
	host := h.Host
	if colon := strings.LastIndexByte(unsafeString(host), ':'); colon >= 0 && host[len(host)-1] != ']' {
		host = host[:colon]
	}
	if n := len(host); n > 0 && host[n-1] == '.' {
		host = host[:n-1]
	}
	b := append(x.text[:0], host...)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
	b = append(b, h.Method...)
	b = append(b, h.Path...)
	b = append(b, h.UserAgent...)
	x.text = b
	all := unsafeString(b)
	cut := func(n int) (part string) {
		part, all = all[:n], all[n:]
		return part
	}
	x.host, x.method, x.path, x.agent = cut(len(host)), cut(len(h.Method)), cut(len(h.Path)), cut(len(h.UserAgent))
}

// unsafeString is a view of bytes that do not change as long as it is used.
func unsafeString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// route finds the rule and the backend.
func (x *ordinaryExchange) route(r *eventloop.Request) bool {
	serving := x.port.serving.Load()
	if r.TLS && r.ServerName != "" && !serving.SameListener(strings.ToLower(r.ServerName), x.host) {
		return false
	}
	if !r.TLS && x.server.Challenges.asked(x.path) {
		return false
	}
	hit, ok := serving.Lookup(x.host, x.method, x.path, x)
	if !ok {
		return false
	}
	x.rule, x.prefix = hit.Rule, hit.Prefix
	x.info = x.server.metrics.of(x.rule)
	if !x.info.ordinary {
		return false
	}
	x.backend, x.course = nil, nil
	if x.rule.Session != nil {
		x.backend, x.course = x.server.upstreams.Resume(x.rule, x)
	}
	if x.backend == nil {
		x.backend = choose(x.rule.Backends)
	}
	if x.backend == nil || x.backend.Invalid != "" {
		return false
	}
	x.pool = x.server.upstreams.Get(x.backend.Service)
	if !x.pool.Speaks(route.HTTP1) {
		return false
	}
	x.course = x.pool.Course(x.rule, x, x.course)
	x.attempts.Begin(x.pool, x.rule.Retry)
	return true
}

// judge finds out whether the request may be sent twice.
func (x *ordinaryExchange) judge(r *eventloop.Request) bool {
	if x.repeatable = idempotent(x.method); x.repeatable {
		return true
	}
	// A client that wants its request repeated needs its body held.
	_, wanted := r.Head.Lookup(r.Raw, idempotencyKey)
	return !wanted
}

// isOrdinary tells whether the event loop can carry a rule's requests.
func isOrdinary(r *route.Rule) bool {
	if r.Invalid != "" || r.Redirect != nil || r.CORS != nil || len(r.Mirrors) > 0 {
		return false
	}
	plain := func(f *route.Filters) bool {
		for _, c := range []*route.HeaderChange{f.Request, f.Response} {
			if c == nil {
				continue
			}
			for _, h := range append(append([]route.Header(nil), c.Set...), c.Add...) {
				if governed(h.Name) {
					return false
				}
			}
			for _, name := range c.Remove {
				if governed(name) {
					return false
				}
			}
		}
		return true
	}
	for i := range r.Backends {
		if r.Backends[i].HTTP2 || r.Backends[i].TLS != nil || !plain(&r.Backends[i].Filters) {
			return false
		}
	}
	return plain(&r.Filters)
}

// governed tells whether a header is the proxy's own business: how a filter on
// it combines with that is left to handler.
func governed(name string) bool {
	switch name = strings.ToLower(name); name {
	case "host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "forwarded":
		return true
	}
	return strings.HasPrefix(name, "x-forwarded-") || strings.HasPrefix(name, "proxy-")
}

// Next implements eventloop.Exchange.
func (x *ordinaryExchange) Next(after eventloop.Failure) (*eventloop.Backend, time.Duration) {
	if x.admission.refused() {
		return nil, 0
	}
	switch {
	case after == eventloop.Paused:
	case after != eventloop.NoBackend:
		if wait, again := x.again(after); wait > 0 || !again {
			return nil, wait
		}
	case x.waiter == nil && x.pool.Busy():
		return nil, 0
	}
	e := x.attempts.Next(x.pool, x.course.AimOf())
	if e == nil {
		return nil, 0
	}
	x.endpoint = e
	return e.Loop, 0
}

// again decides whether there is another attempt, and after what time.
func (x *ordinaryExchange) again(after eventloop.Failure) (wait time.Duration, again bool) {
	if after == eventloop.Refused { // that was decided with the answer
		return x.pause, true
	}
	outcome := outcomes[after]
	x.settle(outcome, 0)
	wait, again = x.attempts.Again(x.pool, outcome, 0, x.repeatable)
	if !again && outcome == upstream.NotConnected && time.Now().Before(x.waitsUntil) {
		x.attempts.Reset() // it waits for an endpoint that is ready before it listens
		x.attempts.Begin(x.pool, x.rule.Retry)
		return knock, true
	}
	return wait, again
}

// outcomes are what failures on the event loop mean for an endpoint.
var outcomes = map[eventloop.Failure]upstream.Outcome{
	eventloop.NotConnected: upstream.NotConnected,
	eventloop.Broken:       upstream.Broken,
	eventloop.TimedOut:     upstream.TimedOut,
}

// settle ends the attempt at an endpoint.
func (x *ordinaryExchange) settle(o upstream.Outcome, status int) {
	if x.endpoint != nil {
		x.pool.Report(x.endpoint, o, status)
		x.release()
	}
}

func (x *ordinaryExchange) release() {
	if x.endpoint != nil {
		x.endpoint.Release()
		x.endpoint = nil
	}
}

// refuses tells whether an answer is not delivered because there is another attempt.
func (x *ordinaryExchange) refuses(status int) bool {
	wait, again := x.attempts.Again(x.pool, upstream.Answered, status, x.repeatable)
	if again {
		x.settle(upstream.Answered, status)
		x.pause = wait
	}
	return again
}

// Timeouts implements eventloop.Exchange.
func (x *ordinaryExchange) Timeouts() eventloop.Timeouts {
	policy := x.pool.Policy()
	return eventloop.Timeouts{
		Exchange: x.rule.RequestTimeout,
		Attempt:  cmp.Or(x.rule.BackendTimeout, x.rule.FirstByteTimeout, policy.FirstByteTimeout),
		Connect:  cmp.Or(x.rule.ConnectTimeout, policy.ConnectTimeout),
		Idle:     cmp.Or(x.rule.IdleTimeout, policy.IdleTimeout),
	}
}

// Repeatable implements eventloop.Exchange.
func (x *ordinaryExchange) Repeatable() bool { return x.repeatable }

// AppendRequest implements eventloop.Exchange.
func (x *ordinaryExchange) AppendRequest(b []byte, r *eventloop.Request) []byte {
	h := r.Head
	if x.admission.refused() {
		return b
	}
	filters := []*route.Filters{&x.rule.Filters, &x.backend.Filters}
	if !x.info.filtered {
		filters = nil
	}
	b = append(append(b, h.Method...), ' ')
	b = append(x.appendTarget(b, h, filters), " HTTP/1.1\r\n"...)
	host := ""
	for _, f := range filters {
		if f.Rewrite != nil && f.Rewrite.Host != "" {
			host = f.Rewrite.Host
		}
	}
	if len(filters) == 0 && !x.admission.changesRequest() {
		b = h.AppendFields(b, r.Raw)
	} else {
		b = h.AppendFieldsExcept(b, r.Raw, func(name []byte) bool {
			return host != "" && len(name) == 4 && strings.EqualFold(unsafeString(name), "host") ||
				changes(filters, name, requestChange) || x.admission.drops(name)
		})
		if host != "" {
			b = append(append(append(b, "Host: "...), host...), "\r\n"...)
		}
		b = x.admission.appendRequest(appendChanges(b, filters, requestChange))
	}
	return x.appendForwarded(b, h)
}

// appendTarget appends the request's target as the backend sees it.
func (x *ordinaryExchange) appendTarget(b []byte, h *http1.Head, filters []*route.Filters) []byte {
	path, changed := x.path, false
	for _, f := range filters {
		if f.Rewrite != nil && f.Rewrite.Path != nil {
			path, _ = changePath(f.Rewrite.Path, path, path, x.prefix)
			changed = true
		}
	}
	if !changed {
		return append(b, h.Target...)
	}
	b = append(b, (&url.URL{Path: path}).EscapedPath()...)
	return append(b, h.Target[len(h.Path):]...)
}

// appendForwarded appends the X-Forwarded-* headers. What the client sent of
// them counts only if it is a trusted proxy itself.
func (x *ordinaryExchange) appendForwarded(b []byte, h *http1.Head) []byte {
	b = append(b, "X-Forwarded-For: "...)
	if x.trusted && len(h.ForwardedFor) > 0 {
		b = append(append(b, h.ForwardedFor...), ", "...)
	}
	b = x.client.Addr().AppendTo(b)
	b = append(b, "\r\nX-Forwarded-Host: "...)
	if x.trusted && len(h.ForwardedHost) > 0 {
		b = append(b, h.ForwardedHost...)
	} else {
		b = append(b, h.Host...)
	}
	b = append(b, "\r\nX-Forwarded-Proto: "...)
	switch {
	case x.trusted && len(h.ForwardedProto) > 0:
		b = append(b, h.ForwardedProto...)
	case x.tls:
		b = append(b, "https"...)
	default:
		b = append(b, "http"...)
	}
	return append(b, "\r\n"...)
}

// PassesResponse implements eventloop.Exchange.
func (x *ordinaryExchange) PassesResponse() bool {
	return !x.info.filtered && !x.admission.changesResponse() && x.course == nil && !x.attempts.Judges()
}

// AppendResponse implements eventloop.Exchange.
func (x *ordinaryExchange) AppendResponse(b, raw []byte, h *http1.Head, refusable bool) []byte {
	if refusable && x.attempts.Judges() && x.refuses(h.Status) {
		return nil
	}
	b = http1.AppendStatus(b, raw)
	if !x.info.filtered && !x.admission.hardens() {
		b = h.AppendFields(b, raw)
	} else {
		filters := []*route.Filters{&x.backend.Filters, &x.rule.Filters}
		b = h.AppendFieldsExcept(b, raw, func(name []byte) bool {
			return changes(filters, name, responseChange) || x.admission.dropsResponse(name)
		})
		b = appendChanges(b, filters, responseChange)
	}
	if name, value := x.course.Field(x.endpoint, x.tls); name != "" {
		b = append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
	}
	return x.admission.appendResponse(b)
}

// AppendFailure implements eventloop.Exchange.
func (x *ordinaryExchange) AppendFailure(b []byte, f eventloop.Failure, last bool) []byte {
	end := ""
	if last {
		end = eventloop.Close
	}
	if x.admission.refused() {
		return x.admission.appendRefusal(b, end)
	}
	x.settle(outcomes[f], 0)
	status, detail, fields := http.StatusBadGateway, "the backend could not be reached or broke the connection", ""
	switch f {
	case eventloop.TimedOut:
		status, detail = http.StatusGatewayTimeout, "the backend did not answer in time"
	case eventloop.NoBackend, eventloop.Refused, eventloop.Paused:
		status, fields = http.StatusServiceUnavailable, "Retry-After: 1\r\n"
		detail = fmt.Sprintf("Service %s has no endpoint that is ready", x.backend.Service)
	case eventloop.Crowded:
		status, fields = http.StatusServiceUnavailable, "Retry-After: 1\r\n"
		detail = crowdedDetail(x.backend.Service)
	case eventloop.Waited:
		status, fields = http.StatusGatewayTimeout, "Retry-After: 1\r\n"
		detail = waitedDetail(x.backend.Service)
	}
	return eventloop.AppendProblem(b, status, detail, fields+x.admission.fieldsOfProblem()+end)
}

// End implements eventloop.Exchange.
func (x *ordinaryExchange) End(status int, sent int64, took time.Duration) {
	if status == 0 {
		status = statusClientGone
	}
	s := x.server
	s.metrics.inFlight[x.loop].Add(-1)
	x.info.observe(x.loop, status, took)
	if s.access != nil {
		line := logLine{
			start: x.start, peer: x.client, method: x.method, host: x.host, path: x.path,
			protocol: "HTTP/1.1", status: status, bytes: sent, took: took, route: x.rule.Route, agent: x.agent,
		}
		if e := x.attempts.Last(); e != nil {
			line.endpoint = e.Host
		}
		if x.admission.logs(&line) {
			s.access.write(x.loop, &line)
		}
	}
	if status != statusClientGone {
		x.settle(upstream.Answered, status)
	}
	x.admission.audit(s.cfg.Audit, x.rule.Route, status, x.start, took)
	x.release()
	if x.waiter != nil {
		x.waiter.Cancel()
	}
	x.recycle()
}

// recycle keeps the exchange's memory for another one.
func (x *ordinaryExchange) recycle() {
	lane := &x.server.lanes[x.loop]
	x.admission.end(x.server)
	x.attempts.Reset()
	*x = ordinaryExchange{text: x.text[:0], attempts: x.attempts}
	if len(lane.spare) < maxSpare {
		lane.spare = append(lane.spare, x)
	}
}

// lane is what each event loop has for itself.
type lane struct {
	spare []*ordinaryExchange
	_     [40]byte // other loops write beside it
}

// maxSpare is how many exchanges a lane keeps for further requests.
const maxSpare = 1024

func (l *lane) exchange() *ordinaryExchange {
	n := len(l.spare)
	if n == 0 {
		return &ordinaryExchange{}
	}
	x := l.spare[n-1]
	l.spare = l.spare[:n-1]
	return x
}

func requestChange(f *route.Filters) *route.HeaderChange  { return f.Request }
func responseChange(f *route.Filters) *route.HeaderChange { return f.Response }

// changes tells whether filters replace or remove a field.
func changes(filters []*route.Filters, name []byte, which func(*route.Filters) *route.HeaderChange) bool {
	for _, f := range filters {
		c := which(f)
		if c == nil {
			continue
		}
		for i := range c.Set {
			if strings.EqualFold(c.Set[i].Name, unsafeString(name)) {
				return true
			}
		}
		for _, remove := range c.Remove {
			if strings.EqualFold(remove, unsafeString(name)) {
				return true
			}
		}
	}
	return false
}

// appendChanges appends the fields that filters set and add. What a later one
// sets or removes is left out of an earlier one.
func appendChanges(b []byte, filters []*route.Filters, which func(*route.Filters) *route.HeaderChange) []byte {
	h := http.Header{}
	for _, f := range filters {
		change(h, which(f))
	}
	for name, values := range h {
		for _, v := range values {
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	return b
}

// idempotent is RFC 9110, section 9.2.2.
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete, http.MethodTrace:
		return true
	}
	return false
}
