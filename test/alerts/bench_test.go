package alerts

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

const (
	// onset is when a fault becomes one: samples from before are there for everything that looks back.
	onset = 660
	// least is how soon an alert must fire after the onset, and watched how long is looked.
	least, watched = 30, 60
)

// finding is what came of one fault at one phase of scrapes and evaluations.
type finding struct {
	after int // seconds until the alert with the right object, -1 is never
	false []string
}

// inject runs one fault, in a world of its own.
func inject(t testing.TB, f *fault, seed uint64) finding {
	s, m := newShop(seed), newMonitor(t, seed)
	watch(m, s.world)
	found := finding{after: -1}
	begin := onset - f.lead
	evaluated := begin - 45 // rules that record look back at most as far as a fault's lead
	for s.now < onset+watched {
		s.step()
		if s.now == begin {
			f.begin(s)
		}
		if s.now >= begin && f.each != nil {
			f.each(s)
		}
		check(t, m.step(s.now, s.now >= evaluated))
		for _, l := range m.firing() {
			name := l.Get(labels.AlertName)
			switch {
			case name == f.alert && names(l, f.object):
				if found.after < 0 {
					found.after = max(0, s.now-onset)
				}
			case slices.Contains(f.also, name) && s.now >= begin:
			default:
				if text := l.String(); !slices.Contains(found.false, text) {
					found.false = append(found.false, text)
				}
			}
		}
	}
	return found
}

// names tells whether an alert's labels name the object.
func names(l labels.Labels, object []string) bool {
	for i := 0; i+1 < len(object); i += 2 {
		got, want := l.Get(object[i]), object[i+1]
		if prefix, ok := strings.CutPrefix(want, "~"); ok && strings.HasPrefix(got, prefix) {
			continue
		}
		if got != want {
			return false
		}
	}
	return true
}

// injectAll runs all faults at several phases, and returns the findings by fault.
func injectAll(t testing.TB, phases int) [][]finding {
	all := make([][]finding, len(faults))
	var group sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i := range faults {
		all[i] = make([]finding, phases)
		for phase := range phases {
			group.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				all[i][phase] = inject(t, &faults[i], uint64(100*i+phase))
			})
		}
	}
	group.Wait()
	return all
}

// healthyHour returns the alerts of an hour in health, and what it held.
func healthyHour(t testing.TB, seed uint64, seconds int) (alerts []string, series uint64) {
	s, m := newShop(seed), newMonitor(t, seed)
	s.busyHour()
	watch(m, s.world)
	s.on(3260, func() { m.restart = s.now + 6 })
	for s.now < seconds {
		s.step()
		check(t, m.step(s.now, true))
		for _, l := range m.firing() {
			if text := fmt.Sprintf("%s from second %d", l, s.now); !slices.ContainsFunc(alerts, func(a string) bool { return strings.HasPrefix(a, l.String()) }) {
				alerts = append(alerts, text)
			}
		}
	}
	return alerts, m.db.Head().NumSeries()
}

// An hour with roll-outs, a sale, restarts and small failures raises no alert.
func TestAHealthyHourIsQuiet(t *testing.T) {
	t.Parallel()
	alerts, _ := healthyHour(t, 1, 3600)
	for _, a := range alerts {
		t.Errorf("false: %s", a)
	}
}

// Each kind of fault is found in time, with the object that has it, and nothing else is blamed.
func TestFaultsAreFound(t *testing.T) {
	t.Parallel()
	for i, of := range injectAll(t, 1) {
		report(t, &faults[i], of)
	}
}

func report(t testing.TB, f *fault, of []finding) (worst, missed, wrong int) {
	for _, one := range of {
		worst = max(worst, one.after)
		if one.after < 0 || one.after >= least {
			missed++
			t.Errorf("%s: %s with %v came after %d s (-1 is never)", f.name, f.alert, f.object, one.after)
		}
		wrong += len(one.false)
		for _, a := range one.false {
			t.Errorf("%s: false: %s", f.name, a)
		}
	}
	return worst, missed, wrong
}

// BenchmarkAlerts prints the report of docs/bench-alerts.md.
func BenchmarkAlerts(b *testing.B) {
	const phases, hours = 4, 2
	for range b.N {
		var group sync.WaitGroup
		var quiet [hours][]string
		var series [hours]uint64
		for i := range hours {
			group.Go(func() { quiet[i], series[i] = healthyHour(b, uint64(1000+i), 3600) })
		}
		findings := injectAll(b, phases)
		group.Wait()
		fmt.Fprintf(os.Stderr, "\n| fault | alert | within, s | missed | false |\n|---|---|---|---|---|\n")
		missed, wrong, slowest, loud := 0, 0, 0, 0
		for i, of := range findings {
			worst, m, w := report(b, &faults[i], of)
			missed, wrong, slowest = missed+m, wrong+w, max(slowest, worst)
			fmt.Fprintf(os.Stderr, "| %s | `%s` | %d | %d | %d |\n", faults[i].name, faults[i].alert, worst, m, w)
		}
		for _, alerts := range quiet {
			loud += len(alerts)
			for _, a := range alerts {
				b.Errorf("healthy hour: %s", a)
			}
		}
		fmt.Fprintf(os.Stderr, "\n%d kinds of fault, %d times each: %d missed, %d false alerts beside them, the slowest found after %d s.\n"+
			"%d healthy hours of %d series: %d alerts.\n", len(faults), phases, missed, wrong, slowest, hours, slices.Max(series[:]), loud)
		b.ReportMetric(float64(missed), "missed")
		b.ReportMetric(float64(wrong+loud), "false")
		b.ReportMetric(float64(slowest), "s-slowest")
	}
}
