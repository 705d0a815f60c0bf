package anomaly

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/rest"
)

// maxSignals is how many signals are watched; of more, the new ones are counted and left alone. With seven
// days known, one takes 5 KB.
const maxSignals = 4000

// forgetAfter is when a signal that is not seen any more is forgotten.
const forgetAfter = 24 * time.Hour

// Config is what the service is started with.
type Config struct {
	// Client reaches the API server; its user needs the role system:gantry:anomaly. Required.
	Client *rest.Config
	// Dir holds the anomalies of the last days. Required.
	Dir string
	Log *slog.Logger // or nil for slog.Default()
}

// Service watches signals. Its methods may be called concurrently.
type Service struct {
	log    *slog.Logger
	asks   *asker
	file   string
	static *prometheus.Registry

	ignored prometheus.Counter // signals over maxSignals
	failed  prometheus.Counter

	mu        sync.Mutex // guards following
	watched   map[key]*watched
	anomalies []*Anomaly // the oldest first
}

// key names a signal of a subject.
type key struct {
	Subject
	signal string
}

// watched is one signal of one subject.
type watched struct {
	signal   *signal
	baseline baseline
	verdict  verdict
	seen     time.Time
	value    float64
	usual    usual
	known    bool
	open     *Anomaly // or nil
}

// score is how many deviations the value is from what was expected.
func (w *watched) score() float64 {
	if !w.known {
		return 0
	}
	return (w.value - w.usual.expected) / w.usual.deviation
}

// New makes the service and reads the anomalies of before.
func New(cfg Config) (*Service, error) {
	if cfg.Client == nil || cfg.Dir == "" {
		return nil, errors.New("start anomaly detection: Config.Client and Config.Dir are required")
	}
	asks, err := newAsker(cfg.Client)
	if err != nil {
		return nil, err
	}
	s := &Service{log: cmp.Or(cfg.Log, slog.Default()), asks: asks, file: filepath.Join(cfg.Dir, "anomalies.json"), watched: map[key]*watched{}, static: prometheus.NewRegistry()}
	s.ignored = prometheus.NewCounter(prometheus.CounterOpts{Name: "gantry_signals_ignored_total", Help: "Signals that were not watched because there are too many."})
	s.failed = prometheus.NewCounter(prometheus.CounterOpts{Name: "gantry_signals_failed_total", Help: "Questions about signals that got no answer."})
	s.static.MustRegister(s.ignored, s.failed, collector{s})
	return s, s.load()
}

