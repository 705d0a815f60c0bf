package anomaly

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Path is where anomalies are asked for; Prefix what it is below.
const (
	Prefix = "/anomalies/"
	Path   = Prefix + "api/v1/anomalies"
)

// Answer is what the API sends.
type Answer struct {
	Anomalies []Anomaly `json:"anomalies"`
	// Watched is how many signals are watched, Known of how many it is known what is usual.
	Watched int `json:"watched"`
	Known   int `json:"known"`
}

// ServeHTTP answers GET Path: the anomalies of the last days, the newest first. Parameters: namespace, workload,
// start (RFC 3339; those that ended before are left out). Requests are authorized already.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != Path || r.Method != http.MethodGet {
		http.Error(w, "anomalies are at GET "+Path, http.StatusNotFound)
		return
	}
	q := r.URL.Query()
	var from time.Time
	if text := q.Get("start"); text != "" {
		var err error
		if from, err = time.Parse(time.RFC3339, text); err != nil {
			http.Error(w, "start must be a time as in RFC 3339, such as 2026-01-02T15:04:05Z", http.StatusBadRequest)
			return
		}
	}
	answer := Answer{Anomalies: []Anomaly{}}
	s.mu.Lock()
	for _, a := range slices.Backward(s.anomalies) {
		if (q.Get("namespace") == "" || q.Get("namespace") == a.Namespace) && (q.Get("workload") == "" || q.Get("workload") == a.Name) &&
			(a.End == nil || !a.End.Before(from)) {
			answer.Anomalies = append(answer.Anomalies, *a)
		}
	}
	answer.Watched = len(s.watched)
	for _, w := range s.watched {
		if w.known {
			answer.Known++
		}
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(answer) // the sender has left
}

// Metrics answers GET /metrics: each signal's value (gantry_signal), what was expected (gantry_signal_expected), the
// deviation (gantry_signal_deviation), and of an anomaly that goes on how many deviations it is off (gantry_anomaly).
func (s *Service) Metrics() http.Handler {
	return promhttp.HandlerFor(s.static, promhttp.HandlerOpts{})
}

var (
	labelNames    = []string{"namespace", "kind", "workload", "signal"}
	valueDesc     = prometheus.NewDesc("gantry_signal", "A signal of a workload or route, by the minute.", labelNames, nil)
	expectedDesc  = prometheus.NewDesc("gantry_signal_expected", "What was to be expected of a signal.", labelNames, nil)
	deviationDesc = prometheus.NewDesc("gantry_signal_deviation", "How far a signal is usually from what is expected.", labelNames, nil)
	anomalyDesc   = prometheus.NewDesc("gantry_anomaly", "Deviations that an anomalous signal is from what was expected.", labelNames, nil)
)

// collector tells the signals as they are. It implements prometheus.Collector.
type collector struct{ s *Service }

func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{valueDesc, expectedDesc, deviationDesc, anomalyDesc} {
		to <- d
	}
}

func (c collector) Collect(to chan<- prometheus.Metric) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for k, w := range c.s.watched {
		if time.Since(w.seen) > 2*step {
			continue
		}
		tell := func(d *prometheus.Desc, v float64) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, k.Namespace, k.Kind, k.Name, k.signal)
		}
		tell(valueDesc, w.value)
		if w.known {
			tell(expectedDesc, w.usual.expected)
			tell(deviationDesc, w.usual.deviation)
		}
		if w.open != nil {
			tell(anomalyDesc, w.score())
		}
	}
}
