package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	config "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/promql/parser"
	promrules "github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"golang.org/x/sync/errgroup"

	"github.com/gantryhq/gantry/services/monitor/api"
	"github.com/gantryhq/gantry/services/monitor/objects"
)

// Prefix is the path under which the Prometheus HTTP API is served.
const Prefix = "/prometheus/"

// Service is the monitor.
type Service struct {
	cfg     Config
	metrics *prometheus.Registry // the service's own
	watched *watched             // objects of the API
	objects *objects.Exposition
	vault   *vault
	pipes   *pipes
	answers atomic.Pointer[api.API] // nil until the samples can be read
	applied atomic.Pointer[promconfig.Config]
}

// New makes the service. Nothing is read or opened before Run.
func New(cfg Config) (*Service, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	w, err := newWatched(cfg.Client)
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, metrics: prometheus.NewRegistry(), watched: w, objects: objects.New(w.factory, w.custom),
		vault: &vault{client: w.client, read: map[string]container{}}}
	return s, nil
}

// ServeHTTP answers requests that are authorized, below Prefix. Until the samples can be read it asks
// for patience.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a := s.answers.Load(); a != nil {
		http.StripPrefix(Prefix[:len(Prefix)-1], a).ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Retry-After", "1")
	w.WriteHeader(http.StatusServiceUnavailable)
	_ = json.NewEncoder(w).Encode(map[string]string{"status": "error", "errorType": "unavailable", "error": "the samples are being read; ask again in a moment"})
}

// Run scrapes and answers until ctx ends, and returns nil then. It can be called once.
func (s *Service) Run(ctx context.Context) error {
	db, err := openStorage(&s.cfg, s.metrics)
	if err != nil {
		return err
	}
	out := &onward{db: db, dir: s.cfg.Dir, log: s.cfg.Log, metrics: s.metrics}
	db.SetWriteNotified(out)
	engine := newEngine(&s.cfg, s.metrics)
	platform, err := s.newManager(out, "platform", s.dialInside)
	if err != nil {
		return err
	}
	out.described = platform
	workloads, err := s.newManager(newDam(out, db.Head().NumSeries, s.metrics), "workloads", dialWorkload)
	if err != nil {
		return err
	}
	s.pipes = &pipes{connections: make(chan net.Conn), done: ctx.Done()}
	s.answers.Store(api.New(api.Config{
		Rules:  s.groups,
		Engine: engine, Parser: parser.NewParser(parserOptions), Storage: db, Targets: []api.Targets{platform, workloads},
		Stats:   func(limit int) *tsdb.Stats { return db.Head().Stats("__name__", limit) },
		Chunks:  s.chunks,
		Started: time.Now(), Scraping: func() string { return s.scraping(out) }, Version: s.cfg.Version, Retention: api.Retention(s.cfg.Retention, s.cfg.MaxBytes),
		Settings: map[string]string{
			"storage.tsdb.retention.time": s.cfg.Retention.String(), "storage.tsdb.retention.size": fmt.Sprintf("%dB", s.cfg.MaxBytes),
			"query.timeout": queryTimeout.String(), "query.max-samples": fmt.Sprint(maxSamples), "query.max-concurrency": fmt.Sprint(maxQueries),
			"query.lookback-delta": "5m", "web.external-url": Prefix,
		},
	}))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serveInside(ctx) })
	group.Go(func() error { return s.keepScraping(ctx, platform, workloads, out) })
	if s.cfg.Rules != nil {
		// An engine of their own, so that no flood of queries keeps them from being evaluated.
		engine := newEngine(&s.cfg, nil)
		group.Go(func() error { return s.cfg.Rules.Evaluate(ctx, db, engine) })
	}
	err = group.Wait()
	s.answers.Store(nil)
	return errors.Join(err, out.close(), db.Close())
}

// chunks is how many chunks of samples are in memory, which only a metric of the database tells.
func (s *Service) chunks() int64 {
	families, _ := s.metrics.Gather()
	for _, f := range families {
		if f.GetName() == "prometheus_tsdb_head_chunks" {
			return int64(f.GetMetric()[0].GetGauge().GetValue())
		}
	}
	return 0
}

func (s *Service) groups() []*promrules.Group {
	if s.cfg.Rules == nil {
		return nil
	}
	return s.cfg.Rules.Groups()
}

// newManager makes what scrapes targets that dial reaches.
func (s *Service) newManager(to storage.AppendableV2, name string, dial config.DialContextFunc) (*scrape.Manager, error) {
	m, err := scrape.NewManager(&scrape.Options{
		DiscoveryReloadInterval: model.Duration(reloadInterval), DiscoveryReloadOnStartup: true, PassMetadataInContext: true,
		HTTPClientOptions: []config.HTTPClientOption{config.WithDialContextFunc(dial), config.WithUserAgent("gantry-monitor"), config.WithSecretManager(s.vault)},
	}, s.cfg.Log.With("scrapes", name), nil, nil, to, prometheus.WrapRegistererWith(prometheus.Labels{"scrapes": name}, s.metrics))
	if err != nil {
		return nil, fmt.Errorf("start scraping %s: %w", name, err)
	}
	return m, nil
}

// reloadInterval is how soon a change of targets has an effect.
const reloadInterval = time.Second

type targetSets = map[string][]*targetgroup.Group
