package store

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"
)

// leases orders the entries that expire by time.
type leases struct {
	mu   sync.Mutex // guards following
	heap leaseHeap
}

type lease struct {
	at       time.Time
	key      string
	revision uint64
}

// add notes that e expires and answers whether it is now the next to do so.
func (l *leases) add(e *Entry) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	heap.Push(&l.heap, lease{at: e.Expires, key: e.Key, revision: e.ModRevision})
	return l.heap[0].revision == e.ModRevision
}

func (l *leases) next() (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.heap) == 0 {
		return time.Time{}, false
	}
	return l.heap[0].at, true
}

// due takes the leases that have run out.
func (l *leases) due(now time.Time) []lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	var due []lease
	for len(l.heap) > 0 && !l.heap[0].at.After(now) {
		due = append(due, heap.Pop(&l.heap).(lease))
	}
	return due
}

// expire deletes the keys whose lease has run out and that nobody has written
// since. The deletions are relaxed: repeating one after a crash is harmless.
func (s *Store) expire(ctx context.Context, now time.Time) {
	for _, l := range s.leases.due(now) {
		_, _, err := s.Delete(ctx, l.key, l.revision, DeleteOptions{Relaxed: true})
		if err != nil && !errors.Is(err, ErrConflict) && ctx.Err() == nil {
			s.log.Error("deleting expired key", "key", l.key, "error", err)
		}
	}
}

type leaseHeap []lease

func (h leaseHeap) Len() int           { return len(h) }
func (h leaseHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h leaseHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *leaseHeap) Push(x any)        { *h = append(*h, x.(lease)) }
func (h *leaseHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
