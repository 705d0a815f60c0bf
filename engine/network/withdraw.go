package network

import (
	"net/netip"
	"sync"
	"time"

	"github.com/gantryhq/gantry/engine/network/catalog"
)

// offers knows which addresses services send new connections to, as the kernel
// has it at this moment. The zero value is ready.
type offers struct {
	mu      sync.Mutex // guards following
	service map[catalog.Key][]netip.Addr
	count   map[netip.Addr]int           // services that offer the address
	ended   map[netip.Addr]time.Time     // when the last of them stopped
	waiting map[netip.Addr]chan struct{} // closed then
}

// recently is how long an address counts as offered after the last service let go.
const recently = time.Second

// set notes what a service offers now; nil means that there is no such service.
func (o *offers) set(k catalog.Key, s *catalog.Service) {
	var now []netip.Addr
	if s != nil {
		for _, e := range s.Endpoints {
			if e.Ready && !e.Terminating { // a terminating one can be ready when a service publishes all addresses
				now = append(now, e.Addr)
			}
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.service == nil {
		o.service, o.count = map[catalog.Key][]netip.Addr{}, map[netip.Addr]int{}
		o.ended, o.waiting = map[netip.Addr]time.Time{}, map[netip.Addr]chan struct{}{}
	}
	for _, ip := range now {
		o.count[ip]++
	}
	for _, ip := range o.service[k] {
		if o.count[ip]--; o.count[ip] == 0 {
			delete(o.count, ip)
			o.ended[ip] = time.Now()
			if ch := o.waiting[ip]; ch != nil {
				close(ch)
				delete(o.waiting, ip)
			}
		}
	}
	if o.service[k] = now; len(now) == 0 {
		delete(o.service, k)
	}
	for ip, at := range o.ended {
		if time.Since(at) > recently {
			delete(o.ended, ip)
		}
	}
}

// withdrawn implements [Network.Withdrawn].
func (o *offers) withdrawn(ip netip.Addr) (gone <-chan struct{}, offered bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count[ip] > 0 {
		if o.waiting[ip] == nil {
			o.waiting[ip] = make(chan struct{})
		}
		return o.waiting[ip], true
	}
	done := make(chan struct{})
	close(done)
	at, ok := o.ended[ip]
	return done, ok && time.Since(at) <= recently
}

// Withdrawn tells when services send no new connections to a pod's address any
// more: gone is closed then. offered is false when none has in the last second.
func (n *Network) Withdrawn(ip netip.Addr) (gone <-chan struct{}, offered bool) {
	return n.proxy.offers.withdrawn(ip)
}
