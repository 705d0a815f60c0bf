// Package decision says how many replicas a workload should have.
//
// It is pure: time, demand and what was decided before are arguments. The way of
// deciding is that of Knative's autoscaler (KPA; knative.dev/docs, "Autoscaling
// concepts", and knative/serving, pkg/autoscaler/scaling): the demand averaged over a
// stable window (60 s) divided by what a replica is meant to carry; in a burst, when the
// demand over the panic window (6 s) is twice what the ready replicas carry, that
// window counts and nothing is taken away until a stable window has passed without
// a burst. It differs in one point: the gateway tells of each change within
// milliseconds, where KPA is told once a second, so a burst is also seen in the mean of
// the last second, and sooner where many requests come.
//
// CPU, memory and queries follow the pod autoscaler's rule instead (k8s.io, "Horizontal
// Pod Autoscaling", "Algorithm details"), with its tolerance of a tenth.
//
// Guarantees: the decision is never outside Min and Max; a signal that is missing or does
// not yet reach back over its window takes no replica away; zero is decided only when
// nothing waits.
//
// Imported by services/scale only.
package decision

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Signal is the demand in one respect.
type Signal struct {
	// What it is, such as "requests in flight".
	What string
	// Known is whether it could be found out; Problem says why not.
	Known   bool
	Problem string
	// Settled is whether Stable is about a whole window.
	Settled bool
	// Stable and Burst are the demand over the two windows, of all replicas together; Burst is
	// 0 for a signal that has no bursts.
	Stable, Burst float64
	// PerReplica is what one replica is meant to carry.
	PerReplica float64
	// Tolerance is by which share the demand may differ from what the current replicas carry
	// without consequence.
	Tolerance float64
}

// Floor is a number of replicas that a schedule asks for.
type Floor struct {
	Replicas int32
	Schedule string
	Until    time.Time
}

// Limits are what the policy allows.
type Limits struct {
	Min, Max    int32
	Stable      time.Duration // how long a burst lasts after its last sign
	PanicFactor float64
	// Stabilise is how long fewer replicas must have been enough.
	Stabilise time.Duration
	// DownReplicas and DownPercent are taken away at most in DownPeriod; the greater counts.
	// Without both there is no limit.
	DownReplicas, DownPercent int32
	DownPeriod                time.Duration
}

// Input is everything that a decision depends on, besides Memory.
type Input struct {
	Now     time.Time
	Current int32 // what the target is told to have
	Ready   int32
	Waiting int // requests that wait for a replica
	Signals []Signal
	Floor   Floor
	Limits  Limits
}

// Memory is what one decision leaves to the next one. The zero value is that of a
// policy about which nothing was decided yet.
type Memory struct {
	burstUntil time.Time
	peak       int32
	wishes     []wish // of the stabilisation window
	removals   []wish // of the scale-down period
}

type wish struct {
	at       time.Time
	replicas int32
}

// Decision is how many replicas there should be, and why.
type Decision struct {
	Replicas int32
	Reason   string
	Bursting bool
	// Limited says in words why the policy does not get what the demand asks for, or is empty.
	Limited string
	// Missing are the problems of signals that are not known.
	Missing []string
}

// Decide decides.
func Decide(in Input, m Memory) (Decision, Memory) {
	d := Decision{}
	want, why := in.demand(&d)
	want, why, m = in.burst(&d, m, want, why)
	if in.Waiting > 0 && want < 1 {
		want, why = 1, fmt.Sprintf("%s for a first replica", plural(in.Waiting, "request waits", "requests wait"))
	}
	if in.Floor.Replicas > want {
		want = in.Floor.Replicas
		why = fmt.Sprintf("schedule %q until %s", in.Floor.Schedule, in.Floor.Until.Format(time.RFC3339))
	}
	want, why = in.clip(&d, want, why)
	want, why, m = in.slowly(m, want, why)
	d.Replicas = want
	d.Reason = fmt.Sprintf("%s: %s", plural(int(want), "replica", "replicas"), why)
	if want == in.Current && d.Limited == "" && why == "" {
		d.Reason = plural(int(want), "replica", "replicas")
	}
	return d, m
}

// demand is what the stable windows ask for.
func (in *Input) demand(d *Decision) (want int32, why string) {
	why = "no demand"
	if len(in.Signals) == 0 {
		why = "no target, only schedules count"
	}
	for _, s := range in.Signals {
		if !s.Known {
			d.Missing = append(d.Missing, s.Problem)
			continue
		}
		if n := in.wanted(s); n > want {
			want, why = n, describe(s.What, s.Stable, s.PerReplica)
		}
	}
	for _, s := range in.Signals {
		if want >= in.Current {
			break
		}
		switch {
		case !s.Known:
			want, why = in.Current, "kept, because "+s.Problem
		case !s.Settled:
			want, why = in.Current, fmt.Sprintf("kept, until %s are known for a whole window", s.What)
		}
	}
	return want, why
}

