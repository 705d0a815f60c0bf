package alerts

import (
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

// What harms slowly is told later, and what is allowed is not told at all.
func TestSlowTroubleIsTold(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		begin func(w *world)
		want  []string // alerts
		by    int      // second at which all of them have come
	}{
		{"3 % of errors, of which a thousandth is allowed", func(w *world) { w.routes[0].errors = 0.03 }, []string{"RouteErrorBudgetBurning"}, 3600},
		{"3 % of errors, where 5 % are allowed", func(w *world) { w.routes[0].errors, w.routes[0].availability = 0.03, "95%" }, nil, 0},
		{"a hundredth of a percent of errors", func(w *world) { w.routes[0].errors = 0.0001 }, nil, 0},
		{"slower than was promised", func(w *world) { w.routes[0].within = "5ms" }, []string{"RouteSlow", "RouteLatencyBudgetBurning"}, 3600},
		{"slow, as was promised", func(w *world) { w.routes[0].latency, w.routes[0].within = 0.8, "8s" }, nil, 0},
		{"slow since ever", func(w *world) { w.routes[0].latency = 0.2 }, nil, 0},
		{"a disk that is full in three hours", func(w *world) { w.machine.avail, w.machine.writes = 50*gigabyte, 50*gigabyte/10800 }, []string{"DiskFilling"}, 4000},
		{"a disk that is full in three days", func(w *world) { w.machine.avail, w.machine.writes = 50*gigabyte, 50*gigabyte/259200 }, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, m := newWorld(3), newMonitor(t, 3)
			k := w.add(&workload{kind: "Deployment", namespace: "shop", name: "web", replicas: 2, startup: 2, memory: 256 * megabyte, base: 0.3})
			w.routes = []*route{{name: "HTTPRoute/shop/web", rate: 10, latency: 0.02, target: k}}
			c.begin(w)
			watch(m, w)
			var got []string
			last, until := 0, 2400 // what is quiet is looked at for so long, and all else until a minute after it should be there
			if c.by > 0 {
				until = c.by + 60
			}
			for w.now < until {
				w.step()
				check(t, m.step(w.now, true))
				for _, l := range m.firing() {
					if name := l.Get(labels.AlertName); !slices.Contains(got, name) {
						got, last = append(got, name), w.now
						if len(got) == len(c.want) {
							until = w.now + 60
						}
					}
				}
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) || last > c.by {
				t.Errorf("alerts %v, the last after %d s; want %v by %d s", got, last, c.want, c.by)
			}
		})
	}
}
