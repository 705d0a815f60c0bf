package inproc

import (
	"context"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/watch"
)

// eventLimit bounds how many events may wait for the reader of a watch. Beyond it the sender
// waits, and what the store has for it is limited there.
const eventLimit = 256

type eventsKey struct{}

// SenderFrom returns how the handler of a watch hands events to its client as they are: the
// object is the client's, except for what it points to, which is everybody's. The function waits
// for a slow client and answers false when the watch is over. It is nil for requests that
// cannot take events this way, and must be asked for only by a handler that uses it.
func SenderFrom(ctx context.Context) func(watch.Event) bool {
	if q, ok := ctx.Value(eventsKey{}).(*eventQueue); ok {
		q.used.Store(true)
		return q.send
	}
	return nil
}

// eventQueue carries the events of one watch.
type eventQueue struct {
	used atomic.Bool // instead of the pipe; set before the answer begins

	mu      sync.Mutex
	changed sync.Cond
	waiting []watch.Event // guarded by mu
	head    int           // guarded by mu; start of what is waiting
	end     error         // guarded by mu; set when no more events come
}

func newEventQueue() *eventQueue {
	q := &eventQueue{}
	q.changed.L = &q.mu
	return q
}

func (q *eventQueue) send(ev watch.Event) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting)-q.head >= eventLimit && q.end == nil {
		q.changed.Wait()
	}
	if q.end != nil {
		return false
	}
	if q.head == len(q.waiting) {
		q.waiting, q.head = q.waiting[:0], 0
		q.changed.Signal() // only now can the reader be the one who waits
	} else if q.head >= eventLimit { // a reader that lags but never stops must not grow the queue
		kept := copy(q.waiting, q.waiting[q.head:])
		clear(q.waiting[kept:])
		q.waiting, q.head = q.waiting[:kept], 0
	}
	q.waiting = append(q.waiting, ev)
	return true
}

// next waits for an event. After the last one it answers why there are no more.
func (q *eventQueue) next() (watch.Event, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.head == len(q.waiting) && q.end == nil {
		q.changed.Wait()
	}
	if q.head == len(q.waiting) {
		return watch.Event{}, q.end
	}
	if len(q.waiting)-q.head >= eventLimit {
		q.changed.Signal() // the sender waits
	}
	ev := q.waiting[q.head]
	q.waiting[q.head] = watch.Event{}
	q.head++
	if q.head == len(q.waiting) {
		q.head = 0
		if q.waiting = q.waiting[:0]; cap(q.waiting) > eventLimit/8 {
			q.waiting = nil // a burst is over, give the memory back
		}
	}
	return ev, nil
}

// close ends the queue: what waits can still be taken. The first reason stays.
func (q *eventQueue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end == nil {
		q.end = err
	}
	q.changed.Broadcast()
}

// abort ends the queue and drops what waits.
func (q *eventQueue) abort(err error) {
	q.close(err)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting, q.head = nil, 0
}
