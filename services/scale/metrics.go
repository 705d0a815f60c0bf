package scale

import "github.com/prometheus/client_golang/prometheus"

// metrics are described in the README.
type metrics struct {
	desired, current *prometheus.GaugeVec
	changes          *prometheus.CounterVec
	errors           *prometheus.CounterVec
}

func newMetrics(register func(...prometheus.Collector)) *metrics {
	policy := []string{"namespace", "policy"}
	m := &metrics{
		desired: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "gantry_scale_desired_replicas", Help: "Replicas that a ScalePolicy's target is meant to have.",
		}, policy),
		current: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "gantry_scale_current_replicas", Help: "Replicas that a ScalePolicy's target says it has.",
		}, policy),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gantry_scale_changes_total", Help: "Changes of the number of replicas, by direction: up or down.",
		}, append(policy, "direction")),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gantry_scale_errors_total", Help: "Attempts to read or scale a target, or to ask for its signals, that did not succeed.",
		}, policy),
	}
	if register != nil {
		register(m.desired, m.current, m.changes, m.errors)
	}
	return m
}

func (m *metrics) forget(namespace, policy string) {
	of := prometheus.Labels{"namespace": namespace, "policy": policy}
	m.desired.DeletePartialMatch(of)
	m.current.DeletePartialMatch(of)
	m.changes.DeletePartialMatch(of)
	m.errors.DeletePartialMatch(of)
}
