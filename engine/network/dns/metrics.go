package dns

import (
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics have the names and labels of CoreDNS's, as far as they go.
type metrics struct {
	responses *prometheus.CounterVec
	took      *prometheus.HistogramVec
}

func newMetrics(register func(...prometheus.Collector)) *metrics {
	m := &metrics{
		responses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "coredns_dns_responses_total", Help: "Answers, by the zone that was asked about (. is what is outside the cluster) and response code.",
		}, []string{"zone", "rcode"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "coredns_dns_request_duration_seconds", Help: "Time until an answer, by zone.",
			Buckets: []float64{0.00025, 0.001, 0.004, 0.016, 0.064, 0.256, 1, 4},
		}, []string{"zone"}),
	}
	if register != nil {
		register(m.responses, m.took)
	}
	return m
}

// count counts an answer. A zone has its failures from the first answer on, so that rates see the first of them.
func (m *metrics) count(zone string, rcode int, took time.Duration) {
	name := dns.RcodeToString[rcode]
	if name == "" {
		name = "other"
	}
	m.responses.WithLabelValues(zone, name).Inc()
	m.responses.WithLabelValues(zone, dns.RcodeToString[dns.RcodeServerFailure])
	m.took.WithLabelValues(zone).Observe(took.Seconds())
}

// zoneOf is the zone that a query is about: the cluster's, or all others.
func (s *Server) zoneOf(req *dns.Msg) string {
	if len(req.Question) == 1 && s.authoritative(strings.ToLower(req.Question[0].Name)) {
		return s.zone
	}
	return "."
}
