package proxy

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
	"github.com/gantryhq/gantry/services/gateway/upstream"
)

// patient lets any reasonable number wait for as long as a test may take.
var patient = route.Scaled{Waiting: 100, Bytes: 1 << 20, Patience: 10 * time.Second}

// scaledTo tells the data plane how a service is scaled and what stands behind it.
func (g *gateway) scaledTo(service string, how route.Scaled, protocol route.Protocol, servers ...*httptest.Server) {
	u := route.Upstream{Service: servicePort(service), Protocol: protocol, Scaled: &how}
	for _, s := range servers {
		u.Endpoints = append(u.Endpoints, netip.MustParseAddrPort(s.Listener.Addr().String()))
	}
	g.SetUpstreams([]route.Upstream{u}, nil)
}

func (g *gateway) demand(service string) upstream.Demand {
	for _, d := range g.Upstreams().Demand() {
		if d.Service == servicePort(service) {
			return d
		}
	}
	g.t.Fatalf("service %s is not scaled", service)
	return upstream.Demand{}
}

// until polls for what is about to happen.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// volley is the results of requests that were sent side by side.
type volley struct {
	wg  sync.WaitGroup
	got chan int
}

// send sends n requests; each is of the kind that the event loop carries, or not.
func (g *gateway) send(n int, host string, edit func(*http.Request)) *volley {
	a := &volley{got: make(chan int, n)}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for range n {
		a.wg.Go(func() {
			r, _ := http.NewRequest("GET", "http://"+g.address+"/", nil)
			r.Host = host
			if edit != nil {
				edit(r)
			}
			response, err := client.Do(r)
			if err != nil {
				a.got <- 0
				return
			}
			response.Body.Close()
			a.got <- response.StatusCode
		})
	}
	return a
}

func (a *volley) wait() map[int]int {
	a.wg.Wait()
	close(a.got)
	codes := map[int]int{}
	for code := range a.got {
		codes[code]++
	}
	return codes
}

// ways are the two that a request can take through the data plane: only net/http
// repeats requests with a key.
var ways = map[string]func(*http.Request){
	"event loop": nil,
	"net/http":   func(r *http.Request) { r.Method = "POST"; r.Header.Set(idempotencyKey, "1") },
}

func TestRequestsWaitForTheFirstEndpoint(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			g.rule("shop", "/", to("web"))
			g.apply()
			g.scaledTo("web", patient, route.HTTP1)
			rises := g.Upstreams().DemandRises()
			a := g.send(20, "shop", way)
			until(t, "20 requests wait", func() bool { return g.demand("web").Waiting == 20 })
			<-rises
			g.scaledTo("web", patient, route.HTTP1, backend(t, "a"))
			if codes := a.wait(); codes[200] != 20 {
				t.Errorf("got %v, want 20 times 200", codes)
			}
			until(t, "the demand is over", func() bool {
				return g.demand("web") == upstream.Demand{Service: servicePort("web"), Requests: 20, Endpoints: 1}
			})
		})
	}
}

func TestWaitingIsBounded(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			g.rule("shop", "/", to("web"))
			g.apply()
			bounded := patient
			bounded.Waiting, bounded.Patience = 3, 300*time.Millisecond
			g.scaledTo("web", bounded, route.HTTP1)
			first := g.send(3, "shop", way)
			until(t, "3 requests wait", func() bool { return g.demand("web").Waiting == 3 })
			edit := func(r *http.Request) {
				if way != nil {
					way(r)
				}
			}
			response, body := g.get("shop", "/", edit)
			problemOf(t, response, body, http.StatusServiceUnavailable)
			if response.Header.Get("Retry-After") == "" {
				t.Error("a refusal does not say when to try again")
			}
			if codes := first.wait(); codes[http.StatusGatewayTimeout] != 3 {
				t.Errorf("those who waited in vain got %v, want 504", codes)
			}
			until(t, "nobody waits", func() bool { return g.demand("web").Waiting == 0 })
		})
	}
}

func TestAServiceThatNobodyScalesIsNotWaitedFor(t *testing.T) {
	g := newGateway(t)
	g.rule("shop", "/", to("web"))
	g.apply()
	g.endpoints("web", route.HTTP1)
	response, body := g.get("shop", "/")
	problemOf(t, response, body, http.StatusServiceUnavailable)

	g.scaledTo("web", patient, route.HTTP1)
	a := g.send(1, "shop", nil)
	until(t, "a request waits", func() bool { return g.demand("web").Waiting == 1 })
	g.endpoints("web", route.HTTP1) // the policy is gone
	if codes := a.wait(); codes[503] != 1 {
		t.Errorf("got %v, want 503", codes)
	}
}

func TestEndpointsGetNoMoreThanTheyTake(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			g.rule("shop", "/", to("web"))
			g.apply()
			var now, most atomic.Int32
			proceed := make(chan struct{})
			slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				n := now.Add(1)
				defer now.Add(-1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				<-proceed
				fmt.Fprintln(w, "done")
			}))
			t.Cleanup(slow.Close)
			narrow := patient
			narrow.PerEndpoint = 2
			g.scaledTo("web", narrow, route.HTTP1, slow)
			a := g.send(30, "shop", way)
			until(t, "2 are served and 28 wait", func() bool {
				d := g.demand("web")
				return d.InFlight == 2 && d.Waiting == 28 && now.Load() == 2
			})
			close(proceed)
			if codes := a.wait(); codes[200] != 30 {
				t.Errorf("got %v, want 30 times 200", codes)
			}
			if most.Load() > 2 {
				t.Errorf("the endpoint had %d requests at the same time, want at most 2", most.Load())
			}
		})
	}
}

func TestAClientThatLeavesDoesNotWaitOn(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			g.rule("shop", "/", to("web"))
			g.apply()
			g.scaledTo("web", patient, route.HTTP1)
			client := &http.Client{Timeout: 50 * time.Millisecond}
			r, _ := http.NewRequest("GET", "http://"+g.address+"/", nil)
			r.Host = "shop"
			if way != nil {
				way(r)
			}
			if response, err := client.Do(r); err == nil {
				t.Fatalf("got %d without an endpoint", response.StatusCode)
			}
			until(t, "nobody waits", func() bool { return g.demand("web").Waiting == 0 })
		})
	}
}

// A pod without a readiness probe is ready before it listens: a request that has waited for
// it goes on waiting.
func TestARequestThatWaitedWaitsForItsEndpointToListen(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			g.rule("shop", "/", to("web"))
			g.apply()
			g.scaledTo("web", patient, route.HTTP1)
			sent := g.send(3, "shop", way)
			until(t, "three requests wait", func() bool { return g.demand("web").Waiting == 3 })
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := l.Addr().String()
			l.Close()
			g.SetUpstreams([]route.Upstream{{Service: servicePort("web"), Scaled: &patient, Endpoints: []netip.AddrPort{netip.MustParseAddrPort(address)}}}, nil)
			until(t, "the endpoint is asked before it listens", func() bool { return g.demand("web").Waiting == 0 })
			<-time.After(10 * knock)
			if l, err = net.Listen("tcp", address); err != nil {
				t.Skip("the port that was free is not any more")
			}
			server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}}
			server.Start()
			defer server.Close()
			if codes := sent.wait(); codes[http.StatusOK] != 3 {
				t.Errorf("the requests were answered with %v, want 200 for all three", codes)
			}
		})
	}
}
