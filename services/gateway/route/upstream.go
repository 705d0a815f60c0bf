package route

import "net/netip"

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
}
