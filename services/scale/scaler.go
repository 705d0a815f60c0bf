package scale

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/demand"
	"github.com/gantryhq/gantry/services/scale/decision"
)

// scaler carries out one policy. Everything but the fields that a mutex guards belongs to
// the goroutine of run.
type scaler struct {
	c        *controller
	name     types.NamespacedName
	end      context.CancelFunc
	poke     chan struct{}
	answered chan struct{} // a signal that was asked for is known

	mu         sync.Mutex
	generation int64 // guarded by mu: of the spec that was noticed last

	spec     int64 // generation of the spec that the following are about
	calendar decision.Calendar
	memory   decision.Memory
	signals  *signals

	target *target                // as last read, or nil
	seen   atomic.Pointer[target] // a copy for those who ask for signals
	readAt time.Time
	stale  bool // something may have changed

	lastStep  time.Time
	lastState demand.State       // that was decided upon
	warned    map[types.UID]bool // autoscalers that were told of a conflict
	status    statusWriter
}

func newScaler(c *controller, name types.NamespacedName, end context.CancelFunc) *scaler {
	return &scaler{c: c, name: name, end: end, poke: make(chan struct{}, 1), answered: make(chan struct{}, 1), warned: map[types.UID]bool{}, status: statusWriter{c: c, name: name}}
}

// wake has the scaler look at everything again.
func (s *scaler) wake() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// nudge has the scaler decide again.
func (s *scaler) nudge() {
	select {
	case s.answered <- struct{}{}:
	default:
	}
}

// newGeneration notes a policy's generation and wakes the scaler when it is a new one.
func (s *scaler) newGeneration(p *v1alpha1.ScalePolicy) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.generation == p.Generation {
		return false // our own status
	}
	s.generation = p.Generation
	s.wake()
	return true
}

// run works until ctx ends.
func (s *scaler) run(ctx context.Context) {
	s.stale = true
	for ctx.Err() == nil {
		pause := s.step(ctx)
		s.lastStep = time.Now()
		s.wait(ctx, pause)
	}
}

// wait returns after a pause, or when there is something to decide.
func (s *scaler) wait(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		changed := s.c.gateways.Changed()
		if state, _ := s.demand(); state != s.lastState {
			s.settle(ctx)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-s.poke:
			s.stale = true
			return
		case <-s.answered:
			return
		case <-timer.C:
			return
		case <-changed: // perhaps of another Service
		}
	}
}

// settle lets changes of the demand gather for a moment, unless requests wait for a
// first replica.
func (s *scaler) settle(ctx context.Context) {
	for s.target != nil {
		changed := s.c.gateways.Changed()
		if state, _ := s.demand(); state.Waiting > 0 && state.Endpoints == 0 && s.target.wanted == 0 {
			return
		}
		rest := pace - time.Since(s.lastStep)
		if rest <= 0 {
			return
		}
		timer := time.NewTimer(rest)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			return
		case <-changed:
			timer.Stop()
		}
	}
}

// demand is that of all Services of the target together.
func (s *scaler) demand() (sum demand.State, known bool) {
	for _, name := range s.status.services {
		state, ok := s.c.gateways.Of(demand.Name{Namespace: s.name.Namespace, Service: name})
		known = known || ok
		sum.Requests += state.Requests
		sum.InFlight += state.InFlight
		sum.Waiting += state.Waiting
		sum.Endpoints = max(sum.Endpoints, state.Endpoints)
	}
	return sum, known
}

// step looks at everything once and acts. It returns when to do so again at the latest.
func (s *scaler) step(ctx context.Context) time.Duration {
	p := s.c.policy(s.name)
	if p == nil {
		return idleReview // about to be ended
	}
	now := time.Now()
	s.lastState, _ = s.demand()
	if p.Generation != s.spec {
		if err := s.adopt(p); err != nil {
			s.status.refuse(ctx, p, v1alpha1.ScaleReasonInvalid, err.Error())
			return idleReview
		}
	}
	if s.stale || s.target == nil || now.Sub(s.readAt) >= idleReview {
		if refused := s.look(ctx, p); refused {
			return review
		}
	}
	s.signals.read(ctx, s, p, now)
	in := s.input(p, now)
	d, memory := decision.Decide(in, s.memory)
	if err := s.act(ctx, p, &in, &d); err != nil {
		s.failed(ctx, p, err)
		s.stale = true
		return review
	}
	s.memory = memory
	s.status.report(ctx, p, s.target, &d)
	return s.pause(&in, &d, now)
}

// adopt takes a new spec over.
func (s *scaler) adopt(p *v1alpha1.ScalePolicy) error {
	calendar, err := decision.NewCalendar(p.Spec.Schedules)
	if err != nil {
		return err
	}
	s.calendar = calendar
	s.signals = s.signals.renew(p)
	s.spec = p.Generation
	s.stale = true
	return nil
}

