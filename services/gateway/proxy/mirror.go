package proxy

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

const (
	// mirrorTime is how long a copy of a request may take.
	mirrorTime = 15 * time.Second
	// mirrorLag is how many pieces of a body a mirror may be behind before its copy
	// is given up: it must not slow the request down, nor be buffered without end.
	mirrorLag = 16
	// maxMirrored bounds the copies that are on their way at a time.
	maxMirrored = 256
)

// mirror sends copies of a request to the rule's mirrors and forgets the answers.
// What goes wrong with a copy does not concern the request.
func (s *Server) mirror(out *http.Request, x *exchange) {
	for i := range x.rule.Mirrors {
		m := &x.rule.Mirrors[i]
		if m.Invalid != "" || rand.Int32N(m.Outof) >= m.Share {
			continue
		}
		e := s.upstreams.Get(m.Service).Acquire(nil, nil)
		if e == nil {
			continue
		}
		select {
		case s.mirrored <- struct{}{}:
		default: // more copies are not worth their memory
			e.Release()
			continue
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(out.Context()), mirrorTime)
		duplicate := out.Clone(ctx)
		transport, scheme := e.TransportFor(&route.Backend{TLS: m.TLS})
		duplicate.URL.Scheme, duplicate.URL.Host = scheme, e.Host
		switch {
		case out.GetBody != nil:
			duplicate.Body, _ = out.GetBody() // from memory
		case out.Body != nil:
			copied := &copiedBody{pieces: make(chan []byte, mirrorLag)}
			duplicate.Body, duplicate.GetBody = copied, nil
			out.Body = &teeBody{ReadCloser: out.Body, to: copied}
		}
		s.exchanges.Add(1)
		go func() {
			defer s.exchanges.Done()
			defer func() { <-s.mirrored }()
			defer cancel()
			defer e.Release()
			response, err := transport.RoundTrip(duplicate)
			if err != nil {
				s.log.Debug("mirror request", "route", x.rule.Route, "endpoint", e.Host, "error", err)
				return
			}
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}()
	}
}

// teeBody passes what is read of a body on to a copy.
type teeBody struct {
	io.ReadCloser
	to *copiedBody // nil once it has ended
}

func (t *teeBody) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if t.to == nil {
		return n, err
	}
	if n > 0 {
		select {
		case t.to.pieces <- append([]byte(nil), p[:n]...):
		default:
			t.give(io.ErrUnexpectedEOF)
			return n, err
		}
	}
	if err != nil {
		t.give(err)
	}
	return n, err
}

func (t *teeBody) Close() error {
	t.give(io.ErrUnexpectedEOF)
	return t.ReadCloser.Close()
}

// give ends the copy; io.EOF says that it is whole.
func (t *teeBody) give(err error) {
	if t.to != nil {
		t.to.err = err
		close(t.to.pieces)
		t.to = nil
	}
}

// copiedBody is the body of a copy.
type copiedBody struct {
	pieces chan []byte
	rest   []byte
	err    error // set before pieces is closed
}

func (c *copiedBody) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		piece, more := <-c.pieces
		if !more {
			return 0, c.err
		}
		c.rest = piece
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *copiedBody) Close() error { return nil }
