package upstream

import (
	"cmp"
	"context"
	"errors"
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
	// troubled says that there are failures to be forgotten after a good answer.
	troubled atomic.Bool

	hash  uint64    // of the address, for consistent hashing
	token string    // by which sessions name it
	since time.Time // when it was added, zero if it was there from the beginning

	// The rest is guarded by the pool's lock.
	failures  [rows]int32 // in a row
	ejections int         // in a row: the more, the longer
	ejected   bool
	probation bool // readmitted, and has not answered yet
	back      time.Time
	unhealthy bool
	results   int32 // of health checks in a row that contradict the verdict
	checked   *route.HealthCheck
	end       func() // ends the health checks
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

type connectTimeoutKey struct{}

// WithConnectTimeout makes the Transports of endpoints connect within d instead of
// their pool's timeout; 0 leaves it at that.
func WithConnectTimeout(ctx context.Context, d time.Duration) context.Context {
	if d <= 0 {
		return ctx
	}
	return context.WithValue(ctx, connectTimeoutKey{}, d)
}

// errLeft is why a connection that was just made is not used.
var errLeft = errors.New("the endpoint has left meanwhile")

// left tells whether the endpoint was removed and others are there: it may stop at any time,
// and did not see the request yet.
func (e *Endpoint) left() bool { return e.removed.Load() && len(e.pool.now().open) > 0 }

func newEndpoint(address netip.AddrPort, protocol route.Protocol, connectTimeout time.Duration) *Endpoint {
	var e *Endpoint
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		timeout, _ := ctx.Value(connectTimeoutKey{}).(time.Duration)
		dialer := &net.Dialer{Timeout: cmp.Or(timeout, connectTimeout), KeepAlive: 30 * time.Second}
		conn, err := dialer.DialContext(ctx, network, address)
		if err == nil && e.left() {
			conn.Close()
			return nil, &net.OpError{Op: "dial", Net: network, Err: errLeft} // another one is tried
		}
		return conn, err
	}
	e = &Endpoint{
		Loop:     eventloop.NewBackend(address),
		Address:  address,
		Host:     address.String(),
		Protocol: protocol,
		Transport: &http.Transport{
			DialContext:         dial,
			DisableCompression:  true, // what the client accepts is between it and the backend
			MaxIdleConnsPerHost: 256,
			IdleConnTimeout:     IdleConnection,
			Protocols:           new(http.Protocols),
		},
		end: func() {},
	}
	e.hash = hashText(hashSeed, e.Host)
	e.Transport.Protocols.SetHTTP1(protocol == route.HTTP1)
	e.Transport.Protocols.SetUnencryptedHTTP2(protocol == route.H2C)
	return e
}
