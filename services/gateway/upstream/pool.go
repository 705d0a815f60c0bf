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

// cacheLine is what processors share of memory at least, in bytes.
const cacheLine = 64

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
	bell   bell // rung when the demand rises
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
			p.demand.bell = &all.bell
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
	requests  atomic.Uint64 // that came
	// What follows is read for each request, and seldom written: it must not be invalidated
	// together with what is counted above.
	_      [cacheLine]byte
	demand demand
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
			e.pool = p
		} else {
			delete(old, address)
		}
		list = append(list, e)
	}
	p.endpoints.Store(&list)
	p.adjust(u)
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
// is none that was not tried and has room. Once an endpoint was removed and has no
// request in flight, it never gets another one.
func (p *Pool) Acquire(tried []*Endpoint) *Endpoint {
	limit := p.limit()
	for tries := 0; ; tries++ {
		e := p.pick(tried)
		if e == nil {
			return nil
		}
		n := e.inFlight.Add(1)
		switch {
		case e.removed.Load(): // since the list was read
			e.inFlight.Add(-1)
		case limit == 0 || n <= limit:
			return e
		default:
			e.inFlight.Add(-1)
			if tries > len(p.Endpoints()) || p.room() == 0 {
				return nil
			}
		}
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
