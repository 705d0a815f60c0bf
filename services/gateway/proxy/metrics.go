package proxy

import (
	"strconv"
	"sync"
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

	mu     sync.Mutex // guards routes
	routes map[string]bool
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

func (m *metrics) observe(x *exchange, status int, took time.Duration) {
	m.requests.WithLabelValues(x.route(), strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(x.route()).Observe(took.Seconds())
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
}
