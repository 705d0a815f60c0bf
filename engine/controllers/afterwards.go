package controllers

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"
)

// afterwards lets events be written when pods are not on their way any more: a
// pod that starts is waited for, what is told about it is read later. Requests
// about events wait until none has made, bound or deleted a pod for a moment, at
// most a second, and are then sent one after the other. Those who send them do so
// from goroutines of their own, and nothing is dropped here.
type afterwards struct {
	mu   sync.Mutex // guards following
	last time.Time  // when a pod was last on its way
	one  sync.Mutex // held while a request about an event is sent
}

const (
	// eventPause is how long no pod must have been on its way.
	eventPause = 25 * time.Millisecond
	// eventPatience is how long an event waits for that.
	eventPatience = time.Second
)

// wrap makes a transport of one component tell of pods and wait with events.
func (a *afterwards) wrap(rt http.RoundTripper) http.RoundTripper { return eventsAfterwards{a, rt} }

type eventsAfterwards struct {
	*afterwards
	http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (e eventsAfterwards) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet {
		return e.RoundTripper.RoundTrip(r)
	}
	switch resource(r.URL.Path) {
	case "pods":
		e.noteWork()
	case "events":
		if err := e.await(r.Context()); err != nil {
			return nil, err
		}
		e.one.Lock()
		defer e.one.Unlock()
	}
	return e.RoundTripper.RoundTrip(r)
}

// resource is the namespaced resource that a path of the API is about.
func resource(path string) string {
	_, rest, _ := strings.Cut(path, "/namespaces/")
	_, rest, _ = strings.Cut(rest, "/")
	name, _, _ := strings.Cut(rest, "/")
	return name
}

func (a *afterwards) noteWork() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = time.Now()
}

func (a *afterwards) await(ctx context.Context) error {
	for end := time.Now().Add(eventPatience); ; {
		a.mu.Lock()
		free := a.last.Add(eventPause)
		a.mu.Unlock()
		if free.After(end) {
			free = end
		}
		left := time.Until(free)
		if left <= 0 {
			return nil
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
