package logs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/services/logs/archive"
	"github.com/gantryhq/gantry/services/logs/loki"
	"github.com/gantryhq/gantry/services/logs/search"
)

// Prefix is the path under which Loki's HTTP API is served.
const Prefix = "/loki/"

// TimelinePrefix is the path under which the time line is served.
const TimelinePrefix = "/timeline/"

// Service is the log service.
type Service struct {
	cfg     Config
	archive *archive.Archive
	collect *collector
	metrics *metrics
	access  *access
	hub     search.Hub
	api     http.Handler
	factory informers.SharedInformerFactory
	pods    cache.SharedIndexInformer
	changed atomic.Bool // pods have, since labels were looked up
}

// New opens the archive. Nothing is read before Run.
func New(cfg Config) (*Service, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	client, err := newClient(cfg.Client)
	if err != nil {
		return nil, err
	}
	a, err := archive.Open(archive.Config{Dir: filepath.Join(cfg.Dir, "archive"), Retention: cfg.Retention, MaxBytes: cfg.MaxBytes, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, archive: a, metrics: newMetrics(), access: &access{client: client, known: map[string]decision{}}}
	s.metrics.size(a.Size)
	s.factory = informers.NewSharedInformerFactory(client, 0)
	s.pods = s.factory.Core().V1().Pods().Informer()
	changed := func(any) { s.changed.Store(true) }
	_, handlerErr := s.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, o any) { changed(o) }})
	err = errors.Join(s.pods.SetTransform(slim), s.pods.AddIndexers(cache.Indexers{uidIndex: byUID}), handlerErr)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("follow pods: %w", err), a.Close())
	}
	s.collect = newCollector(cfg.PodLogs, a, s.metrics, &s.hub, podLookup(s.pods.GetIndexer()), cfg.Log)
	s.api = loki.New(loki.Config{Source: s, Hub: &s.hub, Rights: s.rights, Queries: s.metrics.queries})
	return s, nil
}

func newClient(cfg *rest.Config) (kubernetes.Interface, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent = "gantry-logs"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("start logs: %w", err)
	}
	return client, nil
}

// ServeHTTP answers requests of authenticated senders, below Prefix and TimelinePrefix.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.api.ServeHTTP(w, r)
}

// Metrics answers GET /metrics.
func (s *Service) Metrics() http.Handler {
	return promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{})
}

// Drain returns when what is in the log files below a path of Config.PodLogs is in the archive. Whoever
// removes log files calls it before.
func (s *Service) Drain(path string) { s.collect.drain(path) }

// trimInterval is how often it is looked whether lines are too old or too many, and how long what is in the
// archive may be lost by a power cut.
const trimInterval = 10 * time.Second

// Run reads logs until ctx ends, and returns nil then. It can be called once.
func (s *Service) Run(ctx context.Context) error {
	s.factory.Start(ctx.Done())
	defer s.factory.Shutdown()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		cache.WaitForCacheSync(ctx.Done(), s.pods.HasSynced)
		s.collect.run(ctx)
		return nil
	})
	group.Go(func() error { return s.keepTidy(ctx) })
	err := group.Wait()
	return errors.Join(err, s.archive.Close())
}

// keepTidy saves and trims the archive until ctx ends.
func (s *Service) keepTidy(ctx context.Context) error {
	for {
		if s.changed.Swap(false) {
			s.collect.relabel()
		}
		err := s.archive.Sync()
		if err == nil {
			_, err = s.archive.Trim(time.Now())
		}
		if err != nil && s.metrics.failed() {
			s.cfg.Log.Warn("cannot tidy up the log archive; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(trimInterval):
		}
	}
}

// Units implements search.Source: the chunks of the archive, and what is in no chunk yet.
func (s *Service) Units(from, to int64, fits func(labels.Labels) bool) ([]search.Unit, error) {
	var tails []*tail
	var err error
	chunks := s.archive.Select(from, to, fits, func() { tails, err = s.collect.tails(fits) })
	units := make([]search.Unit, 0, len(chunks)+len(tails))
	for i := range chunks {
		c := &chunks[i]
		units = append(units, search.Unit{
			Labels: c.Labels, Min: c.Min, Max: c.Max, Order: c.Order, Bytes: c.Bytes, Lines: c.Lines, Stderr: c.Stderr, Scan: c.Scan,
		})
	}
	now := time.Now()
	for _, t := range tails {
		u, tailErr := t.unit(now)
		if err = errors.Join(err, tailErr); tailErr != nil || u.Min > to || u.Max < from {
			t.file.Close()
			continue
		}
		units = append(units, u)
	}
	return units, err
}

// namespaces are those of which there are logs.
func (s *Service) namespaces() []string {
	found := map[string]bool{}
	s.archive.Select(0, -1, func(l labels.Labels) bool { found[l.Get(labelNamespace)] = true; return false }, func() {
		s.collect.mu.RLock()
		defer s.collect.mu.RUnlock()
		for key := range s.collect.sources {
			ns, _, _ := strings.Cut(key, "_")
			found[ns] = true
		}
	})
	return slices.Collect(maps.Keys(found))
}

// rights tells whose namespaces' logs the sender of a request may see.
func (s *Service) rights(r *http.Request) (func(string) bool, error) {
	u, ok := s.cfg.User(r)
	if !ok {
		return nil, errors.New("the request has no user")
	}
	return s.access.among(r.Context(), u, s.namespaces())
}
