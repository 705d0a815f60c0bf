package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
)

// handOffs are the connections that the event loop hands over to net/http: a
// listener whose connections come from there.
type handOffs struct {
	address net.Addr
	conns   chan net.Conn
	taken   func(net.Conn) // told of each connection that net/http gets
	once    sync.Once
	closed  chan struct{}
}

func newHandOffs(address net.Addr, taken func(net.Conn)) *handOffs {
	return &handOffs{address: address, taken: taken, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (h *handOffs) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		h.taken(c)
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handOffs) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handOffs) Addr() net.Addr { return h.address }

// handOff takes a connection from the event loop.
func (p *port) handOff(c net.Conn) {
	c = strict(c, p.server.MaxHeaderBytes)
	select {
	case p.handedOff.conns <- c:
	case <-p.handedOff.closed:
		c.Close()
	}
}

type secureKey struct{}

// rememberSecure keeps the TLS state of connections that net/http does not
// recognise as such, because bytes had been read from them before.
func rememberSecure(ctx context.Context, c net.Conn) context.Context {
	if s, ok := c.(*strictConn); ok {
		c = s.Conn
	}
	if t, ok := c.(*eventloop.TLSConn); ok {
		state := t.ConnectionState()
		return context.WithValue(ctx, secureKey{}, &state)
	}
	return ctx
}

func secureState(ctx context.Context) *tls.ConnectionState {
	state, _ := ctx.Value(secureKey{}).(*tls.ConnectionState)
	return state
}

// leaving says goodbye to the clients of net/http. The zero value is ready. A client of
// the event loops is theirs until it has been counted here.
type leaving struct {
	begun atomic.Bool
	conns atomic.Int32
}

func (l *leaving) arrive(net.Conn) { l.conns.Add(1) }

// count is http.Server's ConnState.
func (l *leaving) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateClosed, http.StateHijacked:
		l.conns.Add(-1)
	}
}

// wait lets the clients that are there send a last request, also those of the event
// loops, whose connections may still be handed over.
func (l *leaving) wait(ctx context.Context, loops *eventloop.Group, farewell time.Duration, hurry <-chan struct{}) {
	l.begun.Store(true)
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	// First the loops: what they hand over is counted here before it is theirs no more.
	for end := time.Now().Add(farewell); loops.Clients()+int(l.conns.Load()) > 0 && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return
		case <-hurry:
			return
		case <-tick.C:
		}
	}
}
