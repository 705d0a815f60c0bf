// Package api answers the Prometheus HTTP API, version 1, as Grafana, promtool and
// the clients of Prometheus speak it (https://prometheus.io/docs/prometheus/latest/querying/api/).
//
// Results, parameters, error types and status codes are those of Prometheus 3; paths are
// relative to the prefix that the caller has stripped. Nothing can be written or deleted
// through it. Requests must have been authorized before: an answer holds what anybody's
// targets have told.
//
// Limits: a query ends with a reason when it takes too long, loads too many samples or
// asks for more than 11,000 points of a series.
//
// Imported by services/monitor.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	jsoniter "github.com/json-iterator/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/annotations"
)

// Targets are the things that are scraped, by pool.
type Targets interface {
	TargetsActive() map[string][]*scrape.Target
	TargetsDropped() map[string][]*scrape.Target
	TargetsDroppedCounts() map[string]int
	ScrapePools() []string
}

// Config is what the API answers from.
type Config struct {
	Engine  promql.QueryEngine
	Parser  parser.Parser
	Storage storage.Queryable
	Targets []Targets
	Rules   func() []*rules.Group       // or nil for none
	Stats   func(limit int) *tsdb.Stats // of the samples in memory; or nil
	Chunks  func() int64                // in memory; or nil with Stats
	Started time.Time
	// Settings are shown by status/flags, Scraping by status/config, as YAML.
	Settings  map[string]string
	Scraping  func() string
	Retention string
	Version   string // of the program
}

// API answers requests. Its methods are safe for concurrent use.
type API struct {
	cfg Config
	mux http.ServeMux
}

// New makes the API of cfg.
func New(cfg Config) *API {
	a := &API{cfg: cfg}
	for path, f := range map[string]func(*http.Request) (any, annotations.Annotations, error){
		"query": a.query, "query_range": a.queryRange, "query_exemplars": a.exemplars, "format_query": a.formatQuery,
		"labels": a.labelNames, "series": a.series,
	} {
		a.mux.Handle("GET /api/v1/"+path, answer(f))
		a.mux.Handle("POST /api/v1/"+path, answer(f))
	}
	for path, f := range map[string]func(*http.Request) (any, annotations.Annotations, error){
		"label/{name}/values": a.labelValues, "targets": a.targets, "targets/metadata": a.targetMetadata,
		"scrape_pools": a.scrapePools, "metadata": a.metadata, "rules": a.rules, "alerts": a.alerts, "alertmanagers": noAlertmanagers,
		"status/config": a.statusConfig, "status/flags": a.statusFlags, "status/buildinfo": a.statusBuild,
		"status/runtimeinfo": a.statusRuntime, "status/tsdb": a.statusTSDB,
	} {
		a.mux.Handle("GET /api/v1/"+path, answer(f))
	}
	a.mux.HandleFunc("GET /federate", a.federate)
	for _, path := range []string{"/-/healthy", "/-/ready"} {
		a.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "Prometheus Server is Ready.") })
	}
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		respondError(w, &refusal{"not_found", http.StatusNotFound, fmt.Errorf("there is no %s %s in this API", r.Method, r.URL.Path)})
	})
	return a
}

// ServeHTTP answers requests that are authorized.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// maxForm bounds what a request may send.
const maxForm = 1 << 20

// answer makes a handler of what finds the data.
func answer(find func(*http.Request) (any, annotations.Annotations, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			respondError(w, bad("form", err))
			return
		}
		data, warnings, err := find(r)
		if err != nil {
			respondError(w, err)
			return
		}
		respond(w, data, warnings, r.Form.Get("query"))
	})
}

func respond(w http.ResponseWriter, data any, warnings annotations.Annotations, query string) {
	w.Header().Set("Content-Type", "application/json")
	out := jsoniter.NewStream(jsoniter.ConfigCompatibleWithStandardLibrary, w, 4096)
	out.WriteRaw(`{"status":"success","data":`)
	if q, ok := data.(*result); ok {
		q.encode(out)
	} else {
		out.WriteVal(data)
	}
	warns, infos := warnings.AsStrings(query, 10, 10)
	for name, list := range map[string][]string{"warnings": warns, "infos": infos} {
		if len(list) > 0 {
			out.WriteMore()
			out.WriteObjectField(name)
			out.WriteVal(list)
		}
	}
	out.WriteObjectEnd()
	_ = out.Flush() // the client is gone when this fails
}

