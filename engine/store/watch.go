package store

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Event is one change of one key. Events are immutable and shared by all watchers.
type Event struct {
	Revision uint64
	Key      string
	// Entry is the key's new content, or nil when it was deleted.
	Entry *Entry
	// Prev is what the key held before, or nil when the change created it.
	Prev *Entry

	at      time.Time
	deleted atomic.Pointer[any] // Object of a deletion
	forms   forms               // of deleted
}

// Object returns the decoded value after the change; for a deletion, the last
// value stamped with the revision of the deletion. It is shared: the caller
// must not change it.
func (ev *Event) Object() (any, error) {
	if ev.Entry != nil {
		return ev.Entry.Object()
	}
	if p := ev.deleted.Load(); p != nil {
		return *p, nil
	}
	object, err := ev.Prev.decode(ev.Revision)
	if err == nil && !ev.deleted.CompareAndSwap(nil, &object) {
		if p := ev.deleted.Load(); p != nil {
			return *p, nil // somebody else was faster: share theirs
		}
	}
	return object, err
}

// forget drops decoded values that only this event needs.
func (ev *Event) forget() {
	ev.deleted.Store(nil)
	ev.forms.forget()
	if ev.Prev != nil {
		ev.Prev.forget()
	}
}

func (ev *Event) size() int64 {
	if ev.Entry != nil {
		return ev.Entry.size()
	}
	return ev.Prev.size()
}

// decodedHistory is how many of the latest events keep the decoded form of the
// values they replaced. Decoded objects are several times the size of their
// bytes, and replays from far back are rare.
const decodedHistory = 128

// hub publishes states and events, in one step under its lock, and remembers
// recent events.
type hub struct {
	maxEvents int
	maxBytes  int64
	maxAge    time.Duration

	mu sync.Mutex // guards following
	// ring holds the latest events in revision order, from ring[head] on.
	ring  []*Event
	head  int
	bytes int64
	// floor is the revision up to which events are gone.
	floor    uint64
	watchers map[string]map[*Watcher]struct{} // by prefix
	closed   error                            // why there are no more events, or nil
}

// publish makes a batch visible.
func (h *hub) publish(s *Store, next *state, events []*Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.state.Store(next)
	for _, ev := range events {
		h.ring = append(h.ring, ev)
		h.bytes += ev.size()
		if i := len(h.ring) - 1 - decodedHistory; i >= h.head {
			h.ring[i].forget()
		}
		h.fanOut(ev)
	}
	if len(events) > 0 {
		h.trim(events[len(events)-1].at)
	}
}

// fanOut hands ev to the watchers of each prefix of its key.
func (h *hub) fanOut(ev *Event) {
	for w := range h.watchers[ev.Key] {
		h.push(w, ev)
	}
	for w := range h.watchers[""] {
		h.push(w, ev)
	}
	for i := 0; i < len(ev.Key); i++ {
		if ev.Key[i] == '/' {
			for w := range h.watchers[ev.Key[:i+1]] {
				h.push(w, ev)
			}
		}
	}
}

func (h *hub) push(w *Watcher, ev *Event) {
	if ev.Revision <= w.from {
		return
	}
	if len(w.queue) >= h.maxEvents || w.bytes > h.maxBytes {
		h.end(w, ErrSlowWatcher)
		return
	}
	w.queue = append(w.queue, ev)
	w.bytes += ev.size()
	w.wake()
}

// end closes a watcher: it answers err after what is queued is taken, or at
// once when it was too slow.
func (h *hub) end(w *Watcher, err error) {
	if w.err != nil {
		return
	}
	w.err = err
	if set := h.watchers[w.prefix]; set != nil {
		delete(set, w)
		if len(set) == 0 {
			delete(h.watchers, w.prefix)
		}
	}
	w.wake()
}

// age forgets old events, and what slow watchers had decoded of others.
func (h *hub) age(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trim(now)
	for i := h.head; i < len(h.ring)-decodedHistory; i++ {
		h.ring[i].forget()
	}
}

// trim forgets events beyond the bounds.
func (h *hub) trim(now time.Time) {
	for h.head < len(h.ring) {
		first := h.ring[h.head]
		if len(h.ring)-h.head <= h.maxEvents && h.bytes <= h.maxBytes && now.Sub(first.at) <= h.maxAge {
			break
		}
		h.drop()
	}
	h.shrink()
}

func (h *hub) drop() {
	first := h.ring[h.head]
	h.bytes -= first.size()
	h.floor = first.Revision
	h.ring[h.head] = nil
	h.head++
}

