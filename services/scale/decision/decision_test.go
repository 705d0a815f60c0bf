package decision

import (
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// usual are the limits of most cases.
var usual = Limits{Min: 1, Max: 100, Stable: time.Minute, PanicFactor: 2, DownPeriod: time.Minute}

// inFlight is a signal of requests in flight, ten of which a replica carries.
func inFlight(stable, burst float64) Signal {
	return Signal{What: "requests in flight", Known: true, Settled: true, Stable: stable, Burst: burst, PerReplica: 10}
}

func TestOneDecision(t *testing.T) {
	zero := usual
	zero.Min = 0
	unsettled := inFlight(5, 5)
	unsettled.Settled = false
	cpu := Signal{What: "cores", Known: true, Settled: true, Stable: 2.1, PerReplica: 0.5, Tolerance: 0.1}
	for _, c := range []struct {
		name   string
		in     Input
		want   int32
		reason string // a part of it
	}{
		{"the stable window decides", Input{Current: 3, Ready: 3, Signals: []Signal{inFlight(45, 50)}, Limits: usual}, 5, "45 requests in flight at 10 per replica"},
		{"what is carried exactly is enough", Input{Current: 3, Ready: 3, Signals: []Signal{inFlight(30, 30)}, Limits: usual}, 3, "30 requests"},
		{"fewer when fewer are needed", Input{Current: 9, Ready: 9, Signals: []Signal{inFlight(12, 12)}, Limits: usual}, 2, "12 requests"},
		{"a burst of twice what is ready", Input{Current: 2, Ready: 2, Signals: []Signal{inFlight(10, 400)}, Limits: usual}, 40, "burst, 400 requests"},
		{"less than that is no burst", Input{Current: 2, Ready: 2, Signals: []Signal{inFlight(10, 30)}, Limits: usual}, 1, "10 requests"},
		{"no demand is the minimum", Input{Current: 4, Ready: 4, Signals: []Signal{inFlight(0, 0)}, Limits: usual}, 1, "minReplicas"},
		{"no demand is zero where that is allowed", Input{Current: 4, Ready: 4, Signals: []Signal{inFlight(0, 0)}, Limits: zero}, 0, "no demand"},
		{"a first replica for a request that waits", Input{Waiting: 1, Signals: []Signal{inFlight(0, 0)}, Limits: zero}, 1, "1 request waits"},
		{"never more than the maximum", Input{Current: 50, Ready: 50, Signals: []Signal{inFlight(5000, 0)}, Limits: usual}, 100, "maxReplicas, 500 are needed"},
		{"the greatest wish counts", Input{Current: 3, Ready: 3, Signals: []Signal{inFlight(20, 0), cpu}, Limits: usual}, 5, "2.1 cores"},
		{"within a tenth nothing happens", Input{Current: 4, Ready: 4, Signals: []Signal{cpu}, Limits: usual}, 4, "2.1 cores"},
		{"an unknown signal takes nothing away", Input{Current: 7, Ready: 7, Signals: []Signal{{What: "cores", Problem: "cores are not known"}}, Limits: usual}, 7, "cores are not known"},
		{"but does not keep another from asking for more", Input{Current: 1, Ready: 1, Signals: []Signal{{What: "cores", Problem: "?"}, inFlight(30, 0)}, Limits: usual}, 3, "30 requests"},
		{"half a window takes nothing away", Input{Current: 7, Ready: 7, Signals: []Signal{unsettled}, Limits: usual}, 7, "until requests in flight are known"},
		{"a schedule", Input{Current: 1, Ready: 1, Signals: []Signal{inFlight(1, 1)}, Floor: Floor{Replicas: 80, Schedule: "sale", Until: noon.Add(time.Hour)}, Limits: usual}, 80, `schedule "sale" until 2026-11-27T13:00:00Z`},
		{"more than a schedule asks for", Input{Current: 80, Ready: 80, Signals: []Signal{inFlight(900, 0)}, Floor: Floor{Replicas: 80}, Limits: usual}, 90, "900 requests"},
		{"only schedules, none now", Input{Current: 80, Ready: 80, Limits: usual}, 1, "only schedules count"},
		{"outside the limits by somebody's hand", Input{Current: 500, Ready: 100, Signals: []Signal{inFlight(5000, 0)}, Limits: usual}, 100, "maxReplicas"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.Now = noon
			d, _ := Decide(c.in, Memory{})
			if d.Replicas != c.want || !strings.Contains(d.Reason, c.reason) {
				t.Errorf("decided %d because %q, want %d because of %q", d.Replicas, d.Reason, c.want, c.reason)
			}
		})
	}
}

