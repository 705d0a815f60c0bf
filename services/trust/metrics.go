package trust

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the README lists.
type metrics struct {
	checks *prometheus.CounterVec

	mu      sync.Mutex
	refused map[refusedImage]time.Time // the newest maxRefusals
}

// refusedImage is who was refused which image.
type refusedImage struct{ policy, namespace, image string }

// maxRefusals bounds the series: who may create pods chooses the names of images.
const maxRefusals = 100

var refusedDesc = prometheus.NewDesc("gantry_trust_last_refusal_timestamp_seconds",
	"When an image was last refused in a namespace, of the newest 100.", []string{"policy", "namespace", "image"}, nil)

func newMetrics(register func(...prometheus.Collector)) *metrics {
	m := &metrics{
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gantry_trust_checks_total", Help: "Images that were held against a TrustPolicy.",
		}, []string{"policy", "where", "result"}),
		refused: map[refusedImage]time.Time{},
	}
	if register != nil {
		register(m)
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	m.checks.Describe(to)
	to <- refusedDesc
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	m.checks.Collect(to)
	m.mu.Lock()
	defer m.mu.Unlock()
	for r, at := range m.refused {
		to <- prometheus.MustNewConstMetric(refusedDesc, prometheus.GaugeValue, float64(at.UnixMilli())/1e3, r.policy, r.namespace, r.image)
	}
}

// count takes up the result of a check of an image that a pod of a namespace names.
func (m *metrics) count(p *policy, where, namespace, image string, err error) {
	result := "accepted"
	var refused *RefusedError
	switch {
	case errors.As(err, &refused) && refused.Undecided:
		result = "undecided"
	case err != nil:
		result = "refused"
	}
	m.checks.WithLabelValues(p.name(), where, result).Inc()
	if err != nil && p.enforced() {
		m.note(refusedImage{p.name(), namespace, image})
	}
}

func (m *metrics) note(r refusedImage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused[r] = time.Now()
	for len(m.refused) > maxRefusals {
		oldest := r
		for other, at := range m.refused {
			if at.Before(m.refused[oldest]) {
				oldest = other
			}
		}
		delete(m.refused, oldest)
	}
}
