package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/pprof"
	"sync"

	"github.com/go-logr/logr"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/features"
)

// Controllers is all controllers of one instance.
type Controllers struct {
	cfg   Config
	ready chan struct{}
}

// New checks the configuration. Nothing runs before Run.
func New(cfg Config) (*Controllers, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	return &Controllers{cfg: cfg, ready: make(chan struct{})}, nil
}

// Ready is closed when every controller has read the state of the cluster and
// has begun to work.
func (c *Controllers) Ready() <-chan struct{} { return c.ready }

// Run works until ctx ends and returns when every controller has stopped. It
// may be called once.
func (c *Controllers) Run(ctx context.Context) error {
	if err := setFeatures(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, upstreamLogger(c.cfg.Logger)))
	defer cancel()
	e, err := newEnvironment(c.cfg)
	if err != nil {
		return err
	}
	runs := map[string]run{}
	for _, one := range all() {
		r, err := one.new(klog.NewContext(ctx, klog.FromContext(ctx).WithName(one.name)), e)
		if err != nil {
			return fmt.Errorf("set up %s: %w", one.name, err)
		}
		runs[one.name] = r
	}
	defer e.shutdown()
	defer cancel()
	labelled(ctx, "informers", func(ctx context.Context) { err = e.start(ctx) })
	if err != nil {
		return err
	}
	var working sync.WaitGroup
	for name, r := range runs {
		working.Go(func() { labelled(ctx, name, r) })
	}
	close(c.ready)
	working.Wait()
	return nil
}

// labelled runs r so that a CPU profile tells what it cost, together with what
// the API did for it: labels go on to the goroutines that it starts.
func labelled(ctx context.Context, component string, r run) {
	pprof.Do(ctx, pprof.Labels("component", component), r)
}

// setFeatures turns off what only costs here. The StaleController gates make
// controllers refuse to work on caches that lag behind their own writes; here
// the caches are fed from the same memory, and the refusals only delay.
func setFeatures() error {
	err := utilfeature.DefaultMutableFeatureGate.SetFromMap(map[string]bool{
		string(features.StaleControllerConsistencyDaemonSet):   false,
		string(features.StaleControllerConsistencyJob):         false,
		string(features.StaleControllerConsistencyReplicaSet):  false,
		string(features.StaleControllerConsistencyStatefulSet): false,
	})
	if err != nil {
		return fmt.Errorf("set feature gates of the controllers: %w", err)
	}
	return nil
}

// both runs two loops until both end.
func both(a, b run) run {
	return func(ctx context.Context) {
		var wg sync.WaitGroup
		wg.Go(func() { a(ctx) })
		wg.Go(func() { b(ctx) })
		wg.Wait()
	}
}

// upstreamLogger hands upstream's messages to ours; information of controllers
// about their own starting and stopping is debugging here.
func upstreamLogger(l *slog.Logger) logr.Logger {
	return logr.FromSlogHandler(lowered{l.Handler()})
}

// lowered is a handler that takes everything below a warning as debugging.
type lowered struct{ slog.Handler }

func (h lowered) Enabled(ctx context.Context, level slog.Level) bool {
	return h.Handler.Enabled(ctx, lower(level))
}

func (h lowered) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lower(r.Level)
	return h.Handler.Handle(ctx, r)
}

func (h lowered) WithAttrs(attrs []slog.Attr) slog.Handler {
	return lowered{h.Handler.WithAttrs(attrs)}
}

func (h lowered) WithGroup(name string) slog.Handler { return lowered{h.Handler.WithGroup(name)} }

func lower(level slog.Level) slog.Level {
	if level >= slog.LevelWarn {
		return level
	}
	return level + slog.LevelDebug
}