// story decides again and again, each time with what was decided before.
type story struct {
	t      *testing.T
	limits Limits
	now    time.Time
	memory Memory
	have   int32
}

func (s *story) after(d time.Duration, want int32, signals ...Signal) Decision {
	s.t.Helper()
	s.now = s.now.Add(d)
	decision, memory := Decide(Input{Now: s.now, Current: s.have, Ready: s.have, Signals: signals, Limits: s.limits}, s.memory)
	if decision.Replicas != want {
		s.t.Fatalf("at %v: decided %d (%s), want %d", s.now.Sub(noon), decision.Replicas, decision.Reason, want)
	}
	s.memory, s.have = memory, decision.Replicas
	return decision
}

func TestABurstIsHeldForAStableWindow(t *testing.T) {
	s := &story{t: t, limits: usual, now: noon, have: 2}
	if d := s.after(0, 20, inFlight(15, 200)); !d.Bursting {
		t.Error("not called a burst")
	}
	s.after(time.Second, 35, inFlight(30, 350))    // it grows, and that is followed though it is less than twice
	s.after(10*time.Second, 35, inFlight(40, 100)) // it ebbs, and nothing is taken away
	s.after(40*time.Second, 35, inFlight(60, 10))
	if d := s.after(20*time.Second, 3, inFlight(30, 10)); d.Bursting {
		t.Error("still called a burst a minute after its last sign")
	}
}

func TestScaleDownIsStabilised(t *testing.T) {
	limits := usual
	limits.Stabilise = 5 * time.Minute
	s := &story{t: t, limits: limits, now: noon, have: 10}
	s.after(0, 10, inFlight(100, 0))
	s.after(time.Minute, 10, inFlight(10, 0))
	s.after(time.Minute, 10, inFlight(60, 0))
	s.after(3*time.Minute+time.Second, 6, inFlight(10, 0)) // 100 is forgotten, 60 is not
	s.after(time.Minute, 6, inFlight(20, 0))
	s.after(time.Minute, 2, inFlight(10, 0))
	s.after(time.Second, 50, inFlight(500, 0)) // more at once
}

func TestScaleDownIsLimited(t *testing.T) {
	limits := usual
	limits.DownReplicas, limits.DownPercent = 5, 20
	s := &story{t: t, limits: limits, now: noon, have: 100}
	s.after(0, 80, inFlight(10, 0))
	s.after(30*time.Second, 80, inFlight(10, 0))
	s.after(31*time.Second, 64, inFlight(10, 0))
	s.have = 10
	s.after(2*time.Minute, 5, inFlight(10, 0)) // 5 are more than a fifth
}

func TestSeriesAverages(t *testing.T) {
	s := NewSeries(time.Minute)
	s.Set(noon, 10)
	s.Set(noon.Add(30*time.Second), 40)
	now := noon.Add(time.Minute)
	if m := s.Mean(now, time.Minute); m < 24.9 || m > 25.1 {
		t.Errorf("mean over a minute is %v, want 25", m)
	}
	if m := s.Mean(now, 6*time.Second); m < 39.9 || m > 40.1 {
		t.Errorf("mean over 6 s is %v, want 40", m)
	}
	if !s.Settled(now, time.Minute) || s.Settled(now, 2*time.Minute) {
		t.Error("does not know how long it has been read")
	}
	// A level holds without readings, also for longer than the window.
	if m := s.Mean(now.Add(time.Hour), time.Minute); m < 39 || m > 41 {
		t.Errorf("mean an hour later is %v, want 40", m)
	}
}

func TestSeriesCounts(t *testing.T) {
	s := NewSeries(time.Minute)
	s.Add(noon, 0)
	for i := range 600 {
		s.Add(noon.Add(time.Duration(i)*100*time.Millisecond), 5)
	}
	now := noon.Add(time.Minute)
	for _, w := range []time.Duration{time.Second, 6 * time.Second, time.Minute} {
		if m := s.Mean(now, w); m < 44 || m > 56 {
			t.Errorf("rate over %v is %v, want 50", w, m)
		}
	}
	if m := s.Mean(now.Add(2*time.Minute), time.Minute); m != 0 {
		t.Errorf("rate after a quiet minute is %v, want 0", m)
	}
}