// Run watches until ctx ends, and returns nil then.
func (s *Service) Run(ctx context.Context) error {
	for !s.remember(ctx, time.Now()) {
		if !pause(ctx, step/4) {
			return nil
		}
	}
	for {
		next := time.Now().Truncate(step).Add(step)
		if !pause(ctx, time.Until(next)) {
			return nil
		}
		s.look(ctx, next)
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// remember learns baselines from the series that the service has left. It is false while nobody answers.
func (s *Service) remember(ctx context.Context, now time.Time) bool {
	days, err := s.asks.Matrix(ctx, fmt.Sprintf("quantile_over_time(0.5, gantry_signal[%ds])", int(slot.Seconds())), now.Add(-daysKept*24*time.Hour), now, slot)
	if err != nil {
		s.log.Debug("the monitor does not answer yet", "err", err)
		return false
	}
	minutes, err := s.asks.Matrix(ctx, "gantry_signal", now.Add(-lastHour*step), now.Add(-step), step)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	of := func(m model.Metric) *watched {
		k := key{Subject{string(m["namespace"]), string(m["kind"]), string(m["workload"])}, string(m["signal"])}
		if sig := signalNamed(k.signal); sig != nil {
			return s.find(k, sig)
		}
		return nil
	}
	for _, series := range days {
		w := of(series.Metric)
		for _, v := range series.Values {
			if w != nil { // a sample's time is the end of what it tells of
				w.baseline.learn(slotOf(v.Timestamp.Time().Add(-slot/2)), float64(v.Value))
				w.seen = v.Timestamp.Time()
			}
		}
	}
	for _, series := range minutes {
		w := of(series.Metric)
		for _, v := range series.Values {
			if w != nil {
				seasonal, _ := w.baseline.seasonal(v.Timestamp.Time())
				w.baseline.minutes = append(w.baseline.minutes, minute{float64(v.Value), seasonal})
				w.seen = v.Timestamp.Time()
			}
		}
	}
	s.reopen()
	return true
}

func signalNamed(name string) *signal {
	for _, list := range [][]signal{ofPods, ofRoutes} {
		for i := range list {
			if list[i].name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// find returns what is watched, which may be new, or nil if it is one too many. s.mu is held.
func (s *Service) find(k key, sig *signal) *watched {
	w := s.watched[k]
	if w == nil {
		if len(s.watched) >= maxSignals {
			s.ignored.Inc()
			return nil
		}
		w = &watched{signal: sig}
		s.watched[k] = w
	}
	return w
}

// look takes the values of a minute in.
func (s *Service) look(ctx context.Context, at time.Time) {
	values, err := s.read(ctx, at)
	if err != nil {
		s.failed.Inc()
		s.log.Warn("signals cannot be read; baselines go on from the next minute", "err", err)
	}
	s.mu.Lock()
	var begun []*Anomaly
	changed := false
	for k, v := range values {
		w := s.find(k, v.signal)
		if w == nil {
			continue
		}
		w.seen, w.value = at, v.value
		w.usual, w.known = w.baseline.observe(at, v.value, v.signal.grant)
		a, news := s.judge(k, w, at)
		changed = changed || news
		if a != nil {
			begun = append(begun, a)
		}
	}
	for k, w := range s.watched {
		if w.open != nil && at.Sub(w.seen) >= window*step { // nobody sees it any more
			w.open.close(at)
			w.open, changed = nil, true
		}
		if at.Sub(w.seen) > forgetAfter {
			delete(s.watched, k)
		}
	}
	s.mu.Unlock()
	if len(begun) > 0 {
		s.explain(ctx, begun, at)
	}
	if changed {
		if err := s.save(at); err != nil {
			s.log.Error("anomalies cannot be kept", "err", err)
		}
	}
}

// judge opens or closes an anomaly. It returns one that begins, and whether anything changed. s.mu is held.
func (s *Service) judge(k key, w *watched, at time.Time) (begun *Anomaly, changed bool) {
	anomalous, since := w.verdict.judge(at, w.score(), w.signal.both)
	switch {
	case anomalous && w.open == nil:
		w.open = &Anomaly{Subject: k.Subject, Signal: k.signal, Unit: w.signal.unit, Start: since}
		s.anomalies = append(s.anomalies, w.open)
		begun, changed = w.open, true
	case !anomalous && w.open != nil:
		w.open.close(at)
		w.open, changed = nil, true
	}
	if w.open != nil && math.Abs(w.score()) >= math.Abs(w.open.Score) {
		w.open.Value, w.open.Expected, w.open.Deviation, w.open.Score = w.value, w.usual.expected, w.usual.deviation, w.score()
	}
	return begun, changed
}

// reading is the value of a signal at a time.
type reading struct {
	signal *signal
	value  float64
}

// read asks for all signals. What could be read is returned also with an error.
func (s *Service) read(ctx context.Context, at time.Time) (map[key]reading, error) {
	ctx, cancel := context.WithTimeout(ctx, step/2)
	defer cancel()
	var errs []error
	ask := func(expr string) model.Vector {
		v, err := s.asks.Vector(ctx, expr, at)
		if err != nil {
			errs = append(errs, err)
		}
		return v
	}
	out := map[key]reading{}
	add := func(sig *signal, values map[Subject]float64) {
		for subject, v := range values {
			out[key{subject, sig.name}] = reading{sig, v}
		}
	}
	of := workloads(ask(ownersOfPods), ask(ownersOfReplicaSets), ask(ownersOfJobs))
	for i := range ofPods {
		add(&ofPods[i], ofPods[i].byWorkload(ask(ofPods[i].expr), of))
	}
	for i := range ofRoutes {
		add(&ofRoutes[i], byRoute(ask(ofRoutes[i].expr)))
	}
	return out, errors.Join(errs...)
}
