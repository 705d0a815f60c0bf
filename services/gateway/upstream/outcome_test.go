package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

func TestWhatEjects(t *testing.T) {
	type reports struct {
		times  int
		o      Outcome
		status int
	}
	for _, c := range []struct {
		name    string
		rules   route.Ejection
		reports []reports
		ejected bool
	}{
		{"three failures to connect, by default", route.Ejection{}, []reports{{3, NotConnected, 0}}, true},
		{"two are not enough", route.Ejection{}, []reports{{2, NotConnected, 0}}, false},
		{"an answer between them ends the row", route.Ejection{}, []reports{{2, NotConnected, 0}, {1, Answered, 200}, {2, NotConnected, 0}}, false},
		{"bad answers do not, by default", route.Ejection{}, []reports{{50, Answered, 503}, {50, Broken, 0}}, false},
		{"connecting can be left out", route.Ejection{ConnectFailures: -1}, []reports{{50, NotConnected, 0}}, false},
		{"gateway errors of all kinds are one row", route.Ejection{GatewayErrors: 4}, []reports{{1, Answered, 502}, {1, Broken, 0}, {1, TimedOut, 0}, {1, Answered, 504}}, true},
		{"500 is none", route.Ejection{GatewayErrors: 2}, []reports{{1, Answered, 502}, {1, Answered, 500}, {1, Answered, 502}}, false},
		{"but a server error", route.Ejection{ServerErrors: 3}, []reports{{1, Answered, 502}, {1, Answered, 500}, {1, Broken, 0}}, true},
		{"404 is an answer", route.Ejection{ServerErrors: 2}, []reports{{1, Answered, 500}, {1, Answered, 404}, {1, Answered, 500}}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPooled(t, 2, &route.UpstreamPolicy{Ejection: c.rules})
			for _, r := range c.reports {
				p.fail(1, r.times, r.o, r.status)
			}
			if got := p.spread(10, nil)[1] == 0; got != c.ejected {
				t.Errorf("%s: ejected %v, want %v", c.name, got, c.ejected)
			}
		})
	}
}

func TestEjectionGrowsAndIsForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPooled(t, 2, &route.UpstreamPolicy{Ejection: route.Ejection{Base: time.Second, Max: 5 * time.Second}})
		outFor := func() time.Duration {
			start := time.Now()
			for p.spread(10, nil)[1] == 0 {
				time.Sleep(10 * time.Millisecond) // on the story's clock
				synctest.Wait()
			}
			return time.Since(start).Round(100 * time.Millisecond)
		}
		p.fail(1, 3, NotConnected, 0)
		for _, want := range []time.Duration{1, 2, 4, 5, 5} {
			if got := outFor(); got != want*time.Second {
				t.Errorf("the endpoint is out for %s, want %s", got, want*time.Second)
			}
			p.fail(1, 1, NotConnected, 0) // back on probation: one failure is enough
		}
		outFor()
		p.fail(1, 1, Answered, 200)
		p.fail(1, 2, NotConnected, 0)
		p.is("after a good answer", "map[1:6 2:6]")
		time.Sleep(6 * time.Second)
		p.fail(1, 3, NotConnected, 0)
		if got := outFor(); got != time.Second {
			t.Errorf("after it has done well for long, the endpoint is out for %s, want 1s", got)
		}
	})
}

func TestAtMostHalfOfTheEndpointsAreOut(t *testing.T) {
	for _, c := range []struct {
		endpoints int
		percent   int32
		out       int
	}{{1, 0, 0}, {2, 0, 1}, {3, 0, 1}, {4, 0, 2}, {10, 0, 5}, {10, 20, 2}, {4, 100, 4}} {
		synctest.Test(t, func(t *testing.T) {
			p := newPooled(t, c.endpoints, &route.UpstreamPolicy{Ejection: route.Ejection{MaxPercent: c.percent}})
			for n := range c.endpoints {
				p.fail(n+1, 3, NotConnected, 0)
			}
			states, _ := p.tally()
			if states["ejected"] != c.out {
				t.Errorf("%d of %d endpoints are out, want %d", states["ejected"], c.endpoints, c.out)
			}
			if p.Acquire(nil, nil) == nil {
				t.Error("nobody gets requests")
			}
		})
	}
}

func TestHealthChecksDecide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		health := &route.HealthCheck{Healthy: 2, Unhealthy: 2, Panic: 40, Interval: time.Hour}
		p := newPooled(t, 4, nil)
		for _, e := range p.Endpoints() {
			e.checked = health // by hand: verdict says what came of it
		}
		policy := &route.UpstreamPolicy{Health: health}
		p.mu.Lock()
		p.publish(&state{policy: policy, all: p.Endpoints()})
		p.mu.Unlock()
		verdict := func(n int, good bool, times int) {
			for range times {
				var err error
				if !good {
					err = errTest
				}
				p.verdict(p.endpoint(n), health, err)
			}
		}
		verdict(1, false, 1)
		verdict(1, true, 1)
		verdict(1, false, 1)
		p.is("failures that are not in a row", "map[1:3 2:3 3:3 4:3]")
		verdict(1, false, 1)
		p.is("two in a row", "map[2:4 3:4 4:4]")
		verdict(1, true, 1)
		p.is("one good result", "map[2:4 3:4 4:4]")
		verdict(1, true, 1)
		p.is("two good results", "map[1:3 2:3 3:3 4:3]")
		verdict(1, false, 2)
		verdict(2, false, 2)
		p.is("half of them unhealthy", "map[3:6 4:6]")
		verdict(3, false, 2)
		p.is("fewer than the panic threshold are healthy", "map[1:3 2:3 3:3 4:3]")
	})
}
