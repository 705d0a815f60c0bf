package registry

import (
	"io"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the README lists.
type metrics struct {
	requests                               *prometheus.CounterVec
	received, sent                         prometheus.Counter
	collected, collectedBlobs, collections prometheus.Counter
	lastCollection                         prometheus.Gauge
}

func newMetrics(register func(...prometheus.Collector)) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "gantry_registry_" + name, Help: help})
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gantry_registry_requests_total", Help: "Requests, by what they asked for.",
		}, []string{"endpoint", "method", "status"}),
		received:       counter("received_bytes_total", "Bytes of blobs that clients and upstreams sent."),
		sent:           counter("sent_bytes_total", "Bytes of answers."),
		collected:      counter("collected_bytes_total", "Bytes of blobs that collections removed."),
		collectedBlobs: counter("collected_blobs_total", "Blobs that collections removed."),
		collections:    counter("collections_total", "Collections that came to their end."),
		lastCollection: prometheus.NewGauge(prometheus.GaugeOpts{Name: "gantry_registry_last_collection_timestamp_seconds", Help: "When the last collection came to its end; 0 is never since the start."}),
	}
	if register != nil {
		register(m.requests, m.received, m.sent, m.collected, m.collectedBlobs, m.collections, m.lastCollection)
	}
	return m
}

// names of endpoints in metrics.
var names = map[kind]string{
	nothing: "none", version: "version", token: "token", catalog: "catalog", tags: "tags", referrer: "referrers",
	manifest: "manifests", blob: "blobs", uploads: "uploads", upload: "uploads",
}

// recorder counts an answer. It hands files on to the connection, which sends them without
// a copy.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(r.ResponseWriter, src)
	r.bytes += n
	return n, err
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// count counts an answered request. Methods that the API does not have share a name.
func (m *metrics) count(at kind, method string, r *recorder) {
	if endpoints[at][method] == nil {
		method = "other"
	}
	m.requests.WithLabelValues(names[at], method, strconv.Itoa(max(r.status, http.StatusOK))).Inc()
	m.sent.Add(float64(r.bytes))
}
