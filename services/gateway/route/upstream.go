package route

import (
	"net/netip"
	"time"
)

// Protocol is what endpoints of a Service port speak.
type Protocol int

// The protocols of backends, from a Service port's appProtocol (KEP-3726).
const (
	HTTP1 Protocol = iota // HTTP/1.1, WebSocket included
	H2C                   // HTTP/2 without TLS, as gRPC servers speak it
)

// Upstream is what stands behind a Service port at one moment: the endpoints
// that may get new requests. It is replaced as a whole when they change.
type Upstream struct {
	Service   ServicePort
	Protocol  Protocol
	Endpoints []netip.AddrPort
	// Scaled says that somebody adjusts the number of endpoints to the demand, which is
	// measured for that; or nil.
	Scaled *Scaled
}

// Scaled is how requests wait for endpoints that are on their way. The zero value lets
// none wait.
type Scaled struct {
	Waiting  int           // requests that may wait at the same time
	Bytes    int64         // what they may take of memory together
	Patience time.Duration // how long each may wait
	// PerEndpoint is how many requests an endpoint gets at the same time; more of them
	// wait. 0 is any number.
	PerEndpoint int32
}
