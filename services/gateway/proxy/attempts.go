package proxy

import (
	"bytes"
	"cmp"
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
// another one if that one fails and the request may be repeated.
func (s *Server) RoundTrip(out *http.Request) (*http.Response, error) {
	x := exchangeOf(out.Context())
	if err := prepareBody(out); err != nil {
		return nil, err
	}
	s.mirror(out, x)
	var lastErr error
	for {
		e, err := x.next(out.Context())
		if err != nil {
			return nil, err
		}
		if e == nil {
			return nil, lastErr
		}
		x.endpoint = e.Host
		response, err := x.attempt(out, e)
		if err != nil && (out.Context().Err() != nil || x.brokenBody.Load() || errors.As(err, new(*http.MaxBytesError))) {
			return nil, err // which says nothing about the endpoint
		}
		outcome, status := outcomeOf(err), 0
		if err == nil {
			status = response.StatusCode
		}
		x.pool.Report(e, outcome, status)
		if err == nil && !x.attempts.Judges() {
			return response, nil
		}
		wait, again := x.again(outcome, status, repeatable(out, err))
		if !again {
			return response, err
		}
		if err == nil {
			discard(response)
			err = fmt.Errorf("backend answered %d", status)
		}
		lastErr = err
		if err := pause(out.Context(), wait); err != nil {
			return nil, err
		}
	}
}

// discard ends an answer that nobody gets, so that its connection can be used again
// if there is not much of it.
func discard(r *http.Response) {
	_, _ = io.CopyN(io.Discard, r.Body, 64<<10)
	r.Body.Close()
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempt is one try at an endpoint that was acquired. It counts as in flight
// until the response body is closed.
func (x *exchange) attempt(out *http.Request, e *upstream.Endpoint) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(out.Context())
	policy := x.pool.Policy()
	ctx = upstream.WithConnectTimeout(ctx, cmp.Or(x.rule.ConnectTimeout, policy.ConnectTimeout))
	after := func(d time.Duration, cause error) (stop func()) {
		if d <= 0 {
			return func() {}
		}
		timer := time.AfterFunc(d, func() { cancel(cause) })
		return func() { timer.Stop() }
	}
	stopTimer := after(x.rule.BackendTimeout, errBackendTimeout)
	answered := after(cmp.Or(x.rule.FirstByteTimeout, policy.FirstByteTimeout), errFirstByte)
	finish := sync.OnceFunc(func() {
		stopTimer()
		answered()
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
		if cause := context.Cause(ctx); errors.Is(cause, errBackendTimeout) || errors.Is(cause, errFirstByte) {
			err = cause
		}
		finish()
		return nil, err
	}
	answered()
	if response.StatusCode == http.StatusSwitchingProtocols {
		// From here it is a stream of its own, which timeouts do not concern.
		stopTimer()
		x.stopTimer()
		response.Body = upgraded{response.Body.(io.ReadWriteCloser), finish}
		return response, nil
	}
	if d := cmp.Or(x.rule.IdleTimeout, policy.IdleTimeout); d > 0 {
		timer := time.AfterFunc(d, func() { cancel(errIdle) })
		response.Body = &watched{response.Body, timer, d}
	}
	response.Body = onClose{response.Body, finish}
	return response, nil
}

// outcomeOf says what came of an attempt.
func outcomeOf(err error) upstream.Outcome {
	var op *net.OpError
	switch {
	case err == nil:
		return upstream.Answered
	case errors.As(err, &op) && op.Op == "dial":
		return upstream.NotConnected
	case errors.Is(err, errBackendTimeout), errors.Is(err, errFirstByte):
		return upstream.TimedOut
	}
	return upstream.Broken
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

// repeatable says whether the request may be sent again although an endpoint may have
// acted on it: its method is idempotent (RFC 9110, section 9.2.2) or it says so itself,
// its body is none or still there, and it ended with an answer, with none in time, or
// with a broken connection rather than with something that a repetition only repeats.
func repeatable(r *http.Request, err error) bool {
	if r.Body != nil && r.GetBody == nil {
		return false
	}
	if !idempotent(r.Method) && r.Header.Get(idempotencyKey) == "" {
		return false
	}
	return err == nil || errors.Is(err, errBackendTimeout) || errors.Is(err, errFirstByte) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// watched is a body that must not pause for longer than d.
type watched struct {
	io.ReadCloser
	timer *time.Timer
	d     time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.d) // the time in which the client takes what there is does not count
	n, err := w.ReadCloser.Read(p)
	w.timer.Stop()
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	return w.ReadCloser.Close()
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
