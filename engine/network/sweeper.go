package network

import (
	"context"
	"sync"
	"syscall"
	"time"

	"github.com/gantryhq/gantry/engine/network/rtnl"
)

// sweeper deletes the host ends of interface pairs whose pod was detached and whose
// namespace is still kept alive by a process that would not die.
type sweeper struct {
	do func(...rtnl.Request) error

	mu  sync.Mutex
	due map[string]time.Time // by name
}

const sweepAfter = 10 * time.Second

func newSweeper(do func(...rtnl.Request) error) *sweeper {
	return &sweeper{do: do, due: map[string]time.Time{}}
}

func (s *sweeper) add(veth string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due[veth] = time.Now().Add(sweepAfter)
}

// cancel keeps the interface: its pod is attached again.
func (s *sweeper) cancel(veth string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.due, veth)
}

func (s *sweeper) run(ctx context.Context) error {
	tick := time.NewTicker(sweepAfter / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if err := s.sweep(now); err != nil {
				return err
			}
		}
	}
}

func (s *sweeper) sweep(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var requests []rtnl.Request
	for veth, due := range s.due {
		if now.After(due) {
			requests = append(requests, rtnl.DelLink(veth).Ignoring(syscall.ENODEV))
			delete(s.due, veth)
		}
	}
	if len(requests) == 0 {
		return nil
	}
	return s.do(requests...)
}
