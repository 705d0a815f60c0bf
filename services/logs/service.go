package logs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/internal/apiclient"
	"github.com/gantryhq/gantry/internal/samples"
	"github.com/gantryhq/gantry/services/logs/archive"
	"github.com/gantryhq/gantry/services/logs/crilog"
	"github.com/gantryhq/gantry/services/logs/loki"
	"github.com/gantryhq/gantry/services/logs/search"
	"github.com/gantryhq/gantry/services/logs/timeline"
)

// Prefix is the path under which Loki's HTTP API is served.
const Prefix = "/loki/"

// TimelinePrefix is the path under which the time line is served.
const TimelinePrefix = "/timeline/"

// Service is the log service.
type Service struct {
	cfg     Config
	archive *archive.Archive
	// collectors read the node's files, and those of the spool.
	collectors []*collector
	spool      *spool
	follower   *follower // or nil, when there are the node's files
	recorder   *timeline.Recorder
	metrics    *metrics
	access     *access
	hub        search.Hub
	api        http.Handler
	factory    informers.SharedInformerFactory
	pods       cache.SharedIndexInformer
	changed    atomic.Bool // pods have, since labels were looked up
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
	s := &Service{cfg: cfg, archive: a, metrics: newMetrics(), access: newAccess(client)}
	s.metrics.size(a.Size)
	s.factory = informers.NewSharedInformerFactory(client, 0)
	s.pods = s.factory.Core().V1().Pods().Informer()
	changed := func(any) { s.changed.Store(true) }
	_, handlerErr := s.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, o any) { changed(o) }})
	err = errors.Join(s.pods.SetTransform(slim), s.pods.AddIndexers(cache.Indexers{uidIndex: byUID}), handlerErr)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("follow pods: %w", err), a.Close())
	}
	s.spool = newSpool(filepath.Join(cfg.Dir, "spool"))
	spooled := newCollector(s.spool.dir, true, a, s.metrics, &s.hub, s.labelsOf, cfg.Log)
	s.collectors = []*collector{spooled}
	if cfg.PodLogs == "" {
		s.follower = &follower{client: client, spool: s.spool, pods: s.allPods, drain: spooled.drain, log: cfg.Log, runs: map[runOf]*followed{}}
	} else {
		s.collectors = append(s.collectors, newCollector(cfg.PodLogs, false, a, s.metrics, &s.hub, s.labelsOf, cfg.Log))
	}
	if err := s.prepareTimeline(); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return s, nil
}

// prepareTimeline makes the recorder of changes and the handlers of both APIs.
func (s *Service) prepareTimeline() error {
	builds, err := apiclient.New(s.cfg.Client)
	if err != nil {
		return err
	}
	s.recorder, err = timeline.NewRecorder(timeline.Config{
		Factory: s.factory, Builds: builds, Workload: workload, Source: s, Log: s.cfg.Log,
		Write: func(namespace string, at time.Time, line []byte) error {
			return s.spool.write(crilog.Pod{Namespace: namespace, Name: timelinePod, UID: timelinePod}, "events", 0, at, false, line)
		},
	})
	if err != nil {
		return err
	}
	reader, err := samples.New(s.cfg.Client)
	if err != nil {
		return err
	}
	alerts := &timeline.Alerts{Samples: reader, Workload: func(namespace, pod string) string {
		o, ok, _ := s.pods.GetStore().GetByKey(namespace + "/" + pod)
		if found, isPod := o.(*corev1.Pod); ok && isPod {
			return workload(found)
		}
		return ""
	}}
	mux := http.NewServeMux()
	mux.Handle(Prefix, loki.New(loki.Config{Source: s, Hub: &s.hub, Rights: s.rights, Queries: s.metrics.queries}))
	mux.Handle(TimelinePrefix, &timeline.Server{Source: s, Alerts: alerts, Rights: s.rights})
	s.api = mux
	return nil
}

// timelinePod names the logs of changes, which have a namespace and no pod. No pod's UID is this.
const timelinePod = "timeline"

// labelsOf are the labels of a container's log, and whether its pod is known.
func (s *Service) labelsOf(p crilog.Pod, container string) (labels.Labels, bool) {
	if p.UID == timelinePod {
		return labels.FromStrings(labelNamespace, p.Namespace, timeline.SourceLabel, timeline.SourceValue), true
	}
	pod := podByUID(s.pods.GetIndexer(), p.UID)
	return labelsOf(p, container, pod), pod != nil
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
func (s *Service) Drain(path string) {
	for _, c := range s.collectors {
		c.drain(path)
	}
}

// trimInterval is how often it is looked whether lines are too old or too many, and how long what is in the
// archive may be lost by a power cut.
const trimInterval = 10 * time.Second

// Run reads logs until ctx ends, and returns nil then. It can be called once.
func (s *Service) Run(ctx context.Context) error {
	s.factory.Start(ctx.Done())
	defer s.factory.Shutdown()
	group, ctx := errgroup.WithContext(ctx)
	cache.WaitForCacheSync(ctx.Done(), s.pods.HasSynced)
	for _, c := range s.collectors {
		group.Go(func() error {
			c.run(ctx)
			return nil
		})
	}
	group.Go(func() error {
		s.recorder.Run(ctx)
		return nil
	})
	if s.follower != nil {
		group.Go(func() error {
			s.follower.run(ctx)
			return nil
		})
	}
	group.Go(func() error { return s.keepTidy(ctx) })
	err := group.Wait()
	return errors.Join(err, s.archive.Close())
}

func (s *Service) allPods() (pods []*corev1.Pod) {
	for _, o := range s.pods.GetStore().List() {
		pods = append(pods, o.(*corev1.Pod))
	}
	return pods
}

// keepTidy saves and trims the archive until ctx ends.
func (s *Service) keepTidy(ctx context.Context) error {
	for first := true; ; first = false {
		if !first { // all collectors have looked at all files
			s.archive.Forget(func(source string) bool {
				return !slices.ContainsFunc(s.collectors, func(c *collector) bool { return c.has(source) })
			})
		}
		if s.changed.Swap(false) {
			for _, c := range s.collectors {
				c.relabel()
			}
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
	chunks := s.archive.Select(from, to, fits, func() {
		for _, c := range s.collectors {
			some, someErr := c.tails(fits)
			tails, err = append(tails, some...), errors.Join(err, someErr)
		}
	})
	units := make([]search.Unit, 0, len(chunks)+len(tails))
	for i := range chunks {
		c := &chunks[i]
		units = append(units, search.Unit{
			Labels: c.Labels, Min: c.Min, Max: c.Max, Order: c.Order, Bytes: c.Bytes, Lines: c.Lines, Stderr: c.Stderr, Scan: c.Scan, Times: c.Times,
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
		for _, c := range s.collectors {
			c.namespaces(found)
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
