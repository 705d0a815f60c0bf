package timeline

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gantryhq/gantry/services/logs/search"
)

// Path is where the time line is asked for.
const Path = "/timeline/api/v1/events"

const (
	defaultLimit = 500
	maxLimit     = 5000
	defaultRange = 24 * time.Hour
	queryTimeout = 20 * time.Second
)

// Server answers GET Path with {"events": [...]}, the newest first. Parameters: namespace, workload, kind
// (several by commas), start and end (RFC 3339 or seconds since 1970; the last 24 hours), limit (500).
type Server struct {
	Source search.Source
	Alerts *Alerts // or nil
	// Rights tells whose namespaces' events the sender of a request may see.
	Rights func(*http.Request) (func(namespace string) bool, error)
}

// Answer is what the API sends.
type Answer struct {
	Events []Event `json:"events"`
	// Incomplete says what could not be asked, such as alerts.
	Incomplete string `json:"incomplete,omitempty"`
}

// ServeHTTP answers requests of authenticated senders.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != Path || r.Method != http.MethodGet {
		http.Error(w, "the time line is at GET "+Path, http.StatusNotFound)
		return
	}
	f, err := parseFilter(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if f.May, err = s.Rights(r); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if f.Namespace != "" && !f.May(f.Namespace) {
		http.Error(w, fmt.Sprintf("you may not see namespace %q: it needs the right to get pods/log there", f.Namespace), http.StatusForbidden)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	answer := Answer{Events: []Event{}}
	events, err := read(ctx, s.Source, f)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer.Events = append(answer.Events, events...)
	if s.Alerts != nil && (len(f.Kinds) == 0 || slices.Contains(f.Kinds, "alert")) {
		alerts, err := s.Alerts.read(ctx, f)
		if err != nil {
			answer.Incomplete = "alerts: " + err.Error()
		}
		answer.Events = append(answer.Events, alerts...)
		sortEvents(answer.Events)
		answer.Events = answer.Events[:min(len(answer.Events), f.Limit)]
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(answer) // the client has gone
}

func parseFilter(r *http.Request) (f Filter, err error) {
	q := r.URL.Query()
	f = Filter{Namespace: q.Get("namespace"), Workload: q.Get("workload"), Limit: defaultLimit, To: time.Now()}
	if k := q.Get("kind"); k != "" {
		f.Kinds = strings.Split(k, ",")
	}
	if t := q.Get("end"); t != "" {
		if f.To, err = parseTime("end", t); err != nil {
			return f, err
		}
	}
	f.From = f.To.Add(-defaultRange)
	if t := q.Get("start"); t != "" {
		if f.From, err = parseTime("start", t); err != nil {
			return f, err
		}
	}
	if f.To.Before(f.From) {
		return f, fmt.Errorf("the end is before the start")
	}
	if l := q.Get("limit"); l != "" {
		if f.Limit, err = strconv.Atoi(l); err != nil || f.Limit < 1 || f.Limit > maxLimit {
			return f, fmt.Errorf("limit %q is not a number from 1 to %d", l, maxLimit)
		}
	}
	return f, nil
}

func parseTime(name, text string) (time.Time, error) {
	if n, err := strconv.ParseFloat(text, 64); err == nil && n >= 0 && n < 1e10 {
		return time.Unix(0, int64(n*1e9)), nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, fmt.Errorf("%s %q is not a time: it may be as in RFC 3339, or seconds since 1970", name, text)
	}
	return t, nil
}

// fits tells whether an event is asked for. One that lasts is, when it was going on.
func (f *Filter) fits(e *Event) bool {
	begun := !e.Time.After(f.To)
	over := e.Time.Before(f.From)
	if e.Kind == "alert" {
		over = e.End != nil && e.End.Before(f.From)
	}
	return begun && !over &&
		(f.Namespace == "" || e.Namespace == f.Namespace) && (f.Workload == "" || e.Workload == f.Workload) &&
		(len(f.Kinds) == 0 || slices.Contains(f.Kinds, e.Kind))
}

// sortEvents puts the newest first.
func sortEvents(events []Event) {
	slices.SortStableFunc(events, func(x, y Event) int {
		return cmp.Or(y.Time.Compare(x.Time), cmp.Compare(x.Object, y.Object), cmp.Compare(x.Message, y.Message))
	})
}