// look reads the target and finds out whether this policy may scale it.
func (s *scaler) look(ctx context.Context, p *v1alpha1.ScalePolicy) (refused bool) {
	if rival := s.c.rival(p); rival != "" {
		s.target = nil
		s.status.refuse(ctx, p, v1alpha1.ScaleReasonConflicted, rival)
		return true
	}
	t, err := s.c.readTarget(ctx, p)
	if err != nil {
		s.target = nil
		s.failed(ctx, p, err)
		return true
	}
	s.target, s.readAt, s.stale = t, time.Now(), false
	seen := *t
	s.seen.Store(&seen)
	s.status.accept(ctx, p, s.c.servicesOf(p, t.podLabels))
	for _, younger := range s.c.youngerAutoscalers(p) {
		if s.warned[younger.UID] {
			continue
		}
		s.warned[younger.UID] = true
		s.c.clients.events.Eventf(younger, corev1.EventTypeWarning, v1alpha1.ScaleReasonConflicted,
			"ScalePolicy %s, which is older, scales the same target: delete one of them", p.Name)
	}
	return false
}

// failed says in the status why nothing can be done.
func (s *scaler) failed(ctx context.Context, p *v1alpha1.ScalePolicy, err error) {
	if ctx.Err() != nil {
		return
	}
	s.c.metrics.errors.WithLabelValues(s.name.Namespace, s.name.Name).Inc()
	ref := p.Spec.TargetRef
	switch {
	case apierrors.IsNotFound(err):
		s.status.refuse(ctx, p, v1alpha1.ScaleReasonTargetNotFound, fmt.Sprintf("there is no %s %s (%s) in this namespace", ref.Kind, ref.Name, ref.APIVersion))
	case errors.Is(err, errNotScalable):
		s.status.refuse(ctx, p, v1alpha1.ScaleReasonInvalid, fmt.Sprintf("a %s (%s) cannot be scaled: it has no scale subresource", ref.Kind, ref.APIVersion))
	default:
		// It may succeed in a moment: requests go on waiting.
		s.c.cfg.Log.Warn("cannot carry out a policy", "policy", s.name, "err", err)
		s.status.trouble(ctx, p, err)
	}
}

// input gathers what the decision depends on.
func (s *scaler) input(p *v1alpha1.ScalePolicy, now time.Time) decision.Input {
	spec := &p.Spec
	state, known := s.demand()
	ready := int32(state.Endpoints)
	if !known {
		ready = s.target.present
	}
	floor, _ := s.calendar.At(now)
	limits := decision.Limits{
		Min: spec.MinReplicas, Max: spec.MaxReplicas,
		Stable:      seconds(spec.Windows.StableSeconds),
		PanicFactor: float64(spec.Windows.PanicPercent) / 100,
		Stabilise:   seconds(spec.ScaleDown.StabilizationSeconds),
		DownPeriod:  seconds(spec.ScaleDown.PeriodSeconds),
	}
	if n := spec.ScaleDown.MaxReplicas; n != nil {
		limits.DownReplicas = *n
	}
	if n := spec.ScaleDown.MaxPercent; n != nil {
		limits.DownPercent = *n
	}
	return decision.Input{
		Now: now, Current: s.target.wanted, Ready: ready, Waiting: state.Waiting,
		Signals: s.signals.all(s, p, now), Floor: floor, Limits: limits,
	}
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// act scales the target if it must be.
func (s *scaler) act(ctx context.Context, p *v1alpha1.ScalePolicy, in *decision.Input, d *decision.Decision) error {
	if d.Replicas == in.Current {
		return nil
	}
	if err := s.c.scaleTo(ctx, p, s.target, d.Replicas); err != nil {
		return err
	}
	direction := "up"
	if d.Replicas < in.Current {
		direction = "down"
	}
	s.c.metrics.changes.WithLabelValues(s.name.Namespace, s.name.Name, direction).Inc()
	s.status.scaled = in.Now
	s.c.clients.events.Eventf(p, corev1.EventTypeNormal, "Scaled", "from %d to %s", in.Current, d.Reason)
	s.c.cfg.Log.Debug("scaled", "policy", s.name, "from", in.Current, "to", d.Replicas, "reason", d.Reason)
	return nil
}

// pause is how long nothing needs to be done unless something changes.
func (s *scaler) pause(in *decision.Input, d *decision.Decision, now time.Time) time.Duration {
	pause := idleReview
	if d.Replicas > in.Limits.Min || d.Bursting || in.Waiting > 0 {
		pause = review // windows move on
	}
	if _, changes := s.calendar.At(now); !changes.IsZero() {
		pause = min(pause, max(time.Millisecond, changes.Sub(now)))
	}
	return pause
}

func joined(list []string) string { return strings.Join(list, ", ") }
