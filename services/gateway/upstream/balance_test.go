package upstream

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

func TestTheFewestRequestsInFlightWin(t *testing.T) {
	p := newPooled(t, 3, nil)
	p.is("at rest", "map[1:4 2:4 3:4]")
	busy := p.endpoint(2)
	busy.inFlight.Add(1)
	p.is("with one that is busy", "map[1:4 3:8]") // whose turn goes to the next one
	if e := p.Acquire([]*Endpoint{p.endpoint(1), p.endpoint(3)}, nil); e != busy {
		t.Errorf("when the others were tried, the request goes to %v", e)
	}
	if e := p.Acquire(p.Endpoints(), nil); e != nil {
		t.Errorf("when all were tried, the request goes to %v", e.Host)
	}
}

func TestRoundRobinDoesNotLookAtLoad(t *testing.T) {
	p := newPooled(t, 3, &route.UpstreamPolicy{Balance: route.Balance{Method: route.RoundRobin}})
	p.endpoint(2).inFlight.Add(10)
	p.is("in turn", "map[1:4 2:4 3:4]")
}

func TestAKeyStaysWhereItIs(t *testing.T) {
	const keys, endpoints = 1000, 10
	hash := &route.Balance{Method: route.ConsistentHash}
	p := newPooled(t, endpoints, nil)
	where := func() map[int]*Endpoint {
		at := map[int]*Endpoint{}
		for k := range keys {
			e := p.Acquire(nil, &Aim{Balance: hash, Key: hashText(hashSeed, fmt.Sprint("user-", k))})
			at[k] = e
			e.Release()
		}
		return at
	}
	before := where()
	load := map[*Endpoint]int{}
	for k, e := range where() {
		if e != before[k] {
			t.Fatalf("key %d went elsewhere though nothing has changed", k)
		}
		load[e]++
	}
	for e, n := range load {
		if n < keys/endpoints/2 || n > keys/endpoints*2 {
			t.Errorf("endpoint %s has %d of %d keys", e.Host, n, keys)
		}
	}
	p.has(endpoints-1, nil) // the last one leaves
	for k, e := range where() {
		if before[k].Address != address(endpoints) && e != before[k] {
			t.Errorf("key %d moved although its endpoint stayed", k)
		}
		if e.Address == address(endpoints) {
			t.Errorf("key %d is at an endpoint that has left", k)
		}
	}
}

func TestAKeyThatIsTooPopularOverflows(t *testing.T) {
	p := newPooled(t, 4, nil)
	aim := &Aim{Balance: &route.Balance{Method: route.ConsistentHash, MaxLoad: 150}, Key: 42}
	for range 40 {
		p.Acquire(nil, aim) // all at the same time
	}
	used := 0
	for _, e := range p.Endpoints() {
		if n := e.InFlight(); n > 15 {
			t.Errorf("an endpoint has %d of 40 requests, which is more than 150%% of the average", n)
		} else if n > 0 {
			used++
		}
	}
	if used < 3 {
		t.Errorf("40 requests for one key are at %d endpoints", used)
	}
}

func TestANewEndpointStartsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := &route.UpstreamPolicy{SlowStart: 100 * time.Second}
		p := newPooled(t, 1, policy)
		p.has(2, policy)
		part := func() float64 { return float64(p.spread(10_000, nil)[2]) / 10_000 }
		for _, step := range []struct {
			after     time.Duration
			low, high float64
		}{
			{0, .02, .09},                // a tenth of its half
			{50 * time.Second, .20, .30}, // a half of it
			{51 * time.Second, .49, .51},
		} {
			time.Sleep(step.after) // on the story's clock
			if got := part(); got < step.low || got > step.high {
				t.Errorf("the new endpoint gets %.2f of the requests, want %.2f to %.2f", got, step.low, step.high)
			}
		}
	})
}

func TestTheFirstEndpointsNeedNoSlowStart(t *testing.T) {
	p := newPooled(t, 2, &route.UpstreamPolicy{SlowStart: time.Hour})
	p.is("from the beginning", "map[1:6 2:6]")
}

func TestAFullEndpointIsPassedOverWhateverIsAskedFor(t *testing.T) {
	p := newPooled(t, 3, &route.UpstreamPolicy{Limit: &route.Scaled{PerEndpoint: 2}})
	home := p.endpoint(2)
	for _, aim := range []*Aim{{Session: home}, {Balance: &route.Balance{Method: route.ConsistentHash, MaxLoad: 10_000}, Key: 7}, {Balance: &route.Balance{Method: route.RoundRobin}}} {
		var held []*Endpoint
		for e := p.Acquire(nil, aim); e != nil; e = p.Acquire(nil, aim) {
			held = append(held, e)
		}
		if len(held) != 6 {
			t.Errorf("three endpoints with room for two each took %d requests", len(held))
		}
		for _, e := range held {
			e.Release()
		}
	}
}

func TestAnEndpointThatLeftGetsNothing(t *testing.T) {
	p := newPooled(t, 2, nil)
	gone := p.endpoint(2)
	p.has(1, nil)
	p.is("after it left", "map[1:12]")
	if !gone.Removed() {
		t.Error("the endpoint does not say that it has left")
	}
	p.pools.Set(nil, []route.ServicePort{web})
	if e := p.pools.Get(web).Acquire(nil, nil); e != nil {
		t.Errorf("a Service that is gone has endpoint %s", e.Host)
	}
}

func TestAcquireAllocatesNothing(t *testing.T) {
	p := newPooled(t, 10, nil)
	if n := testing.AllocsPerRun(100, func() {
		e := p.Acquire(nil, nil)
		p.Report(e, Answered, 200)
		e.Release()
	}); n != 0 {
		t.Errorf("a request allocates %v times", n)
	}
}

func BenchmarkAcquire(b *testing.B) {
	p := newPool(web, &Config{})
	u := route.Upstream{Service: web}
	for i := range 10 {
		u.Endpoints = append(u.Endpoints, address(i))
	}
	p.set(u)
	for b.Loop() {
		e := p.Acquire(nil, nil)
		p.Report(e, Answered, 200)
		e.Release()
	}
}
