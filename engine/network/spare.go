package network

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// spares keeps some berths ready, so that a pod need not wait while the kernel makes
// one. It makes them when nothing else is going on, few while pods come one by one, and
// after a burst as many as the burst took, for a while. Every ready berth holds
// about 0.3 MB of the kernel's memory and one address.
//
// It is an offer only: without a spare a berth is made on the spot.
type spares struct {
	make func() (berth, error)
	drop func(berth) error
	max  int

	wake  chan struct{}
	mu    sync.Mutex
	idle  []berth
	want  int
	taken int       // since the last refill
	since time.Time // when so many were last needed
}

const (
	fewSpares  = 8
	manySpares = 128
	// quiet is how long no pod must have come before spares are made, impatience how
	// long after the first one they are made all the same.
	quiet, impatience = 250 * time.Millisecond, time.Second
	// pause is between two spares, so that others get to work.
	pause = 5 * time.Millisecond
	// keepMany is how long more than a few are kept without being used.
	keepMany = 5 * time.Minute
)

// newSpares returns none yet. At most an eighth of the addresses are kept ready.
func newSpares(addresses uint32, make_ func() (berth, error), drop func(berth) error) *spares {
	most := min(manySpares, int(addresses/8))
	return &spares{make: make_, drop: drop, max: most, want: min(fewSpares, most), wake: make(chan struct{}, 1)}
}

// take returns a berth that is ready, if there is one.
func (s *spares) take() (berth, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken++
	select {
	case s.wake <- struct{}{}:
	default:
	}
	if len(s.idle) == 0 {
		return berth{}, false
	}
	b := s.idle[0]
	s.idle = s.idle[1:]
	return b, true
}

// put adds a berth that is ready, unless there are enough.
func (s *spares) put(b berth) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.idle) >= s.max {
		return false
	}
	s.idle = append(s.idle, b)
	return true
}

// all returns the berths that are ready.
func (s *spares) all() []berth {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.idle)
}

// run keeps the number right until ctx ends.
func (s *spares) run(ctx context.Context) error {
	select { // the instance has just started and has more urgent things to do
	case <-ctx.Done():
		return nil
	case <-time.After(impatience):
	}
	for {
		if !s.rest(ctx) {
			return nil
		}
		if err := s.refill(ctx); err != nil {
			slog.Warn("no network namespaces are made ahead: pods wait for theirs", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-time.After(keepMany):
		}
	}
}

// rest returns when it is quiet, or false when ctx ends.
func (s *spares) rest(ctx context.Context) bool {
	patience := time.After(impatience)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-s.wake:
		case <-patience:
			return true
		case <-time.After(quiet):
			return true
		}
	}
}

// decide how many are wanted, after what was taken.
func (s *spares) decide(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= s.want || now.Sub(s.since) >= keepMany {
		s.want = min(max(fewSpares, s.taken), s.max)
		s.since = now
	}
	s.taken = 0
}

// refill makes or drops berths until there are as many as wanted.
func (s *spares) refill(ctx context.Context) error {
	s.decide(time.Now())
	for {
		s.mu.Lock()
		missing := s.want - len(s.idle)
		var surplus []berth
		if missing < 0 {
			surplus = s.idle[s.want:]
			s.idle = slices.Clone(s.idle[:s.want])
		}
		s.mu.Unlock()
		for _, b := range surplus {
			if err := s.drop(b); err != nil {
				return err
			}
		}
		if missing <= 0 {
			return nil
		}
		b, err := s.make()
		if err != nil {
			return err
		}
		if !s.put(b) {
			return s.drop(b)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}