// wanted is what one signal asks for.
func (in *Input) wanted(s Signal) int32 {
	if s.PerReplica <= 0 {
		return 0
	}
	if s.Tolerance > 0 && in.Current > 0 {
		if ratio := s.Stable / (s.PerReplica * float64(in.Current)); math.Abs(ratio-1) <= s.Tolerance {
			return in.Current
		}
	}
	return ceil(s.Stable / s.PerReplica)
}

// burst lets the short window count in a burst.
func (in *Input) burst(d *Decision, m Memory, want int32, why string) (int32, string, Memory) {
	var most int32
	var sign string
	for _, s := range in.Signals {
		if s.Known && s.Burst > 0 && s.PerReplica > 0 {
			if n := ceil(s.Burst / s.PerReplica); n > most {
				most, sign = n, describe(s.What, s.Burst, s.PerReplica)
			}
		}
	}
	if float64(most) >= in.Limits.PanicFactor*float64(max(1, in.Ready)) {
		if !in.Now.Before(m.burstUntil) {
			m.peak = 0 // a new burst
		}
		m.burstUntil = in.Now.Add(in.Limits.Stable)
	}
	if !in.Now.Before(m.burstUntil) {
		m.peak = 0
		return want, why, m
	}
	d.Bursting = true
	switch {
	case want >= most && want >= m.peak:
	case most >= m.peak:
		want, why = most, "burst, "+sign
	default:
		want, why = m.peak, "kept after a burst"
	}
	if in.Current > want && in.Current <= in.Limits.Max {
		want, why = in.Current, "kept after a burst"
	}
	m.peak = want
	return want, why, m
}

// clip keeps to the limits.
func (in *Input) clip(d *Decision, want int32, why string) (int32, string) {
	switch {
	case want > in.Limits.Max:
		d.Limited = fmt.Sprintf("%d replicas are needed (%s), and maxReplicas is %d", want, why, in.Limits.Max)
		return in.Limits.Max, fmt.Sprintf("maxReplicas, %d are needed: %s", want, why)
	case want < in.Limits.Min:
		return in.Limits.Min, "minReplicas, " + why
	}
	return want, why
}

// slowly takes replicas away no sooner and no faster than allowed. Min and Max come first.
func (in *Input) slowly(m Memory, want int32, why string) (int32, string, Memory) {
	m.wishes = append(recent(m.wishes, in.Now.Add(-in.Limits.Stabilise)), wish{in.Now, want})
	m.removals = recent(m.removals, in.Now.Add(-in.Limits.DownPeriod))
	if want >= in.Current || in.Current > in.Limits.Max {
		return want, why, m
	}
	for _, w := range m.wishes {
		if held := min(w.replicas, in.Current); held > want {
			want, why = held, fmt.Sprintf("fewer are enough, but not for %v yet: %s", in.Limits.Stabilise, why)
			break
		}
	}
	for _, w := range m.wishes {
		want = max(want, min(w.replicas, in.Current))
	}
	if in.Limits.DownReplicas > 0 || in.Limits.DownPercent > 0 {
		var removed int32
		for _, r := range m.removals {
			removed += r.replicas
		}
		before := in.Current + removed
		allowed := max(in.Limits.DownReplicas, ceil(float64(before)*float64(in.Limits.DownPercent)/100)) - removed
		if least := in.Current - max(0, allowed); want < least {
			want, why = least, fmt.Sprintf("fewer are enough, but no more are taken away within %v: %s", in.Limits.DownPeriod, why)
		}
	}
	if want < in.Current {
		m.removals = append(m.removals, wish{in.Now, in.Current - want})
	}
	return want, why, m
}

// Wait is how long nothing will change by itself: after it, Decide must be asked again
// even if no signal has changed.
func (m Memory) Wait(now time.Time) time.Duration {
	if d := m.burstUntil.Sub(now); d > 0 {
		return d
	}
	return time.Hour
}

// recent is the part of the list after a time.
func recent(list []wish, after time.Time) []wish {
	return slices.DeleteFunc(slices.Clone(list), func(w wish) bool { return !w.at.After(after) })
}

func ceil(x float64) int32 {
	// What is a hair above a whole number is rounding.
	n := math.Ceil(x - 1e-9)
	return int32(min(max(n, 0), math.MaxInt32))
}

func describe(what string, demand, perReplica float64) string {
	return fmt.Sprintf("%s %s at %s per replica", number(demand), what, number(perReplica))
}

func number(x float64) string {
	if x >= 100 || x == math.Trunc(x) {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.3g", x)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
