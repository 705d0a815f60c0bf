package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/gantryhq/gantry/services/gateway/upstream"
)

// RoundTrip sends the request to an endpoint of the exchange's pool, and to
// another one if that could not be reached.
func (s *Server) RoundTrip(out *http.Request) (*http.Response, error) {
	x := exchangeOf(out.Context())
	if err := prepareBody(out); err != nil {
		return nil, err
	}
	s.mirror(out, x)
	var tried []*upstream.Endpoint
	var lastErr error
	for len(tried) < upstream.MaxAttempts {
		e, err := x.next(out.Context(), tried)
		if err != nil {
			return nil, err
		}
		if e == nil {
			break
		}
		if len(tried) > 0 {
			s.metrics.retries.Inc()
		}
		tried = append(tried, e)
		x.endpoint = e.Host
		response, err := x.attempt(out, e)
		if err == nil {
			return response, nil
		}
		lastErr = err
		if out.Context().Err() != nil || !safeToRepeat(out, err) {
			return nil, err
		}
	}
	return nil, lastErr
}

// attempt is one try at an endpoint that was acquired. It counts as in flight
// until the response body is closed.
func (x *exchange) attempt(out *http.Request, e *upstream.Endpoint) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(out.Context())
	var timer *time.Timer
	if d := x.rule.BackendTimeout; d > 0 {
		timer = time.AfterFunc(d, func() { cancel(errBackendTimeout) })
	}
	finish := sync.OnceFunc(func() {
		if timer != nil {
			timer.Stop()
		}
		e.Release()
		cancel(nil)
	})
	request := out.Clone(ctx)
	request.Trailer = x.trailer // filled in while the body is read
	transport, scheme := e.TransportFor(x.backend)
	request.URL.Scheme, request.URL.Host = scheme, e.Host
	if out.GetBody != nil {
		request.Body, _ = out.GetBody() // from memory
	}
	response, err := transport.RoundTrip(request)
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
