package alerts

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/rules"
	"golang.org/x/sync/errgroup"

	"github.com/gantryhq/gantry/services/alerts/alertmanager"
)

// Prefix is the path under which Alertmanager's API is served.
const Prefix = "/alertmanager/"

// Service is alerting.
type Service struct {
	cfg        Config
	metrics    *prometheus.Registry // the service's own
	ofGroups   *rules.Metrics
	failures   prometheus.Counter // of handing alerts over
	refused    prometheus.Gauge
	rules      *ruleFiles
	heartbeat  heartbeat
	watched    atomic.Pointer[watched]
	ofManager  atomic.Pointer[prometheus.Registry]
	manager    atomic.Pointer[alertmanager.Manager] // nil until it is open
	evaluating atomic.Pointer[rules.Manager]        // nil while the samples cannot be read
}

// New makes the service. Nothing is read or opened before Run.
func New(cfg Config) (*Service, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	files, err := newRuleFiles()
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, metrics: prometheus.NewRegistry(), rules: files}
	s.ofGroups = rules.NewGroupMetrics(s.metrics)
	s.failures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "gantry_alerts_lost_total", Help: "Alerts that fired and could not be handed over.",
	})
	s.refused = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "gantry_alerts_refused_objects", Help: "PrometheusRules and configurations that have a fault and are not in force.",
	})
	s.metrics.MustRegister(s.failures, s.refused, s.heartbeat.metric())
	return s, nil
}

// Metrics answers GET /metrics with the service's own.
func (s *Service) Metrics() http.Handler {
	return promhttp.HandlerFor(prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		all := prometheus.Gatherers{s.metrics}
		if r := s.ofManager.Load(); r != nil {
			all = append(all, r)
		}
		return all.Gather()
	}), promhttp.HandlerOpts{})
}

// Run handles alerts until ctx ends, and returns nil then. It can be called again after it has failed.
func (s *Service) Run(ctx context.Context) error {
	w, err := newWatched(s.cfg.Client)
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	m, err := alertmanager.New(alertmanager.Options{
		Dir: s.cfg.Dir, ExternalURL: s.cfg.ExternalURL, Metrics: metrics, Log: s.cfg.Log,
	})
	if err != nil {
		return err
	}
	defer m.Close()
	defer s.manager.Store(nil)
	s.watched.Store(w)
	s.ofManager.Store(metrics)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.follow(ctx, w, m) })
	group.Go(func() error { return s.heartbeat.watch(ctx, m, s.cfg.Log) })
	return group.Wait()
}

// ServeHTTP answers requests that are authorized, below Prefix.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m := s.manager.Load()
	switch {
	case m == nil:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "alerting is starting; ask again in a moment", http.StatusServiceUnavailable)
	case r.Method == http.MethodGet && (r.URL.Path == Prefix+"-/healthy" || r.URL.Path == Prefix+"-/ready"):
		fmt.Fprintln(w, "OK")
	case r.Method == http.MethodPost && r.URL.Path == TestPath:
		s.test(w, r, m)
	case r.Method == http.MethodGet && r.URL.Path == healthPath:
		s.health(w)
	case strings.HasPrefix(r.URL.Path, Prefix+"api/v2/"):
		http.StripPrefix(strings.TrimSuffix(Prefix, "/"), m).ServeHTTP(w, r)
	default:
		http.Error(w, fmt.Sprintf("there is no %s: Alertmanager's API is below %sapi/v2/", r.URL.Path, Prefix), http.StatusNotFound)
	}
}

// Groups are the rules that are evaluated, with what they found.
func (s *Service) Groups() []*rules.Group {
	if m := s.evaluating.Load(); m != nil {
		return m.RuleGroups()
	}
	return nil
}

// now is when something happens; alerts carry it in UTC.
func now() time.Time { return time.Now().UTC() }
