package loki

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/gantryhq/gantry/services/logs/search"
)

// Config is what answers are made of.
type Config struct {
	Source search.Source
	Hub    *search.Hub
	// Rights tells whose namespaces' logs the sender of a request may see.
	Rights  func(*http.Request) (func(namespace string) bool, error)
	Queries *prometheus.HistogramVec // seconds, by kind
}

// Server is the API.
type Server struct {
	cfg     Config
	mux     *http.ServeMux
	running chan struct{} // one for each question that is being answered
	tails   atomic.Int32
}

var errTails = fmt.Errorf("%d followers are connected: no more are taken", maxTails)

const (
	maxRunning   = 4
	queryTimeout = 30 * time.Second
	maxForm      = 64 << 10
)

// New sets the API up; its paths begin with /loki/.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, mux: http.NewServeMux(), running: make(chan struct{}, maxRunning)}
	for path, h := range map[string]handler{
		"query": s.query, "query_range": s.queryRange, "labels": s.labels, "label": s.labels, "label/{name}/values": s.values,
		"series": s.series, "index/stats": s.stats, "index/volume": s.volume, "index/volume_range": s.volumeRange,
	} {
		for _, method := range []string{"GET", "POST"} {
			s.mux.Handle(method+" /loki/api/v1/"+path, s.answering(path, h))
		}
	}
	s.mux.HandleFunc("GET /loki/api/v1/tail", s.tail)
	s.mux.HandleFunc("GET /loki/api/v1/status/buildinfo", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]string{"version": "3.0.0", "edition": "gantry"}) // the version of the API
	})
	s.mux.HandleFunc("GET /loki/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") })
	s.mux.HandleFunc("/loki/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, r.URL.Path+" is not known here: there are query, query_range, labels, label/NAME/values, series and tail under /loki/api/v1/", http.StatusNotFound)
	})
	return s
}

// ServeHTTP answers requests of authenticated senders.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// asked is a question with its parameters.
type asked struct {
	context.Context
	form url.Values
	path func(name string) string
	may  func(namespace string) bool
	now  time.Time
}

type handler func(*asked) (any, error)

// failure is an error that the asker can do something about, or else the code says whose it is.
type failure struct {
	code int
	error
}

func bad(format string, args ...any) error {
	return failure{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

func (s *Server) answering(kind string, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
		defer cancel()
		answer, err := s.answer(ctx, w, r, h)
		s.cfg.Queries.WithLabelValues(kind).Observe(time.Since(began).Seconds())
		if err == nil {
			writeJSON(w, answer)
			return
		}
		writeError(w, err)
	})
}

func (s *Server) answer(ctx context.Context, w http.ResponseWriter, r *http.Request, h handler) (any, error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return nil, bad("read parameters: %w", err)
	}
	may, err := s.cfg.Rights(r)
	if err != nil {
		return nil, failure{http.StatusInternalServerError, err}
	}
	select {
	case s.running <- struct{}{}:
		defer func() { <-s.running }()
	case <-ctx.Done():
		return nil, failure{http.StatusTooManyRequests, fmt.Errorf("%d queries are running and none has ended: try again later", maxRunning)}
	}
	answer, err := h(&asked{ctx, r.Form, r.PathValue, may, time.Now()})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, failure{http.StatusServiceUnavailable, fmt.Errorf("the query took more than %s: ask for a shorter time, or select fewer logs", queryTimeout)}
	}
	return answer, err
}

func writeError(w http.ResponseWriter, err error) {
	code := http.StatusBadRequest // most are about what is asked
	var f failure
	switch {
	case errors.As(err, &f):
		code = f.code
	case errors.Is(err, context.Canceled):
		code = 499 // nobody reads it
	}
	http.Error(w, err.Error(), code)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}

// success is how answers look.
type success struct {
	Status string `json:"status"`
	Data   any    `json:"data"`
}

// permitted refuses a question that names a namespace whose logs may not be seen.
func (a *asked) permitted(matchers []*labels.Matcher) error {
	for _, m := range matchers {
		if m.Name == "namespace" && m.Type == labels.MatchEqual && !a.may(m.Value) {
			return failure{http.StatusForbidden, fmt.Errorf("you may not see logs of namespace %q: it needs the right to get pods/log there", m.Value)}
		}
	}
	return nil
}