// refusal is an answer other than success, of a type that the API knows.
type refusal struct {
	kind string
	code int
	err  error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// bad says that a parameter is wrong.
func bad(parameter string, err error) error {
	return &refusal{"bad_data", http.StatusBadRequest, fmt.Errorf("invalid parameter %q: %w", parameter, err)}
}

func respondError(w http.ResponseWriter, err error) {
	var r *refusal
	if !errors.As(err, &r) {
		r = ofQuery(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.code)
	_ = json.NewEncoder(w).Encode(map[string]string{"status": "error", "errorType": r.kind, "error": r.err.Error()})
}

// ofQuery tells what kind of error ended a query.
func ofQuery(err error) *refusal {
	var canceled promql.ErrQueryCanceled
	var timeout promql.ErrQueryTimeout
	var failed promql.ErrStorage
	switch {
	case errors.As(err, &canceled), errors.Is(err, context.Canceled):
		return &refusal{"canceled", 499, err} // as nginx says that the client has gone
	case errors.As(err, &timeout):
		return &refusal{"timeout", http.StatusServiceUnavailable, err}
	case errors.As(err, &failed):
		return &refusal{"internal", http.StatusInternalServerError, err}
	}
	return &refusal{"execution", http.StatusUnprocessableEntity, err}
}

// The ends of time, as Prometheus writes them.
var (
	minTime = time.Unix(math.MinInt64/1000+62135596801, 0).UTC()
	maxTime = time.Unix(math.MaxInt64/1000-62135596801, 999999999).UTC()
)

func timeOf(r *http.Request, name string, otherwise time.Time) (time.Time, error) {
	s := r.Form.Get(name)
	if s == "" && !otherwise.IsZero() {
		return otherwise, nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
		whole, part := math.Modf(f)
		return time.Unix(int64(whole), int64(math.Round(part*1000)*float64(time.Millisecond))).UTC(), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	for _, end := range []time.Time{minTime, maxTime} {
		if s == end.Format(time.RFC3339Nano) {
			return end, nil // of years that time.Parse does not read
		}
	}
	return time.Time{}, bad(name, fmt.Errorf("cannot parse %q to a valid timestamp", s))
}

// span is the time that a request is about.
func span(r *http.Request) (start, end time.Time, err error) {
	if start, err = timeOf(r, "start", minTime); err == nil {
		end, err = timeOf(r, "end", maxTime)
	}
	return start, end, err
}

func duration(name, s string) (time.Duration, error) {
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		if f *= float64(time.Second); math.IsNaN(f) || f > math.MaxInt64 || f < math.MinInt64 {
			return 0, bad(name, fmt.Errorf("cannot parse %q to a valid duration. It overflows int64", s))
		}
		return time.Duration(f), nil
	}
	d, err := model.ParseDuration(s)
	if err != nil {
		return 0, bad(name, fmt.Errorf("cannot parse %q to a valid duration", s))
	}
	return time.Duration(d), nil
}

// number reads a limit; otherwise is its value when there is none.
func number(r *http.Request, name string, otherwise int) (int, error) {
	s := r.Form.Get(name)
	if s == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(s)
	if err == nil && n < 0 {
		err = errors.New("limit must be non-negative")
	}
	if err != nil {
		return 0, bad(name, err)
	}
	return n, nil
}

// selectors reads match[]. Each must choose something.
func (a *API) selectors(r *http.Request) ([][]*labels.Matcher, error) {
	sets, err := a.cfg.Parser.ParseMetricSelectors(r.Form["match[]"])
	if err != nil {
		return nil, bad("match[]", err)
	}
	for _, set := range sets {
		chooses := false
		for _, m := range set {
			chooses = chooses || !m.Matches("")
		}
		if !chooses {
			return nil, bad("match[]", errors.New("match[] must contain at least one non-empty matcher"))
		}
	}
	return sets, nil
}
