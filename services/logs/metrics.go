package logs

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantryhq/gantry/services/logs/crilog"
)

// metrics counts what is written, kept and asked.
type metrics struct {
	registry              *prometheus.Registry
	lines, bytes, dropped *prometheus.CounterVec
	archived, errors      prometheus.Counter
	queries               *prometheus.HistogramVec
	complained            atomic.Int64 // when an error was logged last, in nanoseconds since 1970
}

// counters are those of one container.
type counters struct{ lines, bytes, dropped prometheus.Counter }

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	perContainer := []string{"namespace", "pod", "container"}
	m.lines = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gantry_log_lines_total", Help: "Lines that containers have written."}, perContainer)
	m.bytes = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gantry_log_bytes_total", Help: "Bytes of text that containers have written."}, perContainer)
	m.dropped = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gantry_log_dropped_bytes_total", Help: "Bytes of logs that were not kept because there were too many."}, perContainer)
	m.archived = prometheus.NewCounter(prometheus.CounterOpts{Name: "gantry_log_archived_bytes_total", Help: "Bytes of log files that were put into the archive."})
	m.errors = prometheus.NewCounter(prometheus.CounterOpts{Name: "gantry_log_errors_total", Help: "Attempts to read or to archive a log that were in vain."})
	m.queries = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gantry_log_query_seconds", Help: "Time that questions took.",
		Buckets: []float64{.005, .025, .1, .5, 2.5, 10}}, []string{"kind"})
	m.registry.MustRegister(m.lines, m.bytes, m.dropped, m.archived, m.errors, m.queries)
	return m
}

// size adds a gauge of what the archive takes.
func (m *metrics) size(of func() int64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gantry_log_archive_bytes", Help: "Disk that archived lines take."},
		func() float64 { return float64(of()) }))
}

func (m *metrics) of(p crilog.Pod, container string) *counters {
	if p.UID == timelinePod { // what is counted here is what containers write
		return &counters{prometheus.NewCounter(prometheus.CounterOpts{}), prometheus.NewCounter(prometheus.CounterOpts{}), prometheus.NewCounter(prometheus.CounterOpts{})}
	}
	l := []string{p.Namespace, p.Name, container}
	return &counters{m.lines.WithLabelValues(l...), m.bytes.WithLabelValues(l...), m.dropped.WithLabelValues(l...)}
}

func (m *metrics) forget(p crilog.Pod, container string) {
	for _, v := range []*prometheus.CounterVec{m.lines, m.bytes, m.dropped} {
		v.DeleteLabelValues(p.Namespace, p.Name, container)
	}
}

// failed counts an error and tells whether it is time to log one.
func (m *metrics) failed() bool {
	m.errors.Inc()
	now, last := time.Now().UnixNano(), m.complained.Load()
	return now-last > int64(time.Minute) && m.complained.CompareAndSwap(last, now)
}
