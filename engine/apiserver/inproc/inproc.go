// Package inproc carries HTTP requests to a handler of the same process: an http.RoundTripper
// without sockets, TLS or HTTP framing.
//
// Objects need not become bytes on the way (MediaType): a handler that answers in that form, and
// a typed client of client-go, exchange a ticket for the object. Whoever encodes gives the object
// away, whoever decodes owns it; what the objects of watch events point to belongs to everybody
// and must not be changed.
//
// It guarantees that the handler sees the identity given to New and nothing the request's
// headers claim, that a response can be read while the handler still writes it when the request
// is long-running (watch, followed logs, proxies), and that closing the body or cancelling the
// request's context ends the handler's context. Every other request runs the handler on the
// caller's goroutine and returns when the handler returns, so those handlers must respect the
// context themselves. Protocol upgrades (exec, attach, port-forward) need a real connection and
// are refused. Imported by engine/apiserver only.
package inproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"

	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
)

type identityKey struct{}

// UserFrom returns the identity of an in-process request, or false when the request came over
// the network.
func UserFrom(ctx context.Context) (user.Info, bool) {
	u, ok := ctx.Value(identityKey{}).(user.Info)
	return u, ok
}

// Transport is an http.RoundTripper bound to one handler and one identity.
type Transport struct {
	handler http.Handler
	user    user.Info
}

// New returns a transport whose requests reach handler as u. Typed clients made after it may
// ask for MediaType.
func New(handler http.Handler, u user.Info) *Transport {
	teach()
	return &Transport{handler: handler, user: u}
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Upgrade") != "" {
		closeBody(req)
		return nil, fmt.Errorf("%s %s: protocol upgrades need a network connection, use a kubeconfig instead of the in-process client", req.Method, req.URL.Path)
	}
	if err := req.Context().Err(); err != nil {
		closeBody(req)
		return nil, err
	}
	if longRunning(req) {
		return t.stream(req)
	}
	return t.call(req)
}

// answers is what a client that deletes is told to accept: typed clients do not look at the
// answer, and a ticket must not be left for nobody.
const answers = "application/vnd.kubernetes.protobuf,application/json"

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// longRunning tells whether the answer must be readable before the handler is done.
func longRunning(req *http.Request) bool {
	if strings.Contains(req.URL.Path, "/proxy/") || strings.HasSuffix(req.URL.Path, "/proxy") || strings.HasSuffix(req.URL.Path, "/log") {
		return true
	}
	if req.Method != http.MethodGet || req.URL.RawQuery == "" {
		return false
	}
	watch, _ := strconv.ParseBool(req.URL.Query().Get("watch"))
	return watch
}

// withoutAudit hides the audit of the request that a component is answering, say as a webhook,
// from the requests that it sends for that: each has an audit of its own.
type withoutAudit struct{ context.Context }

func (c withoutAudit) Value(key any) any {
	v := c.Context.Value(key)
	if _, ok := v.(*audit.AuditContext); ok {
		return nil
	}
	return v
}

// inbound turns a client's request into the one a server would have received.
func (t *Transport) inbound(ctx context.Context, req *http.Request) *http.Request {
	in := req.WithContext(context.WithValue(withoutAudit{ctx}, identityKey{}, t.user))
	in.RequestURI = req.URL.RequestURI()
	in.RemoteAddr = "127.0.0.1:0"
	in.Host = req.URL.Host
	if in.Header == nil {
		in.Header = http.Header{}
	} else {
		in.Header = in.Header.Clone() // filters delete and add headers
	}
	if in.Method == http.MethodDelete && strings.HasPrefix(in.Header.Get("Accept"), MediaType) {
		in.Header.Set("Accept", answers)
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	return in
}

// serve runs the handler and turns a panic into an error.
func (t *Transport) serve(w http.ResponseWriter, in *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if abort, ok := p.(error); ok && errors.Is(abort, http.ErrAbortHandler) {
				err = fmt.Errorf("%s %s: %w", in.Method, in.URL.Path, abort)
				return
			}
			err = fmt.Errorf("%s %s: handler panicked: %v\n%s", in.Method, in.URL.Path, p, debug.Stack())
		}
	}()
	t.handler.ServeHTTP(w, in)
	return nil
}

func (t *Transport) call(req *http.Request) (*http.Response, error) {
	defer closeBody(req)
	w := &recorder{ctx: req.Context(), header: http.Header{}}
	if err := t.serve(w, t.inbound(req.Context(), req)); err != nil {
		return nil, err
	}
	w.WriteHeader(http.StatusOK)
	resp := response(req, w.code, w.sent, io.NopCloser(&w.body))
	resp.ContentLength = int64(w.body.Len())
	return resp, nil
}

func (t *Transport) stream(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	w := newStreamWriter(ctx)
	go func() {
		defer cancel()
		defer closeBody(req)
		w.finish(t.serve(w, t.inbound(w.ctx, req)))
	}()
	select {
	case <-w.started:
	case <-req.Context().Done():
		cancel()
		return nil, req.Context().Err()
	}
	if w.code == 0 { // the handler died before it answered
		cancel()
		return nil, w.failure
	}
	body := &streamBody{pipe: w.pipe, cancel: cancel}
	if w.code == http.StatusOK && w.events.used.Load() {
		body.events = w.events
	}
	return response(req, w.code, w.sent, body), nil
}

func response(req *http.Request, code int, header http.Header, body io.ReadCloser) *http.Response {
	return &http.Response{
		Status:        strconv.Itoa(code) + " " + http.StatusText(code),
		StatusCode:    code,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		Body:          body,
		ContentLength: -1,
		Request:       req,
	}
}

// recorder keeps a whole answer.
type recorder struct {
	ctx    context.Context
	header http.Header
	sent   http.Header
	code   int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(code int) {
	if r.code == 0 && code >= 200 {
		r.code, r.sent = code, r.header.Clone()
	}
}

func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(p)
}

// Flush implements http.Flusher; there is nothing between the handler and the caller to flush.
func (r *recorder) Flush() { r.WriteHeader(http.StatusOK) }

// CloseNotify implements http.CloseNotifier, without which upstream's filters hide Flush.
func (r *recorder) CloseNotify() <-chan bool { return closeNotify(r.ctx) }

func closeNotify(ctx context.Context) <-chan bool {
	gone := make(chan bool, 1)
	context.AfterFunc(ctx, func() { gone <- true })
	return gone
}
