package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"sync"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
)

// handOffs are the connections that the event loop hands over to net/http: a
// listener whose connections come from there.
type handOffs struct {
	address net.Addr
	conns   chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

func newHandOffs(address net.Addr) *handOffs {
	return &handOffs{address: address, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (h *handOffs) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
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
