package dns

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// cacheKey is a question. The name is lower case.
type cacheKey struct {
	name  string
	qtype uint16
	do    bool // with DNSSEC records
}

// cache keeps answers of upstream resolvers, the least recently used making room.
type cache struct {
	limit int
	now   func() time.Time

	mu    sync.Mutex // guards following
	order *list.List // of *cached, most recently used first
	items map[cacheKey]*list.Element
}

type cached struct {
	key           cacheKey
	msg           *dns.Msg
	stored, until time.Time
}

const (
	maxPositiveTTL = 5 * time.Minute
	// maxNegativeTTL bounds how long a name that has just been created stays
	// unknown.
	maxNegativeTTL = 10 * time.Second
)

func newCache(limit int, now func() time.Time) *cache {
	return &cache{limit: limit, now: now, order: list.New(), items: map[cacheKey]*list.Element{}}
}

// get returns a copy with the time to live that is left, or nil.
func (c *cache) get(key cacheKey) *dns.Msg {
	c.mu.Lock()
	el := c.items[key]
	if el == nil {
		c.mu.Unlock()
		return nil
	}
	now := c.now()
	item := el.Value.(*cached)
	if now.After(item.until) {
		c.order.Remove(el)
		delete(c.items, key)
		c.mu.Unlock()
		return nil
	}
	c.order.MoveToFront(el)
	c.mu.Unlock()

	m := item.msg.Copy() // items are never changed
	age := uint32(now.Sub(item.stored) / time.Second)
	eachRR(m, func(h *dns.RR_Header) { h.Ttl -= min(age, h.Ttl) })
	return m
}

func eachRR(m *dns.Msg, f func(*dns.RR_Header)) {
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if rr.Header().Rrtype != dns.TypeOPT { // its TTL field has flags
				f(rr.Header())
			}
		}
	}
}

// put stores an answer unless it forbids that.
func (c *cache) put(key cacheKey, m *dns.Msg) {
	life := lifetime(m)
	if life <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	item := &cached{key: key, msg: m.Copy(), stored: now, until: now.Add(life)}
	if el := c.items[key]; el != nil {
		el.Value = item
		c.order.MoveToFront(el)
		return
	}
	c.items[key] = c.order.PushFront(item)
	for len(c.items) > c.limit {
		oldest := c.order.Back()
		c.order.Remove(oldest)
		delete(c.items, oldest.Value.(*cached).key)
	}
}

// lifetime is the smallest TTL of the answer, or of a negative one what its SOA says
// (RFC 2308, section 5). A negative answer without SOA is not kept.
func lifetime(m *dns.Msg) time.Duration {
	if m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 {
		life := maxPositiveTTL
		eachRR(m, func(h *dns.RR_Header) { life = min(life, time.Duration(h.Ttl)*time.Second) })
		return life
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(maxNegativeTTL, time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second)
		}
	}
	return 0
}

func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order.Init()
	clear(c.items)
}

// flight lets equal questions share one answer.
type flight struct {
	mu    sync.Mutex
	calls map[cacheKey]*call
}

type call struct {
	done chan struct{}
	msg  *dns.Msg
	err  error
}

func (f *flight) do(key cacheKey, fn func() (*dns.Msg, error)) (*dns.Msg, error) {
	f.mu.Lock()
	if c := f.calls[key]; c != nil {
		f.mu.Unlock()
		<-c.done
		return c.msg, c.err
	}
	if f.calls == nil {
		f.calls = map[cacheKey]*call{}
	}
	c := &call{done: make(chan struct{})}
	f.calls[key] = c
	f.mu.Unlock()
	c.msg, c.err = fn()
	close(c.done)
	f.mu.Lock()
	delete(f.calls, key)
	f.mu.Unlock()
	return c.msg, c.err
}
