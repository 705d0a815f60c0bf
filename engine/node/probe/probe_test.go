package probe

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
)

// watched runs a probe of a container that was started now and listens after up.
type watched struct {
	tries   int
	updates []Update
	at      []time.Duration // of the updates
	ended   bool
}

func watch(t *testing.T, kind Kind, spec v1.Probe, works func(age time.Duration) bool, d time.Duration) *watched {
	t.Helper()
	w := &watched{}
	start := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	p := &Probe{
		Kind: kind, Spec: &spec, StartedAt: start, Passing: kind == Liveness,
		Try: func(context.Context) Result {
			w.tries++
			return Result{OK: works(time.Since(start))}
		},
		Report: func(u Update) {
			w.updates = append(w.updates, u)
			w.at = append(w.at, time.Since(start))
		},
	}
	done := make(chan struct{})
	go func() { p.Run(ctx); w.ended = true; close(done) }()
	time.Sleep(d)
	synctest.Wait()
	if !w.ended {
		cancel()
		<-done
		w.ended = false
	}
	cancel()
	return w
}

func after(up time.Duration) func(time.Duration) bool {
	return func(age time.Duration) bool { return age >= up }
}

func spec() v1.Probe {
	return v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{}}, PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3}
}

func TestReadinessIsSeenWithinMillisecondsOfListening(t *testing.T) {
	for _, up := range []time.Duration{0, 7 * time.Millisecond, 40 * time.Millisecond, 300 * time.Millisecond, 2 * time.Second, 12 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := watch(t, Readiness, spec(), after(up), 30*time.Second)
			for i, u := range w.updates {
				if !u.Passing {
					continue
				}
				if late, most := w.at[i]-up, up/4+6*time.Millisecond; !u.Changed || late > most {
					t.Errorf("listening after %v, ready %v later; want at most %v", up, late, most)
				}
				return
			}
			t.Errorf("listening after %v, never ready", up)
		})
	}
}

func TestSlowStartIsNotCountedAsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := spec()
		s.PeriodSeconds, s.FailureThreshold = 1, 5
		w := watch(t, Startup, s, after(4500*time.Millisecond), time.Minute)
		last := w.updates[len(w.updates)-1]
		if !last.Passing || !w.ended {
			t.Errorf("the startup probe ended %v with %+v after %d tries", w.ended, last, w.tries)
		}
	})
}

func TestStartupProbeGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := spec()
		s.PeriodSeconds, s.FailureThreshold = 1, 5
		w := watch(t, Startup, s, after(time.Hour), time.Minute)
		last := w.updates[len(w.updates)-1]
		if last.Passing || !last.Changed || !w.ended {
			t.Fatalf("ended %v with %+v", w.ended, last)
		}
		if at := w.at[len(w.at)-1]; at < 4*time.Second || at > 7*time.Second {
			t.Errorf("gave up after %v, want 5 periods", at)
		}
	})
}

func TestLivenessNeedsSeveralFailuresInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Fails at 10 and 20 s, works at 30, fails from 40 on.
		w := watch(t, Liveness, spec(), func(age time.Duration) bool {
			return age < 9*time.Second || age > 25*time.Second && age < 35*time.Second
		}, 2*time.Minute)
		last := len(w.updates) - 1
		if !w.ended || w.updates[last].Passing || !w.updates[last].Changed {
			t.Fatalf("ended %v with %+v", w.ended, w.updates[last])
		}
		if at := w.at[last]; at < 59*time.Second || at > 61*time.Second {
			t.Errorf("failed for good after %v, want the third failure in a row at 60 s", at)
		}
	})
}

func TestInitialDelayIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := spec()
		s.InitialDelaySeconds = 3
		w := watch(t, Readiness, s, after(0), 10*time.Second)
		if w.at[0] < 3*time.Second {
			t.Errorf("probed after %v, want not before 3 s", w.at[0])
		}
	})
}
