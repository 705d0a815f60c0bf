package network

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/gantryhq/gantry/engine/network/rtnl"
)

// sweeper clears away, in the background, what is left of a berth once it is unpinned:
// the bridge's neighbour entry at once, and later the interface pair where a process
// that would not die keeps the namespace alive. Waiting for the first would mean waiting
// for the kernel, which holds its lock while it deletes namespaces.
type sweeper struct {
	do     func(...rtnl.Request) error
	free   func([]netip.Addr) // the addresses may be used again
	bridge int

	wake chan struct{}
	mu   sync.Mutex
	left []netip.Addr         // neighbours to forget
	due  map[string]time.Time // interfaces to delete, by name
}

const sweepAfter = 10 * time.Second

func newSweeper(do func(...rtnl.Request) error, free func([]netip.Addr), bridge int) *sweeper {
	return &sweeper{do: do, free: free, bridge: bridge, wake: make(chan struct{}, 1), due: map[string]time.Time{}}
}

// add has the remains of a berth cleared away.
func (s *sweeper) add(b berth) {
	s.mu.Lock()
	s.left = append(s.left, b.IP)
	s.due[b.Veth] = time.Now().Add(sweepAfter)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *sweeper) run(ctx context.Context) error {
	tick := time.NewTicker(sweepAfter / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			s.forget()
		case now := <-tick.C:
			s.sweep(now)
		}
	}
}

// batchSize is how many requests fit the socket's buffer.
const batchSize = 50

// forget deletes the neighbour entries of all berths that were added, and then frees
// their addresses.
func (s *sweeper) forget() {
	s.mu.Lock()
	left := s.left
	s.left = nil
	s.mu.Unlock()
	for len(left) > 0 {
		k := min(batchSize, len(left))
		var requests []rtnl.Request
		for _, ip := range left[:k] {
			requests = append(requests, rtnl.DelNeigh(s.bridge, ip).Ignoring(syscall.ENOENT, syscall.ENODEV))
		}
		if err := s.do(requests...); err != nil {
			// Harmless: hardware addresses follow from addresses.
			slog.Warn("neighbour entries of former pods are left", "err", err)
		}
		s.free(left[:k])
		left = left[k:]
	}
}

func (s *sweeper) sweep(now time.Time) {
	s.mu.Lock()
	var requests []rtnl.Request
	for veth, due := range s.due {
		if now.After(due) && len(requests) < batchSize {
			requests = append(requests, rtnl.DelLink(veth).Ignoring(syscall.ENODEV))
			delete(s.due, veth)
		}
	}
	s.mu.Unlock()
	if len(requests) == 0 {
		return
	}
	if err := s.do(requests...); err != nil {
		slog.Warn("interfaces of former pods are left", "err", err)
	}
}
