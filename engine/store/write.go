package store

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"
)

// What a write may expect of its key, besides a ModRevision.
const (
	// Absent expects that the key does not exist.
	Absent uint64 = 0
	// Any expects nothing; a deletion still needs the key to exist.
	Any uint64 = math.MaxUint64
)

// DeleteOptions tune a deletion.
type DeleteOptions struct {
	// Relaxed makes the deletion visible before it is on disk.
	Relaxed bool
}

type atomicState = atomic.Pointer[state]

func newTree() *tree { return btree.NewG(32, lessKey) }

// request is one write on its way.
type request struct {
	key      string
	expected uint64
	value    Value
	deletion bool
	relaxed  bool

	// taken is set once, by the leader that carries the write out or by the
	// waiter that withdraws it.
	taken atomic.Bool
	done  chan struct{} // closed when following are set
	entry *Entry        // the new entry; for a deletion the old one
	rev   uint64
	err   error
}

func (r *request) fail(err error) {
	r.err = err
	close(r.done)
}

// queue holds the writes that wait for a leader.
type queue struct {
	mu      sync.Mutex // guards following
	waiting []*request
	closed  error
}

func (q *queue) push(r *request) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed != nil {
		return q.closed
	}
	q.waiting = append(q.waiting, r)
	return nil
}

func (q *queue) drain() []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	rs := q.waiting
	q.waiting = nil
	return rs
}

// fail refuses what waits and whatever comes.
func (q *queue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = err
	for _, r := range q.waiting {
		if r.taken.CompareAndSwap(false, true) {
			r.fail(err)
		}
	}
	q.waiting = nil
}

// Update stores value under key if the key is at revision expected (or Absent,
// or Any) and answers the new entry. Otherwise it answers a *ConflictError and
// changes nothing. It answers *NoSpaceError when the disk is full.
//
// When ctx ends first the write has not happened and never will: there is no
// uncertain outcome.
func (s *Store) Update(ctx context.Context, key string, expected uint64, value Value) (*Entry, error) {
	if key == "" || strings.HasSuffix(key, "/") {
		return nil, fmt.Errorf("write key %q: a key must not be empty nor end in a slash", key)
	}
	r := &request{key: key, expected: expected, value: value, relaxed: value.Relaxed, done: make(chan struct{})}
	if err := s.write(ctx, r); err != nil {
		return nil, err
	}
	return r.entry, nil
}

// Delete removes key if it exists and is at revision expected (or Any). It
// answers what was removed and the revision of the deletion, or a
// *ConflictError whose Current is nil when the key does not exist.
func (s *Store) Delete(ctx context.Context, key string, expected uint64, opts DeleteOptions) (*Entry, uint64, error) {
	r := &request{key: key, expected: expected, deletion: true, relaxed: opts.Relaxed, done: make(chan struct{})}
	if err := s.write(ctx, r); err != nil {
		return nil, 0, err
	}
	return r.entry, r.rev, nil
}

// write queues r and then either finds it done by another leader or leads.
func (s *Store) write(ctx context.Context, r *request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.queue.push(r); err != nil {
		return err
	}
	select {
	case <-r.done:
	case s.leader <- struct{}{}:
		s.batch()
		s.unlead()
		<-r.done
	case <-ctx.Done():
		if r.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-r.done
	}
	return r.err
}

// batch carries out all queued writes: first the relaxed ones, which become
// visible at once, then the durable ones in one transaction. The caller leads.
func (s *Store) batch() {
	if s.closed {
		s.queue.fail(ErrClosed)
		return
	}
	var relaxed, durable []*request
	queued := s.queue.drain()
	// A relaxed write needs a reserved revision; without one it must wait for
	// a commit that reserves more.
	room := s.last+uint64(len(queued)) <= s.reserved
	for _, r := range queued {
		switch {
		case !r.taken.CompareAndSwap(false, true): // withdrawn
		case r.relaxed && room:
			relaxed = append(relaxed, r)
		default:
			durable = append(durable, r)
		}
	}
	if len(relaxed) > 0 {
		s.batchRelaxed(relaxed)
	}
	if len(durable) > 0 {
		s.batchDurable(durable)
	}
}

