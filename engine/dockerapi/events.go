package dockerapi

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
)

// keptEvents is how many past events --since can reach back to.
const keptEvents = 256

// eventBus hands events to those who listen. The zero value is ready.
type eventBus struct {
	mu        sync.Mutex
	past      []events.Message
	listeners map[chan events.Message]bool
}

func (b *eventBus) publish(m events.Message) {
	now := time.Now()
	m.Scope, m.Time, m.TimeNano = "local", now.Unix(), now.UnixNano()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.past = append(b.past, m); len(b.past) > keptEvents {
		b.past = b.past[1:]
	}
	for l := range b.listeners {
		select {
		case l <- m:
		default: // it does not read: it is cut off, rather than told half
			delete(b.listeners, l)
			close(l)
		}
	}
}

func (b *eventBus) listen() (past []events.Message, ch chan events.Message, end func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch = make(chan events.Message, keptEvents)
	if b.listeners == nil {
		b.listeners = map[chan events.Message]bool{}
	}
	b.listeners[ch] = true
	return append([]events.Message(nil), b.past...), ch, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.listeners, ch)
	}
}

func (s *Server) containerEvent(r *record, action events.Action, more map[string]string) {
	attributes := map[string]string{"image": r.Config.Image, "name": r.Name}
	maps.Copy(attributes, r.Config.Labels)
	maps.Copy(attributes, more)
	s.events.publish(events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: r.ID, Attributes: attributes}})
}

func (s *Server) event(kind events.Type, action events.Action, id string, attributes map[string]string) {
	if attributes == nil {
		attributes = map[string]string{}
	}
	s.events.publish(events.Message{Type: kind, Action: action, Actor: events.Actor{ID: id, Attributes: attributes}})
}

// legacyEvent adds the fields that clients before API 1.52 read.
type legacyEvent struct {
	events.Message
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
}

func legacy(m events.Message) legacyEvent {
	l := legacyEvent{Message: m}
	if m.Type == events.ContainerEventType || m.Type == events.ImageEventType {
		l.Status, l.ID = string(m.Action), m.Actor.ID
	}
	if m.Type == events.ContainerEventType {
		l.From = m.Actor.Attributes["image"]
	}
	return l
}

func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) error {
	f, err := filtersOf(r)
	if err != nil {
		return err
	}
	since, err := timeOf(r.FormValue("since"))
	if err != nil {
		return err
	}
	until, err := timeOf(r.FormValue("until"))
	if err != nil {
		return err
	}
	past, live, end := s.events.listen()
	defer end()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flusher := http.NewResponseController(w)
	_ = flusher.Flush()
	enc := json.NewEncoder(w)
	send := func(m events.Message) {
		if f.matchEvent(m) {
			_ = enc.Encode(legacy(m)) // the client is gone: its context says so
			_ = flusher.Flush()
		}
	}
	for _, m := range past {
		at := time.Unix(0, m.TimeNano)
		if !since.IsZero() && !at.Before(since) && (until.IsZero() || !at.After(until)) {
			send(m)
		}
	}
	var over <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		over = t.C
	}
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-over:
			return nil
		case m, open := <-live:
			if !open {
				return nil
			}
			send(m)
		}
	}
}

// timeOf reads a time: seconds since 1970 with a fraction, RFC 3339, or how long ago.
func timeOf(text string) (time.Time, error) {
	if text == "" || text == "0" {
		return time.Time{}, nil
	}
	seconds, fraction, _ := strings.Cut(text, ".")
	if sec, err := strconv.ParseInt(seconds, 10, 64); err == nil {
		nanos, _ := strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
		return time.Unix(sec, nanos), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-d), nil
	}
	return time.Time{}, invalid("invalid time %q", text)
}

func (f filters) matchEvent(m events.Message) bool {
	a := m.Actor.Attributes
	is := func(t events.Type) func(string) bool {
		return func(v string) bool {
			return m.Type == t && (m.Actor.ID == v || a["name"] == v || v != "" && strings.HasPrefix(m.Actor.ID, v))
		}
	}
	return f.any("type", func(v string) bool { return string(m.Type) == v }) &&
		f.any("event", func(v string) bool {
			return string(m.Action) == v || strings.HasPrefix(string(m.Action), v+":")
		}) &&
		f.any("container", is(events.ContainerEventType)) &&
		f.any("image", func(v string) bool { return is(events.ImageEventType)(v) || a["image"] == v }) &&
		f.any("network", is(events.NetworkEventType)) && f.any("volume", is(events.VolumeEventType)) &&
		f.labels("label", a)
}
