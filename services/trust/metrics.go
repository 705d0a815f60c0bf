package trust

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the README lists.
type metrics struct{ checks *prometheus.CounterVec }

func newMetrics(register func(...prometheus.Collector)) *metrics {
	m := &metrics{checks: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gantry_trust_checks_total", Help: "Images that were held against a TrustPolicy.",
	}, []string{"policy", "where", "result"})}
	if register != nil {
		register(m.checks)
	}
	return m
}

// count takes up the result of a check.
func (m *metrics) count(p *policy, where string, err error) {
	result := "accepted"
	var refused *RefusedError
	switch {
	case errors.As(err, &refused) && refused.Undecided:
		result = "undecided"
	case err != nil:
		result = "refused"
	}
	m.checks.WithLabelValues(p.name(), where, result).Inc()
}
