package search

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/gantryhq/gantry/services/logs/archive"
)

// Hub tells those who follow logs of new lines. The zero value is ready.
type Hub struct {
	count     atomic.Int32 // of followers, so that nothing is done when there are none
	mu        sync.Mutex
	following map[*Subscription]bool
}

// News is a new line.
type News struct {
	Labels labels.Labels // of its log
	Entry  archive.Entry
}

// Subscription gets new lines of logs.
type Subscription struct {
	hub  *Hub
	fits func(labels.Labels) bool
	// C brings the lines in the order of each log.
	C chan News
	// Missed counts lines that came faster than they were taken out of C.
	Missed atomic.Int64
}

// maxBehind is how many lines a follower may be behind.
const maxBehind = 4096

// Follow subscribes to logs whose labels fit, from now on, until the subscription is closed.
func (h *Hub) Follow(fits func(labels.Labels) bool) *Subscription {
	s := &Subscription{hub: h, fits: fits, C: make(chan News, maxBehind)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.following == nil {
		h.following = map[*Subscription]bool{}
	}
	h.following[s] = true
	h.count.Add(1)
	return s
}

// Close ends the subscription. C stays open.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.hub.following[s] {
		delete(s.hub.following, s)
		s.hub.count.Add(-1)
	}
}

// Tell brings lines of a log to those who follow it. lines is called when there is somebody, and calls
// each with the lines; what each is given may be reused.
func (h *Hub) Tell(l labels.Labels, lines func(each func(archive.Entry))) {
	if h.count.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var to []*Subscription
	for s := range h.following {
		if s.fits(l) {
			to = append(to, s)
		}
	}
	if len(to) == 0 {
		return
	}
	lines(func(e archive.Entry) {
		e.Line = slices.Clone(e.Line)
		for _, s := range to {
			select {
			case s.C <- News{l, e}:
			default:
				s.Missed.Add(1)
			}
		}
	})
}