func (s *Store) batchRelaxed(requests []*request) {
	b := s.begin()
	b.run(requests)
	for key, e := range b.changes {
		s.dirty[key] = e
	}
	b.publish()
	b.finish(nil)
	if len(b.changes) > 0 {
		s.wakeBackground()
	}
}

func (s *Store) batchDurable(requests []*request) {
	b := s.begin()
	b.run(requests)
	if len(b.events) == 0 {
		b.finish(nil)
		return
	}
	changes := b.changes
	if len(s.dirty) > 0 {
		for key, e := range s.dirty {
			if _, newer := changes[key]; !newer {
				changes[key] = e
			}
		}
	}
	err := s.commit(changes, b.tree, b.sum)
	if err != nil {
		// What of the batch reached the disk is not known: have the next
		// commit write these keys as they were.
		for key := range changes {
			s.dirty[key], _ = s.master.Get(&Entry{Key: key})
		}
		s.wakeBackground()
	} else {
		b.publish()
	}
	b.finish(err)
}

// batchRun is a batch under way, invisible until published.
type batchRun struct {
	store   *Store
	now     time.Time
	tree    *tree
	sum     uint64
	changes map[string]*Entry
	events  []*Event
	done    []*request // carried out; those refused were told already
}

func (s *Store) begin() *batchRun {
	return &batchRun{
		store: s, now: time.Now(), tree: s.master.Clone(), sum: s.sum,
		changes: map[string]*Entry{},
	}
}

func (b *batchRun) run(requests []*request) {
	for _, r := range requests {
		if err := b.apply(r); err != nil {
			r.fail(err)
		} else {
			b.done = append(b.done, r)
		}
	}
}

// apply carries out one write on the batch's tree.
func (b *batchRun) apply(r *request) error {
	current, exists := b.tree.Get(&Entry{Key: r.key})
	if conflicts(r, current, exists) {
		return &ConflictError{Key: r.key, Expected: r.expected, Current: current}
	}
	r.rev = b.store.last + 1
	ev := &Event{Revision: r.rev, Key: r.key, Prev: current, at: b.now}
	if r.deletion {
		b.tree.Delete(current)
		r.entry = current
	} else {
		e, err := b.store.newEntry(r, current, b.now)
		if err != nil {
			return err
		}
		b.tree.ReplaceOrInsert(e)
		b.sum += uint64(e.sum)
		r.entry, ev.Entry = e, e
	}
	if exists {
		b.sum -= uint64(current.sum)
	}
	b.store.last = r.rev
	b.changes[r.key] = ev.Entry
	b.events = append(b.events, ev)
	return nil
}

func conflicts(r *request, current *Entry, exists bool) bool {
	if !exists {
		return r.deletion || r.expected != Absent && r.expected != Any
	}
	return r.expected != Any && r.expected != current.ModRevision
}

func (s *Store) newEntry(r *request, current *Entry, now time.Time) (*Entry, error) {
	data := r.value.Data
	if spare := cap(data) - len(data); spare > len(data)/8 {
		data = bytes.Clone(data) // encoders leave room to grow, which would be kept for good
	}
	e := &Entry{Key: r.key, Data: data, CreateRevision: r.rev, ModRevision: r.rev, codecs: &s.codecs}
	if current != nil {
		e.CreateRevision = current.CreateRevision
	}
	if r.value.TTL > 0 {
		e.Expires = now.Add(r.value.TTL).Truncate(time.Millisecond)
	}
	if object := r.value.Object; object != nil {
		if stamp := s.codecs.find(r.key).Stamp; stamp != nil {
			if err := stamp(object, r.rev); err != nil {
				return nil, fmt.Errorf("stamp %q with revision %d: %w", r.key, r.rev, err)
			}
		}
		e.object.Store(&object)
	}
	e.sum = recordSum(e)
	return e, nil
}

// publish makes the batch the current state.
func (b *batchRun) publish() {
	s := b.store
	s.master, s.sum = b.tree, b.sum
	if len(b.events) == 0 {
		return
	}
	s.hub.publish(s, &state{tree: b.tree.Clone(), revision: s.last}, b.events)
	for _, ev := range b.events {
		if e := ev.Entry; e != nil && !e.Expires.IsZero() && s.leases.add(e) {
			s.wakeBackground()
		}
	}
}

// finish tells the waiters.
func (b *batchRun) finish(err error) {
	for _, r := range b.done {
		r.err = err
		close(r.done)
	}
}