// shrink gives back the space of dropped events once it is most of the ring.
func (h *hub) shrink() {
	if live := len(h.ring) - h.head; h.head > 64 && h.head > live {
		h.ring = append(make([]*Event, 0, live+live/2), h.ring[h.head:]...)
		h.head = 0
	}
}

// after answers the remembered events with a revision greater than revision.
func (h *hub) after(revision uint64) []*Event {
	lo, hi := h.head, len(h.ring)
	for lo < hi {
		if mid := (lo + hi) / 2; h.ring[mid].Revision <= revision {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return h.ring[lo:]
}

// since answers the latest state with a copy of the events that led to it from revision.
func (h *hub) since(revision uint64, s *Store) (state, []*Event, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	current := *s.state.Load()
	if revision > current.revision {
		return state{}, nil, ErrFutureRevision
	}
	if revision < h.floor {
		return state{}, nil, ErrCompacted
	}
	return current, append([]*Event(nil), h.after(revision)...), nil
}

// Watcher follows the changes below one prefix. Its methods are safe for
// concurrent use, but each event is answered once.
type Watcher struct {
	hub    *hub
	store  *Store
	prefix string
	from   uint64
	ready  chan struct{}

	// guarded by hub.mu
	queue []*Event
	bytes int64
	err   error
}

func (w *Watcher) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Watch follows the changes below prefix (see View.Ascend) with a revision
// greater than revision, replaying those that have happened. Revision 0 means
// from now on. It answers ErrCompacted when the events since are not all
// remembered. The caller must Stop the watcher.
func (s *Store) Watch(prefix string, revision uint64) (*Watcher, error) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if revision == 0 {
		revision = s.state.Load().revision
	} else if revision < s.hub.floor {
		return nil, ErrCompacted
	}
	return s.hub.register(s, prefix, revision)
}

// ViewAndWatch answers the present state and a watcher of everything after it.
func (s *Store) ViewAndWatch(prefix string) (*View, *Watcher, error) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	v := &View{state: *s.state.Load()}
	w, err := s.hub.register(s, prefix, v.Revision())
	return v, w, err
}

func (h *hub) register(s *Store, prefix string, from uint64) (*Watcher, error) {
	if h.closed != nil {
		return nil, h.closed
	}
	w := &Watcher{hub: h, store: s, prefix: prefix, from: from, ready: make(chan struct{}, 1)}
	for _, ev := range h.after(from) {
		if ev.Key == prefix || isRange(prefix) && strings.HasPrefix(ev.Key, prefix) {
			w.queue = append(w.queue, ev)
			w.bytes += ev.size()
		}
	}
	if len(w.queue) > 0 {
		w.wake()
	}
	set := h.watchers[prefix]
	if set == nil {
		set = map[*Watcher]struct{}{}
		h.watchers[prefix] = set
	}
	set[w] = struct{}{}
	return w, nil
}

// Ready receives when Take has something to answer.
func (w *Watcher) Ready() <-chan struct{} { return w.ready }

// Take answers the events that wait, possibly none, without blocking, and the
// revision up to which the watcher has now been told everything: after the
// events are passed on, it may be announced as a bookmark. After the end of
// the watch it answers the reason.
func (w *Watcher) Take() (events []*Event, progress uint64, err error) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if w.err == ErrSlowWatcher || w.err != nil && len(w.queue) == 0 {
		w.wake() // every later Take answers too
		return nil, 0, w.err
	}
	events, w.queue, w.bytes = w.queue, nil, 0
	if w.err != nil {
		w.wake()
	}
	return events, max(w.from, w.store.state.Load().revision), nil
}

// Next waits for events and takes them.
func (w *Watcher) Next(ctx context.Context) ([]*Event, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.ready:
			if events, _, err := w.Take(); err != nil || len(events) > 0 {
				return events, err
			}
		}
	}
}

// Stop ends the watch. It may be called more than once.
func (w *Watcher) Stop() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	w.queue, w.bytes = nil, 0
	w.hub.end(w, context.Canceled)
}

// Compact forgets the events up to revision; watches and views from before it
// answer ErrCompacted.
func (s *Store) Compact(revision uint64) error {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if revision > s.state.Load().revision {
		return ErrFutureRevision
	}
	for s.hub.head < len(s.hub.ring) && s.hub.ring[s.hub.head].Revision <= revision {
		s.hub.drop()
	}
	s.hub.floor = max(s.hub.floor, revision)
	s.hub.shrink()
	return nil
}

// CompactRevision is the oldest revision that a watch or view can start from.
func (s *Store) CompactRevision() uint64 {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.hub.floor
}

// close ends all watchers.
func (h *hub) close(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = err
	for _, set := range h.watchers {
		for w := range set {
			h.end(w, err)
		}
	}
}
