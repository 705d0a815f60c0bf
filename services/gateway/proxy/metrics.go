package proxy

import (
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// metrics are described in the README of services/gateway.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	retries  prometheus.Counter

	rules sync.Map // *route.Rule to *ruleInfo, of the table in force

	mu     sync.Mutex // guards routes
	routes map[string]bool
}

// ruleInfo is what is found out about a rule once, so that requests need not.
type ruleInfo struct {
	ordinary bool // the event loop can carry its requests
	filtered bool // it changes them

	label    string
	requests *prometheus.CounterVec
	duration prometheus.Observer
	mu       sync.Mutex // serialises additions to codes
	codes    atomic.Pointer[map[int]prometheus.Counter]
}

// of returns what is known of a rule; nil stands for none.
func (m *metrics) of(r *route.Rule) *ruleInfo {
	if known, ok := m.rules.Load(r); ok {
		return known.(*ruleInfo)
	}
	info := &ruleInfo{requests: m.requests}
	if r != nil {
		info.label, info.ordinary = r.Route, isOrdinary(r)
		info.filtered = r.Filters.Any()
		for i := range r.Backends {
			info.filtered = info.filtered || r.Backends[i].Filters.Any()
		}
	}
	info.duration = m.duration.WithLabelValues(info.label)
	info.codes.Store(&map[int]prometheus.Counter{})
	known, _ := m.rules.LoadOrStore(r, info)
	return known.(*ruleInfo)
}

// observe counts a request that was answered.
func (i *ruleInfo) observe(status int, took time.Duration) {
	counter := (*i.codes.Load())[status]
	if counter == nil {
		counter = i.add(status)
	}
	counter.Inc()
	i.duration.Observe(took.Seconds())
}

func (i *ruleInfo) add(status int) prometheus.Counter {
	i.mu.Lock()
	defer i.mu.Unlock()
	codes := maps.Clone(*i.codes.Load())
	codes[status] = i.requests.WithLabelValues(i.label, strconv.Itoa(status))
	i.codes.Store(&codes)
	return codes[status]
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gantry_gateway_requests_total",
			Help: "Requests answered, by route and status code. The route is empty where none matched; code 499 is a client that left.",
		}, []string{"route", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "gantry_gateway_request_duration_seconds",
			Help:    "Time from a request's header to the end of its response, by route.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "gantry_gateway_requests_in_flight",
			Help: "Requests being answered, upgraded connections included.",
		}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gantry_gateway_retries_total",
			Help: "Attempts at a further endpoint because the one before could not be reached.",
		}),
		routes: map[string]bool{},
	}
	if registry != nil {
		registry.MustRegister(m.requests, m.duration, m.inFlight, m.retries)
	}
	return m
}

// route is the label of the exchange in metrics and logs.
func (x *exchange) route() string {
	if x.rule == nil {
		return ""
	}
	return x.rule.Route
}

// forget drops the series of routes that the new table no longer has, so that
// they do not pile up for as long as the process lives.
func (m *metrics) forget(t *route.Table) {
	current := t.Routes()
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.routes {
		if !current[name] {
			m.requests.DeletePartialMatch(prometheus.Labels{"route": name})
			m.duration.DeletePartialMatch(prometheus.Labels{"route": name})
		}
	}
	m.routes = current
	m.rules.Clear()
}
