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
	// Policy says how they are used, or nil for the defaults.
	Policy *UpstreamPolicy
}

// Scaled is how requests wait for endpoints that are on their way, or have no room. The
// zero value lets none wait.
type Scaled struct {
	Waiting  int           // requests that may wait at the same time
	Bytes    int64         // what they may take of memory together
	Patience time.Duration // how long each may wait
	// PerEndpoint is how many requests an endpoint gets at the same time; more of them
	// wait. 0 is any number.
	PerEndpoint int32
}

// UpstreamPolicy says how requests are spread over the endpoints of a Service port,
// and what happens when one does not answer well. Zero values are the defaults.
type UpstreamPolicy struct {
	// Source names the object that the policy came from.
	Source string

	Balance   Balance
	Session   *Session      // or nil: requests of one client may go anywhere
	SlowStart time.Duration // in which a new endpoint comes to its full share
	Limit     *Scaled       // of requests at an endpoint, or nil

	// ConnectTimeout limits the making of a connection; 0 is the data plane's own.
	// FirstByteTimeout limits the time from sending a request to the head of the
	// answer, IdleTimeout a pause in its body; 0 is no limit.
	ConnectTimeout, FirstByteTimeout, IdleTimeout time.Duration

	Retry    *Retry // or nil for the default
	Budget   RetryBudget
	Ejection Ejection
	Health   *HealthCheck // or nil for none
}

// Method is how the endpoint for a request is chosen.
type Method int

// The methods of balancing.
const (
	LeastRequest   Method = iota // the fewest requests in flight among a few, taken in turn
	RoundRobin                   // in turn
	ConsistentHash               // the same endpoint for the same key, as long as there is room
)

// DefaultMaxLoad is the usual bound of an endpoint that is chosen by hash, in percent of
// the average.
const DefaultMaxLoad = 125

// Balance is how the endpoints for requests are chosen.
type Balance struct {
	Method Method
	// Keys are what ConsistentHash takes of a request, in order, all together.
	Keys []HashKey
	// MaxLoad bounds the requests in flight of an endpoint that is chosen by hash, in
	// percent of the average; 0 is DefaultMaxLoad.
	MaxLoad int32
}

// KeySource says where a part of a hash key is taken from.
type KeySource int

// The parts of a request that a hash can be of.
const (
	ClientAddress KeySource = iota
	HeaderValue
	CookieValue
	QueryValue
	RequestHost
	RequestPath
)

// HashKey is a part of a request that decides about its endpoint.
type HashKey struct {
	Source KeySource
	Name   string // of the header, cookie or query parameter
}

// Session keeps the requests of one client at one endpoint, which the client names
// by a cookie or header that the gateway gave it (GEP-1619).
type Session struct {
	Name     string
	InHeader bool // rather than in a cookie
	// Absolute is after what time a session ends; 0 is never.
	Absolute time.Duration
	// Permanent makes the cookie outlive the browser's session, for Absolute.
	Permanent bool
	Path      string // of the cookie; "" is "/"
	Domain    string // of the cookie, or ""
	SameSite  string // attribute of the cookie, or ""
	Secure    bool   // cookie only over TLS
}

// Retry says which answers are not delivered, but tried for again. What follows
// without it: another endpoint gets the request if nothing of it could be sent, or if
// the connection broke before an answer and the request may be repeated.
type Retry struct {
	Attempts int           // further ones; 0 is 2, below 0 none
	Codes    []int         // status codes of answers that are not delivered
	Backoff  time.Duration // before the second attempt at least, doubled for each further one; 0 is 25 ms
}

// RetryBudget bounds the repeated requests of a Service port, so that they cannot make
// an overload worse. Attempts of which nothing was sent do not count.
type RetryBudget struct {
	Percent      int32 // of the requests of the last 10 s; 0 is 20, below 0 none
	MinPerSecond int32 // that are allowed anyhow; 0 is 3, below 0 none
}

// Ejection takes endpoints out for a while that fail several times in a row. Numbers of
// failures below 0 are never.
type Ejection struct {
	ConnectFailures int32 // 0 is 3
	GatewayErrors   int32 // answers 502, 503, 504, none at all, and failures to connect; 0 is never
	ServerErrors    int32 // any answer of 500 and above, and all of the former; 0 is never
	// Base is for how long, doubled each time up to Max; 0 is 1 s and 30 s.
	Base, Max time.Duration
	// MaxPercent of the endpoints may be out; 0 is 50.
	MaxPercent int32
}

// CheckKind is how an endpoint's health is asked for.
type CheckKind int

// The kinds of health checks.
const (
	CheckHTTP CheckKind = iota
	CheckGRPC           // grpc.health.v1
	CheckTCP            // a connection can be made
)

// HealthCheck asks endpoints again and again whether they are well. Those that are not
// get no requests unless too few are left.
type HealthCheck struct {
	Kind     CheckKind
	Path     string // of an HTTP request; "" is "/"
	Host     string // of an HTTP request; "" is the endpoint's address
	Service  string // of a gRPC check, may be ""
	Statuses []int  // that an HTTP check takes for good; none is 200 to 399
	Port     uint16 // 0 is the one that requests go to

	Interval, Timeout  time.Duration // 0 is 5 s and 2 s
	Healthy, Unhealthy int32         // how many results in a row change the verdict; 0 is 1 and 3
	// Panic is the percentage of healthy endpoints below which all get requests; 0 is
	// when there is none.
	Panic int32
}
