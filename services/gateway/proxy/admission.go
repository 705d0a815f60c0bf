package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/guard"
)

// admission is what the policies of a route decided about one request. A nil
// admission is that of a route without policies.
type admission struct {
	rules   *guard.Rules
	pass    guard.Pass
	request guard.Request
	cookies string // that the backend gets although Cookie is dropped; on the event loop
}

// admit asks the route's policies on the event loop. False leaves the request to
// handler, where it may wait.
func (x *ordinaryExchange) admit(r *eventloop.Request) bool {
	rules := x.rule.Guard.Rules()
	if rules == nil {
		return true
	}
	s := x.server
	a, _ := s.admissions.Get().(*admission)
	if a == nil {
		a = &admission{}
	}
	length := r.Head.ContentLength
	if !r.Head.Chunked {
		length = max(length, 0)
	}
	a.rules = rules
	a.request = guard.Request{
		Method: x.method, Host: x.host, Path: x.path, Length: length,
		Secure: x.tls || s.cameSecurely(x.client.Addr(), x),
		Client: s.clientOf(x.client.Addr(), x), Namespace: namespaceOf(x.rule.Route), Fields: x, Now: s.guards.At(x.start),
	}
	verdict := rules.Admit(&a.request, &a.pass)
	if verdict == guard.Elsewhere {
		a.pass.Return()
		s.admissions.Put(a)
		return false
	}
	if rules.ChangesRequest() {
		cookies, _ := x.Field("Cookie")
		a.cookies = rules.Cookies(cookies)
	}
	x.admission = a
	return true
}

// Field implements guard.Fields.
func (x *ordinaryExchange) Field(name string) (string, int) {
	value, n := x.request.Head.Find(x.request.Raw, name)
	return unsafeString(value), n
}

// Parameter implements guard.Fields.
func (x *ordinaryExchange) Parameter(name string) (string, int) {
	_, query, _ := strings.Cut(unsafeString(x.request.Head.Target), "?")
	return guard.Parameter(query, name)
}

// end keeps the memory for another request.
func (a *admission) end(s *Server) {
	if a != nil {
		a.pass.Reset()
		a.rules, a.request, a.cookies = nil, guard.Request{}, ""
		s.admissions.Put(a)
	}
}

func (a *admission) refused() bool { return a != nil && a.pass.Refusal != nil }

// changesRequest tells whether the request is not forwarded as it is.
func (a *admission) changesRequest() bool { return a != nil && a.rules.ChangesRequest() }

// drops tells whether a field of the request stays here.
func (a *admission) drops(name []byte) bool { return a != nil && a.rules.Drops(name) }

// appendRequest appends what backends are told about the client.
func (a *admission) appendRequest(b []byte) []byte {
	if a == nil {
		return b
	}
	if a.cookies != "" {
		b = append(append(append(b, "Cookie: "...), a.cookies...), "\r\n"...)
	}
	if a.pass.Identity == nil {
		return b
	}
	return append(b, a.pass.Identity.Header...)
}

// changesResponse tells whether clients are told something, or kept from something.
func (a *admission) changesResponse() bool { return a != nil && (a.hardens() || a.pass.Stands()) }

// dropsResponse tells whether a field of the response stays here.
func (a *admission) dropsResponse(name []byte) bool {
	return a != nil && a.rules.Harden != nil && a.rules.Harden.Drops(name)
}

// appendResponse appends what clients are told.
func (a *admission) appendResponse(b []byte) []byte {
	if a == nil {
		return b
	}
	if h := a.rules.Harden; h != nil {
		b = append(b, h.Header(a.request.Secure)...)
	}
	return a.pass.AppendStanding(b)
}

// hardens tells whether fields of responses are dropped.
func (a *admission) hardens() bool { return a != nil && a.rules.Harden != nil }

// fieldsOfProblem are those of appendResponse for an answer of the gateway's own, which says
// by itself that its type is not to be guessed.
func (a *admission) fieldsOfProblem() string {
	if a == nil {
		return ""
	}
	var b strings.Builder
	eachField(string(a.appendResponse(nil)), func(name, value string) {
		if !strings.EqualFold(name, "X-Content-Type-Options") {
			b.WriteString(name + ": " + value + "\r\n")
		}
	})
	return b.String()
}

// appendRefusal appends a whole response, with further lines for its head.
func (a *admission) appendRefusal(b []byte, fields string) []byte {
	r := a.pass.Refusal
	body := r.Body()
	b = fmt.Appendf(b, "HTTP/1.1 %d %s\r\n%s", r.Status, http.StatusText(r.Status), r.Fields)
	b = append(append(b, a.fieldsOfProblem()...), fields...)
	return fmt.Appendf(b, "Content-Type: application/problem+json\r\nContent-Length: %d\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n%s", len(body), body)
}

// maxWaits is how often a request may wait for what a decision needs.
const maxWaits = 2

