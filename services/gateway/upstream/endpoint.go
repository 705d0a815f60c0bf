package upstream

import (
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// IdleConnection is how long an unused connection to an endpoint is kept: less
// than the 5 s after which common servers (Node.js, Apache) close theirs, because
// a request sent while the server closes is lost.
const IdleConnection = 4 * time.Second

// Endpoint is one address. It has a Transport of its own, so that its idle
// connections can be closed when it leaves, before another pod gets its address.
type Endpoint struct {
	Address   netip.AddrPort
	Host      string // Address as text
	Protocol  route.Protocol
	Transport *http.Transport
	Loop      *eventloop.Backend // the same on the event loop

	special  special
	pool     *Pool
	inFlight atomic.Int32
	removed  atomic.Bool // set before anyone may take a count of 0 in flight for drained
}

// Release ends a request that Acquire has counted, and lets one that waits have its place.
func (e *Endpoint) Release() {
	e.inFlight.Add(-1)
	if e.pool.demand.waiting.Load() > 0 {
		e.pool.wake()
	}
}

// InFlight is the number of requests that are with the endpoint.
func (e *Endpoint) InFlight() int { return int(e.inFlight.Load()) }

// Removed tells whether the endpoint has left for good. Together with no request
// in flight, asked in this order, that means that it never gets another one.
func (e *Endpoint) Removed() bool { return e.removed.Load() }

func newEndpoint(address netip.AddrPort, protocol route.Protocol, connectTimeout time.Duration) *Endpoint {
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}
	e := &Endpoint{
		Loop:     eventloop.NewBackend(address),
		Address:  address,
		Host:     address.String(),
		Protocol: protocol,
		Transport: &http.Transport{
			DialContext:         dialer.DialContext,
			DisableCompression:  true, // what the client accepts is between it and the backend
			MaxIdleConnsPerHost: 256,
			IdleConnTimeout:     IdleConnection,
			Protocols:           new(http.Protocols),
		},
	}
	e.Transport.Protocols.SetHTTP1(protocol == route.HTTP1)
	e.Transport.Protocols.SetUnencryptedHTTP2(protocol == route.H2C)
	return e
}
