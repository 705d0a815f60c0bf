// Package upstream holds what stands behind each Service port and chooses the
// endpoint for a request: balancing, sessions, ejection of endpoints that fail, health
// checks, and whether a request may be tried again. It knows nothing of how requests
// are sent.
//
// It guarantees: a new set of endpoints takes effect for the next request without
// a lock on the request path; an endpoint that was taken out gets no new request,
// while those in flight finish; endpoints that stay keep their connections, their
// count of requests in flight and what is known of their health; as long as there
// are endpoints, one is chosen, however badly all of them do.
//
// Every endpoint that Acquire returns must be given back with Release. What came of
// the request should be reported, or ejection has nothing to go by.
//
// Imported by the gateway's data plane only.
package upstream

import (
	"cmp"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// MaxAttempts bounds how many endpoints one request is offered to by default.
const MaxAttempts = 5

// cacheLine is what processors share of memory at least, in bytes.
const cacheLine = 64

// Config is what pools are made with.
type Config struct {
	ConnectTimeout time.Duration            // to an endpoint
	Forget         func(*eventloop.Backend) // closes the event loop's connections
	Log            *slog.Logger             // or nil for slog.Default()
}

// Pools finds the pool of a Service port without a lock.
type Pools struct {
	config Config
	mu     sync.Mutex // serialises Set
	pools  atomic.Pointer[map[route.ServicePort]*Pool]
	bell   bell // rung when the demand rises
}

// New returns Pools without any Service port.
func New(c Config) *Pools {
	c.Log = cmp.Or(c.Log, slog.Default())
	return &Pools{config: c}
}

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
			p.set(route.Upstream{Service: s})
		}
	}
	for _, c := range changed {
		p := pools[c.Service]
		if p == nil {
			own()
			p = newPool(c.Service, &all.config)
			p.demand.bell = &all.bell
			pools[c.Service] = p
		}
		p.set(c)
	}
	if copied {
		all.pools.Store(&pools)
	}
}

// Close ends all health checks.
func (all *Pools) Close() {
	var gone []route.ServicePort
	if pools := all.pools.Load(); pools != nil {
		for s := range *pools {
			gone = append(gone, s)
		}
	}
	all.Set(nil, gone)
}

// Pool balances between the endpoints of one Service port. A nil Pool has none.
type Pool struct {
	turn     atomic.Uint32
	requests atomic.Uint64 // that came
	// What follows is read for each request, and seldom written: it must not be invalidated
	// together with what is counted above.
	_       [cacheLine]byte
	service route.ServicePort
	config  *Config
	state   atomic.Pointer[state]
	demand  demand
	counts  counts
	budget  budget

	mu sync.Mutex // serialises changes of state, guards what endpoints say of their health
}

// state is a pool at one moment. It never changes.
type state struct {
	policy *route.UpstreamPolicy // never nil
	all    []*Endpoint
	// open are those that get requests: all but the ejected and unhealthy ones, as
	// long as enough are left.
	open []*Endpoint
	// warming is when the last endpoint has come to its full share; zero without a
	// slow start.
	warming time.Time
}

var (
	defaultPolicy = &route.UpstreamPolicy{}
	noState       = &state{policy: defaultPolicy}
)

func newPool(s route.ServicePort, c *Config) *Pool {
	p := &Pool{service: s, config: c}
	p.state.Store(noState)
	return p
}

func (p *Pool) now() *state {
	if p == nil {
		return noState
	}
	return p.state.Load()
}

// Endpoints are all there are. The caller must not change the list.
func (p *Pool) Endpoints() []*Endpoint { return p.now().all }

// Policy says how the pool is used; it is never nil.
func (p *Pool) Policy() *route.UpstreamPolicy { return p.now().policy }

// set replaces the endpoints and the policy.
func (p *Pool) set(u route.Upstream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.state.Load()
	next := &state{policy: u.Policy}
	if next.policy == nil {
		next.policy = defaultPolicy
	}
	old := map[netip.AddrPort]*Endpoint{}
	for _, e := range before.all {
		old[e.Address] = e
	}
	now := time.Now()
	for _, address := range u.Endpoints {
		e := old[address]
		if e == nil || e.Protocol != u.Protocol {
			e = newEndpoint(address, u.Protocol, p.config.ConnectTimeout)
			e.pool, e.token = p, tokenOf(u.Service, address)
			// The first ones have nobody to take their share meanwhile.
			if len(before.all) > 0 {
				e.since = now
			}
		} else {
			delete(old, address)
		}
		next.all = append(next.all, e)
	}
	for _, e := range next.all {
		e.check(p, next.policy)
	}
	p.publish(next)
	p.adjust(u)
	for _, e := range old {
		e.removed.Store(true)
		e.end()
		e.closeIdle()
		p.config.Forget(e.Loop)
	}
}

// refresh finds out anew which endpoints get requests. It needs the lock.
func (p *Pool) refresh() {
	before := p.state.Load()
	p.publish(&state{policy: before.policy, all: before.all})
}

// publish completes the state and puts it in force. It needs the lock.
func (p *Pool) publish(s *state) {
	s.open = open(s.all, s.policy.Health)
	if window := s.policy.SlowStart; window > 0 {
		for _, e := range s.all {
			if full := e.since.Add(window); !e.since.IsZero() && full.After(s.warming) {
				s.warming = full
			}
		}
	}
	p.state.Store(s)
}

// open returns the endpoints that get requests.
func open(all []*Endpoint, health *route.HealthCheck) []*Endpoint {
	only := func(good func(*Endpoint) bool) []*Endpoint {
		list := make([]*Endpoint, 0, len(all))
		for _, e := range all {
			if good(e) {
				list = append(list, e)
			}
		}
		return list
	}
	panicBelow := int32(0)
	if health != nil {
		panicBelow = health.Panic
	}
	healthy := only(func(e *Endpoint) bool { return !e.unhealthy })
	believed := len(healthy) > 0 && len(healthy)*100 >= int(panicBelow)*len(all)
	if list := only(func(e *Endpoint) bool { return !e.ejected && !(believed && e.unhealthy) }); len(list) > 0 {
		return list
	}
	if believed {
		return healthy
	}
	return all
}
