// Package probe runs startup, liveness and readiness probes.
//
// Thresholds, periods and delays are the kubelet's. One thing is better: until a
// startup or readiness probe has succeeded it is tried at once after the start
// and then in steps that grow with the container's age, so that a container is
// ready within milliseconds of listening instead of at the next period. Tries
// between periods never count as failures.
//
// Only engine/node imports this package.
package probe

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Kind is what a probe's result is used for.
type Kind string

const (
	Startup   Kind = "Startup"
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
)

// Result is what one try came to.
type Result struct {
	OK     bool
	Warned bool   // OK, but with something to tell
	Err    error  // the probe could not be carried out; counts as failure, as upstream
	Output string // what the container said
}

// Update is a change of a probe's state, or a failure to be told.
type Update struct {
	Kind    Kind
	Changed bool // Passing is new
	Passing bool
	Failed  bool // a counted failure: tell Result
	Result  Result
}

// Probe is one probe of one container.
type Probe struct {
	Kind      Kind
	Spec      *v1.Probe
	StartedAt time.Time // of the container
	Passing   bool      // state to begin with

	Try    func(ctx context.Context) Result
	Report func(Update) // must not block
}

const (
	firstStep     = 5 * time.Millisecond
	firstStepExec = 200 * time.Millisecond // a process each time
)

// Run probes until ctx ends, or until a liveness or startup probe has failed for
// good, or a startup probe has succeeded.
func (p *Probe) Run(ctx context.Context) {
	r := run{p: p, passing: p.Passing, period: seconds(p.Spec.PeriodSeconds, 10)}
	begin := p.StartedAt.Add(seconds(p.Spec.InitialDelaySeconds, 0))
	if !sleep(ctx, time.Until(begin)) {
		return
	}
	r.countedAt = time.Now()
	for {
		started := time.Now()
		tryCtx, cancel := context.WithTimeout(ctx, seconds(p.Spec.TimeoutSeconds, 1))
		res := p.Try(tryCtx)
		cancel()
		if ctx.Err() != nil || r.take(res) {
			return
		}
		if !sleep(ctx, time.Until(started.Add(r.wait()))) {
			return
		}
	}
}

// run is the state of a running probe.
type run struct {
	p         *Probe
	period    time.Duration
	passing   bool
	reported  bool
	successes int32
	failures  int32
	countedAt time.Time // when the period of the last counted failure began
}

// take accounts for a result and reports whether the probe is over.
func (r *run) take(res Result) (over bool) {
	if res.OK {
		r.failures = 0
		r.successes++
		r.countedAt = time.Now()
		if r.successes < max(r.p.Spec.SuccessThreshold, 1) {
			return false
		}
		r.report(Update{Passing: true, Result: res})
		return r.p.Kind == Startup
	}
	r.successes = 0
	if r.quick() && time.Since(r.countedAt) < r.period-firstStep {
		return false
	}
	r.countedAt = time.Now()
	r.failures++
	failing := r.failures >= max(r.p.Spec.FailureThreshold, 1)
	r.report(Update{Passing: r.passing && !failing, Failed: true, Result: res})
	return failing && r.p.Kind != Readiness
}

func (r *run) report(u Update) {
	u.Kind = r.p.Kind
	u.Changed = u.Passing != r.passing || u.Failed && u.Kind != Readiness && r.failures >= max(r.p.Spec.FailureThreshold, 1)
	if u.Passing && !r.reported {
		u.Changed = true
		r.reported = true
	}
	r.passing = u.Passing
	r.p.Report(u)
}

// quick reports whether the probe is in the phase of growing steps: it has never
// succeeded, and one success is all it takes.
func (r *run) quick() bool {
	return r.p.Kind != Liveness && !r.passing && !r.reported && r.p.Spec.SuccessThreshold <= 1
}

// wait is the time from the begin of one try to the next.
func (r *run) wait() time.Duration {
	if !r.quick() {
		return r.period
	}
	first := firstStep
	if r.p.Spec.Exec != nil {
		first = firstStepExec
	}
	age := time.Since(r.p.StartedAt.Add(seconds(r.p.Spec.InitialDelaySeconds, 0)))
	return min(max(age/5, first), r.period)
}

func seconds(s, unset int32) time.Duration {
	if s <= 0 {
		s = unset
	}
	return time.Duration(s) * time.Second
}

// sleep reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