// admit asks the route's policies where the request may wait, answers it if it is
// refused, and tells whether it goes on.
func (h *handler) admit(w http.ResponseWriter, r *http.Request, x *exchange) bool {
	s, rules := h.server, x.rule.Guard.Rules()
	if rules == nil {
		return true
	}
	fields := &requestFields{r}
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	a := &admission{rules: rules, request: guard.Request{
		Method: r.Method, Host: x.host, Path: r.URL.Path, Length: r.ContentLength, MayWait: true,
		Client: s.clientOf(peer.Addr(), fields), Namespace: namespaceOf(x.rule.Route), Fields: fields, Now: s.guards.Now(),
		OnlyAsked: x.rule.Redirect != nil || x.rule.CORS != nil && isPreflight(r),
	}}
	a.request.Secure = r.TLS != nil || s.cameSecurely(peer.Addr(), fields)
	x.admission = a
	verdict := rules.Admit(&a.request, &a.pass)
	for range maxWaits {
		if verdict != guard.Elsewhere || a.pass.Wait == nil {
			break
		}
		a.pass.Wait(r.Context())
		a.request.Now = s.guards.Now()
		verdict = rules.Admit(&a.request, &a.pass)
	}
	if verdict == guard.Elsewhere && a.pass.Login != nil {
		var refusal *guard.Refusal
		if a.pass.Session, refusal = s.logins.Serve(w, r, a.pass.Login, a.request.Secure); a.pass.Session == nil {
			if a.pass.Refusal = refusal; refusal != nil {
				a.refuse(w)
			}
			return false
		}
		verdict = rules.Admit(&a.request, &a.pass)
	}
	switch verdict {
	case guard.Elsewhere:
		a.pass.Refusal = guard.Busy()
		fallthrough
	case guard.Refused:
		a.refuse(w)
		return false
	}
	if m := rules.MaxBody; m != nil && r.ContentLength < 0 {
		r.Body = http.MaxBytesReader(w, r.Body, m.Bytes)
	}
	if rules.Shape.HasSchema() && r.ContentLength != 0 {
		if a.pass.Refusal = checkBody(r, rules.Shape); a.pass.Refusal != nil {
			a.refuse(w)
			return false
		}
	}
	return true
}

// checkBody compares the whole body with the schema before any of it is forwarded.
func checkBody(r *http.Request, shape *guard.Shape) *guard.Refusal {
	body, err := io.ReadAll(io.LimitReader(r.Body, shape.MaxBody+1))
	switch {
	case err != nil:
		return &guard.Refusal{Status: http.StatusBadRequest, Kind: "malformed", Policy: shape.Policy, Detail: "the body could not be read"}
	case int64(len(body)) > shape.MaxBody:
		return shape.TooLong()
	}
	if refusal := shape.Body(body); refusal != nil {
		return refusal
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return nil
}

// refuse answers with the refusal.
func (a *admission) refuse(w http.ResponseWriter) {
	r, body := a.pass.Refusal, a.pass.Refusal.Body()
	h := w.Header()
	eachField(r.Fields, h.Add)
	a.changeResponse(h)
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(r.Status)
	w.Write(body)
}

// changeRequest does what drops and appendRequest do.
func (a *admission) changeRequest(h http.Header) {
	if a == nil {
		return
	}
	cookies := a.rules.Cookies(strings.Join(h["Cookie"], "; "))
	for name := range h {
		if a.rules.Drops([]byte(name)) {
			delete(h, name)
		}
	}
	if cookies != "" {
		h.Set("Cookie", cookies)
	}
	if id := a.pass.Identity; id != nil {
		eachField(string(id.Header), h.Add)
	}
}

// changeResponse does what appendResponse does.
func (a *admission) changeResponse(h http.Header) {
	if a == nil {
		return
	}
	if a.hardens() {
		for name := range h {
			if a.dropsResponse([]byte(name)) {
				delete(h, name)
			}
		}
	}
	eachField(string(a.appendResponse(nil)), h.Set)
}

// eachField reads header lines that end with CRLF.
func eachField(lines string, visit func(name, value string)) {
	for line := range strings.SplitSeq(lines, "\r\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			visit(name, value)
		}
	}
}

// requestFields reads what guard asks of a request of net/http.
type requestFields struct{ request *http.Request }

// Field implements guard.Fields.
func (f *requestFields) Field(name string) (string, int) {
	values := f.request.Header.Values(name)
	if len(values) == 0 {
		return "", 0
	}
	return values[0], len(values)
}

// Parameter implements guard.Fields.
func (f *requestFields) Parameter(name string) (string, int) {
	return guard.Parameter(f.request.URL.RawQuery, name)
}

// clientOf is the address of the client behind trusted proxies.
func (s *Server) clientOf(peer netip.Addr, fields guard.Fields) netip.Addr {
	if len(s.cfg.TrustedProxies) == 0 || !s.trusts(netip.AddrPortFrom(peer, 0)) {
		return peer.Unmap()
	}
	// The last field is what the nearest proxy wrote; earlier ones may be the client's.
	forwarded, n := fields.Field("X-Forwarded-For")
	if all, ok := fields.(interface{ Header(string) (string, bool) }); ok && n > 1 {
		forwarded, _ = all.Header("X-Forwarded-For")
	}
	return guard.RealClient(peer, s.cfg.TrustedProxies, forwarded)
}

// cameSecurely tells whether a trusted proxy says that the client uses TLS.
func (s *Server) cameSecurely(peer netip.Addr, fields guard.Fields) bool {
	if len(s.cfg.TrustedProxies) == 0 || !s.trusts(netip.AddrPortFrom(peer, 0)) {
		return false
	}
	scheme, _ := fields.Field("X-Forwarded-Proto")
	return scheme == "https"
}

// Header returns all values, joined with commas.
func (f *requestFields) Header(name string) (string, bool) {
	values := f.request.Header.Values(name)
	return strings.Join(values, ","), len(values) > 0
}

// namespaceOf is the middle of Kind/namespace/name.
func namespaceOf(route string) string {
	_, rest, _ := strings.Cut(route, "/")
	namespace, _, _ := strings.Cut(rest, "/")
	return namespace
}

// bodyTooLarge tells whether a request failed because its body was longer than its
// policies allow.
func (a *admission) bodyTooLarge(err error) bool {
	var large *http.MaxBytesError
	return a != nil && a.rules.MaxBody != nil && errors.As(err, &large)
}
