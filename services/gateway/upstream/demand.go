package upstream

import (
	"container/list"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

var (
	// ErrNoEndpoints is that nobody waits for endpoints of a pool that has none.
	ErrNoEndpoints = errors.New("no endpoint is ready")
	// ErrCrowded is that as many requests as may are waiting for an endpoint.
	ErrCrowded = errors.New("as many requests as may are waiting for an endpoint")
)

// demand is what a pool knows of the requests that wait for an endpoint, where the number of
// endpoints follows the demand.
//
// Whoever frees an endpoint first frees it and then looks at waiting; whoever waits
// first counts itself there and then looks for a free endpoint: one of them sees the other.
type demand struct {
	limits   atomic.Pointer[route.Scaled] // nil when nobody adjusts the number of endpoints
	protocol atomic.Int32                 // a route.Protocol: that of endpoints to come
	waiting  atomic.Int32
	asleep   atomic.Bool // nobody has looked at the demand for a while
	bell     *bell       // rung for whoever looks at it

	mu    sync.Mutex // guards following
	queue list.List  // of *Waiter, the first to wait first
	bytes int64
}

// Waiter is one request that waits for an endpoint.
type Waiter struct {
	pool   *Pool
	bytes  int64
	resume func()
	place  *list.Element // guarded by the queue's lock; nil when it does not wait any more
}

// adjust takes over what is said of the pool's scaling, after its endpoints are in force.
func (p *Pool) adjust(u route.Upstream) {
	p.demand.protocol.Store(int32(u.Protocol))
	limits := limitsOf(u)
	p.demand.limits.Store(limits)
	if limits == nil {
		p.demand.wakeAll() // they find out that there is nothing to wait for
		return
	}
	p.wake()
}

// limitsOf is what holds requests back: for want of endpoints, or by the policy.
func limitsOf(u route.Upstream) *route.Scaled {
	if u.Policy == nil || u.Policy.Limit == nil || u.Scaled != nil && u.Scaled.PerEndpoint > 0 {
		return u.Scaled
	}
	if u.Scaled == nil {
		return u.Policy.Limit
	}
	both := *u.Scaled
	both.PerEndpoint = u.Policy.Limit.PerEndpoint
	return &both
}

// Speaks tells whether the endpoints speak a protocol: those that are there or, if requests wait
// for them, those that are to come.
func (p *Pool) Speaks(protocol route.Protocol) bool {
	if list := p.Endpoints(); len(list) > 0 {
		return list[0].Protocol == protocol
	}
	if p == nil {
		return false
	}
	limits := p.demand.limits.Load()
	return limits != nil && limits.Waiting > 0 && route.Protocol(p.demand.protocol.Load()) == protocol
}

// Count notes that a request has come.
func (p *Pool) Count() {
	if p == nil {
		return
	}
	p.requests.Add(1)
	if p.demand.asleep.Load() && p.demand.asleep.CompareAndSwap(true, false) {
		p.demand.bell.rise()
	}
}

// limit is how many requests an endpoint gets at the same time, 0 for any number.
func (p *Pool) limit() int32 {
	if p == nil {
		return 0
	}
	if limits := p.demand.limits.Load(); limits != nil {
		return limits.PerEndpoint
	}
	return 0
}

// room is how many more requests the endpoints take at this moment.
func (p *Pool) room() int {
	limit, room := p.limit(), 0
	for _, e := range p.now().open {
		if limit == 0 {
			return 1 << 30
		}
		room += max(0, int(limit-e.inFlight.Load()))
	}
	return room
}

// Busy tells whether a request that comes now has to wait behind others.
func (p *Pool) Busy() bool {
	return p != nil && p.demand.waiting.Load() > 0 && p.limit() > 0
}

// Wait queues a request for which Acquire has no endpoint, and says for how long it may wait, or
// by ErrNoEndpoints or ErrCrowded why it may not. bytes is what it takes of memory. One
// that waits again, because another request was faster, is the first in the queue.
//
// resume is called once from any goroutine, also before Wait returns, unless the waiter
// is cancelled before; Cancel must be called in any case.
func (p *Pool) Wait(bytes int, again bool, resume func()) (*Waiter, time.Duration, error) {
	if p == nil {
		return nil, 0, ErrNoEndpoints
	}
	d := &p.demand
	limits := d.limits.Load()
	if limits == nil || limits.Waiting == 0 {
		return nil, 0, ErrNoEndpoints
	}
	w := &Waiter{pool: p, bytes: int64(bytes), resume: resume}
	d.mu.Lock()
	if d.queue.Len() >= limits.Waiting || d.bytes+w.bytes > limits.Bytes {
		d.mu.Unlock()
		return nil, 0, ErrCrowded
	}
	if again {
		w.place = d.queue.PushFront(w)
	} else {
		w.place = d.queue.PushBack(w)
	}
	d.bytes += w.bytes
	first := d.waiting.Add(1) == 1
	d.mu.Unlock()
	if first {
		d.bell.rise()
	}
	p.wake() // an endpoint may have become free meanwhile
	if d.limits.Load() == nil {
		d.wakeAll()
	}
	return w, limits.Patience, nil
}

// Cancel ends the waiting of a request. If it was resumed just before and makes no
// use of that, another one gets its turn.
func (w *Waiter) Cancel() {
	d := &w.pool.demand
	d.mu.Lock()
	waits := w.place != nil
	if waits {
		d.remove(w)
	}
	d.mu.Unlock()
	if !waits && d.waiting.Load() > 0 {
		w.pool.wake()
	}
}

// wake resumes as many as the endpoints have room for.
func (p *Pool) wake() {
	for room := p.room(); room > 0; room-- {
		w := p.demand.pop()
		if w == nil {
			return
		}
		w.resume()
	}
}

func (d *demand) wakeAll() {
	for w := d.pop(); w != nil; w = d.pop() {
		w.resume()
	}
}

func (d *demand) pop() *Waiter {
	d.mu.Lock()
	defer d.mu.Unlock()
	first := d.queue.Front()
	if first == nil {
		return nil
	}
	w := first.Value.(*Waiter)
	d.remove(w)
	return w
}

// remove takes w out of the queue. The caller holds mu.
func (d *demand) remove(w *Waiter) {
	d.queue.Remove(w.place)
	w.place = nil
	d.bytes -= w.bytes
	d.waiting.Add(-1)
}

// Demand is what one Service port is asked for at one moment.
type Demand struct {
	Service   route.ServicePort
	Requests  uint64 // that came since the gateway has followed the Service
	InFlight  int    // at endpoints
	Waiting   int    // for an endpoint
	Endpoints int
}

// Demand returns the present demand of all Service ports that were asked for anything, or
// whose number of endpoints somebody adjusts.
func (all *Pools) Demand() []Demand {
	pools := all.pools.Load()
	if pools == nil {
		return nil
	}
	var list []Demand
	for service, p := range *pools {
		d := Demand{Service: service, Requests: p.requests.Load(), Waiting: int(p.demand.waiting.Load())}
		if d.Requests == 0 && p.demand.limits.Load() == nil {
			continue
		}
		for _, e := range p.Endpoints() {
			d.InFlight += e.InFlight()
			d.Endpoints++
		}
		list = append(list, d)
	}
	return list
}

// DemandRises returns what is closed when a request begins to wait, or comes after
// DemandSleeps.
func (all *Pools) DemandRises() <-chan struct{} { return all.bell.next() }

// DemandSleeps says that nobody will look at the demand for a while unless it rises.
func (all *Pools) DemandSleeps() {
	if pools := all.pools.Load(); pools != nil {
		for _, p := range *pools {
			p.demand.asleep.Store(true)
		}
	}
}

// bell wakes all who wait for its next ring.
type bell struct {
	mu   sync.Mutex
	ring chan struct{} // guarded by mu; or nil when nobody waits
}

func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ring == nil {
		b.ring = make(chan struct{})
	}
	return b.ring
}

func (b *bell) rise() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ring != nil {
		close(b.ring)
		b.ring = nil
	}
}
