// Package upstream holds what stands behind each Service port and chooses the
// endpoint for a request.
//
// It guarantees: a new set of endpoints takes effect for the next request without
// a lock on the request path; an endpoint that was taken out gets no new request,
// while those in flight finish; endpoints that stay keep their connections and
// their count of requests in flight.
//
// Every endpoint that Acquire returns must be given back with Release.
//
// Imported by the gateway's data plane only.
package upstream

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// MaxAttempts bounds how many endpoints one request is offered to.
const MaxAttempts = 5

// candidates is how many endpoints are compared for each request.
const candidates = 8

// Config is what pools are made with.
type Config struct {
	ConnectTimeout time.Duration            // to an endpoint
	Forget         func(*eventloop.Backend) // closes the event loop's connections
}

// Pools finds the pool of a Service port without a lock.
type Pools struct {
	config Config
	mu     sync.Mutex // serialises Set
	pools  atomic.Pointer[map[route.ServicePort]*Pool]
}

// New returns Pools without any Service port.
func New(c Config) *Pools { return &Pools{config: c} }

// Get returns the pool of a Service port, or nil, which is an empty one.
func (all *Pools) Get(s route.ServicePort) *Pool {
	if pools := all.pools.Load(); pools != nil {
		return (*pools)[s]
	}
	return nil
}

// Set replaces what stands behind some Service ports and forgets those in gone.
func (all *Pools) Set(changed []route.Upstream, gone []route.ServicePort) {
	all.mu.Lock()
	defer all.mu.Unlock()
	var current map[route.ServicePort]*Pool
	if pools := all.pools.Load(); pools != nil {
		current = *pools
	}
	// Copied only when the set of Service ports changes, not for endpoints.
	pools, copied := current, false
	own := func() {
		if !copied {
			pools, copied = maps.Clone(current), true
		}
		if pools == nil {
			pools = map[route.ServicePort]*Pool{}
		}
	}
	for _, s := range gone {
		if p := pools[s]; p != nil {
			own()
			delete(pools, s)
			p.set(route.Upstream{}, &all.config)
		}
	}
	for _, c := range changed {
		p := pools[c.Service]
		if p == nil {
			own()
			p = &Pool{}
			pools[c.Service] = p
		}
		p.set(c, &all.config)
	}
	if copied {
		all.pools.Store(&pools)
	}
}

// Pool balances between the endpoints of one Service port. A nil Pool has none.
type Pool struct {
	endpoints atomic.Pointer[[]*Endpoint]
	next      atomic.Uint32
}

// set replaces the endpoints.
func (p *Pool) set(u route.Upstream, c *Config) {
	old := map[netip.AddrPort]*Endpoint{}
	for _, e := range p.Endpoints() {
		old[e.Address] = e
	}
	list := make([]*Endpoint, 0, len(u.Endpoints))
	for _, address := range u.Endpoints {
		e := old[address]
		if e == nil || e.Protocol != u.Protocol {
			e = newEndpoint(address, u.Protocol, c.ConnectTimeout)
		} else {
			delete(old, address)
		}
		list = append(list, e)
	}
	p.endpoints.Store(&list)
	for _, e := range old {
		e.removed.Store(true)
		e.closeIdle()
		c.Forget(e.Loop)
	}
}

// Endpoints are those that may get requests. The caller must not change the list.
func (p *Pool) Endpoints() []*Endpoint {
	if p == nil {
		return nil
	}
	if list := p.endpoints.Load(); list != nil {
		return *list
	}
	return nil
}

// Acquire picks an endpoint and counts a request in flight there; nil if there
// is none that was not tried. Once an endpoint was removed and has no request
// in flight, it never gets another one.
func (p *Pool) Acquire(tried []*Endpoint) *Endpoint {
	for {
		e := p.pick(tried)
		if e == nil {
			return nil
		}
		e.inFlight.Add(1)
		if !e.removed.Load() {
			return e
		}
		e.inFlight.Add(-1) // removed since the list was read
	}
}

// pick returns the endpoint with the fewest requests in flight among a few,
// taken in turn, leaving out those already tried; nil if there is none.
func (p *Pool) pick(tried []*Endpoint) *Endpoint {
	list := p.Endpoints()
	if len(list) == 0 {
		return nil
	}
	start := int(p.next.Add(1)) % len(list)
	var best *Endpoint
	for i, seen := 0, 0; i < len(list) && seen < candidates; i++ {
		e := list[(start+i)%len(list)]
		if slices.Contains(tried, e) {
			continue
		}
		seen++
		if best == nil || e.inFlight.Load() < best.inFlight.Load() {
			best = e
		}
	}
	return best
}
