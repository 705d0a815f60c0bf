package service

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var (
	requests = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "http_requests_total", Help: "Requests by route, method and status.",
	}, []string{"route", "method", "code"})
	durations = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "http_request_duration_seconds", Help: "Time to answer by route.", Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 10),
	}, []string{"route"})
)

// observe counts and logs every request, and while the service leaves asks
// clients to connect elsewhere next time.
func (s *Service) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		start := time.Now()
		recorder := &recorder{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(recorder, r)
		took := time.Since(start)
		route := r.Pattern
		if route == "" {
			route = "none"
		}
		requests.WithLabelValues(route, r.Method, strconv.Itoa(recorder.code)).Inc()
		durations.WithLabelValues(route).Observe(took.Seconds())
		s.Log.Info("request", "method", r.Method, "path", r.URL.Path, "code", recorder.code,
			"ms", float64(took.Microseconds())/1000, "request_id", r.Header.Get("X-Request-Id"))
	})
}

type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
