package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// onBothPaths tells a story once with requests that the event loop carries, and once
// with requests that net/http does.
func onBothPaths(t *testing.T, story func(t *testing.T, g *gateway, serve func(*route.Rule))) {
	for _, path := range []string{"event loop", "net/http"} {
		t.Run(path, func(t *testing.T) {
			g := newGateway(t)
			story(t, g, func(r *route.Rule) {
				if path == "net/http" {
					r.Mirrors = []route.Mirror{{Invalid: "so that the event loop leaves it alone"}}
				}
				g.rule("h", "/", r)
				g.apply()
			})
		})
	}
}

// actor is a server whose answers a test decides, with a count of its requests.
type actor struct {
	*httptest.Server
	calls atomic.Int32
}

func newActor(t *testing.T, name string, answer func(call int, w http.ResponseWriter, r *http.Request)) *actor {
	s := &actor{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call := int(s.calls.Add(1))
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Backend", name)
		answer(call, w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// behind makes servers the endpoints of web, with a policy.
func (g *gateway) behind(policy *route.UpstreamPolicy, servers ...*actor) {
	u := route.Upstream{Service: servicePort("web"), Policy: policy}
	for _, s := range servers {
		u.Endpoints = append(u.Endpoints, netip.MustParseAddrPort(s.Listener.Addr().String()))
	}
	g.SetUpstreams([]route.Upstream{u}, nil)
}

func (g *gateway) dump() string {
	var b bytes.Buffer
	g.DumpUpstreams(&b)
	return b.String()
}

// metric adds up the series of a metric.
func (g *gateway) metric(name string) (sum float64) {
	g.t.Helper()
	families, err := g.metrics.Gather()
	if err != nil {
		g.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// metricFrom is the sum of a metric once it is at least so much: what a request did may be counted
// after its client has the answer.
func (g *gateway) metricFrom(least float64, name string) (sum float64) {
	g.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if sum = g.metric(name); sum >= least {
			break
		}
	}
	return sum
}

// full is an address where connections can neither be made nor are they refused: the
// queue of its socket is full, and nobody accepts.
func full(t *testing.T) netip.AddrPort {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0))
	if err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*unix.SockaddrInet4).Port))
	for range 10 {
		conn, err := net.DialTimeout("tcp", address.String(), 50*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the queue of a socket does not fill")
	return address
}

func ok(_ int, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "fine") }

func method(name string, body string) func(*http.Request) {
	return func(r *http.Request) {
		r.Method = name
		if body != "" {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		}
	}
}

func TestStatusesThatAreListedAreTriedAgain(t *testing.T) {
	onBothPaths(t, func(t *testing.T, g *gateway, serve func(*route.Rule)) {
		s := newActor(t, "a", func(call int, w http.ResponseWriter, _ *http.Request) {
			if call%3 != 0 {
				w.WriteHeader(503)
			}
			fmt.Fprint(w, call)
		})
		g.behind(nil, s)
		rule := to("web")
		rule.Retry = &route.Retry{Attempts: 2, Codes: []int{502, 503}, Backoff: time.Millisecond}
		serve(rule)
		if r, body := g.get("h", "/"); r.StatusCode != 200 || body != "3" {
			t.Errorf("the answer is %d %q, want the third", r.StatusCode, body)
		}
		if r, body := g.get("h", "/", method("POST", "x")); r.StatusCode != 503 || body != "4" {
			t.Errorf("a POST got %d %q, want the first answer to it", r.StatusCode, body)
		}
		s.calls.Store(0)
		rule.Retry.Attempts = 1
		if r, body := g.get("h", "/"); r.StatusCode != 503 || body != "2" || r.Header.Get("Backend") != "a" {
			t.Errorf("when attempts are used up the answer is %d %q, want the last one of the backend", r.StatusCode, body)
		}
		if m := g.metricFrom(3, "gantry_gateway_retries_total"); m != 3 {
			t.Errorf("%v retries are counted, want 3", m)
		}
		if m := g.metricFrom(6, "gantry_gateway_upstream_requests_total"); m != 6 {
			t.Errorf("%v requests to endpoints are counted, want 6: each attempt once", m)
		}
	})
}

func TestRetriesStayInTheBudget(t *testing.T) {
	onBothPaths(t, func(t *testing.T, g *gateway, serve func(*route.Rule)) {
		s := newActor(t, "a", func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
		g.behind(&route.UpstreamPolicy{
			Retry:  &route.Retry{Attempts: 3, Codes: []int{503}, Backoff: time.Microsecond},
			Budget: route.RetryBudget{Percent: 50, MinPerSecond: -1},
		}, s)
		serve(to("web"))
		for range 100 {
			if r, _ := g.get("h", "/"); r.StatusCode != 503 {
				t.Fatalf("got %d", r.StatusCode)
			}
		}
		if n := s.calls.Load(); n < 140 || n > 150 {
			t.Errorf("an outage sees %d requests for 100 of clients, want half more", n)
		}
		if g.metricFrom(1, "gantry_gateway_retries_over_budget_total") == 0 {
			t.Error("no retry is counted as over budget")
		}
	})
}

func TestAServerThatDiesIsLeftAlone(t *testing.T) {
	onBothPaths(t, func(t *testing.T, g *gateway, serve func(*route.Rule)) {
		dead, alive := newActor(t, "dead", ok), newActor(t, "alive", ok)
		g.behind(nil, dead, alive)
		serve(to("web"))
		dead.Close()
		for i := range 20 {
			if r, body := g.get("h", "/", method("POST", "x")); r.StatusCode != 200 || body != "fine" {
				t.Fatalf("request %d got %d %q", i, r.StatusCode, body)
			}
		}
		if state := g.dump(); !strings.Contains(state, dead.Listener.Addr().String()+" ejected") {
			t.Errorf("the dead server is not ejected:\n%s", state)
		}
		if m := g.metricFrom(1, "gantry_gateway_ejections_total"); m != 1 {
			t.Errorf("%v ejections are counted, want 1", m)
		}
	})
}

func TestAServerThatStallsIsGivenUp(t *testing.T) {
	onBothPaths(t, func(t *testing.T, g *gateway, serve func(*route.Rule)) {
		release := make(chan struct{})
		defer close(release)
		stalls := newActor(t, "stalls", func(int, http.ResponseWriter, *http.Request) { <-release })
		quick := newActor(t, "quick", ok)
		policy := &route.UpstreamPolicy{FirstByteTimeout: 30 * time.Millisecond, Ejection: route.Ejection{GatewayErrors: 1, Base: time.Hour, Max: time.Hour}}
		g.behind(policy, stalls)
		rule := to("web")
		serve(rule)
		r, body := g.get("h", "/")
		problemOf(t, r, body, 504)
		g.behind(policy, stalls, quick)
		rule.Retry = &route.Retry{Backoff: time.Millisecond}
		for range 4 {
			if r, _ := g.get("h", "/"); r.StatusCode != 200 || r.Header.Get("Backend") != "quick" {
				t.Errorf("got %d of %q, want the quick one's answer", r.StatusCode, r.Header.Get("Backend"))
			}
		}
		if n := stalls.calls.Load(); n > 2 {
			t.Errorf("the server that stalls got %d requests: it was not ejected", n)
		}
	})
}

func TestAnAnswerThatStallsIsCut(t *testing.T) {
	onBothPaths(t, func(t *testing.T, g *gateway, serve func(*route.Rule)) {
		release := make(chan struct{})
		defer close(release)
		s := newActor(t, "a", func(_ int, w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "half ")
			w.(http.Flusher).Flush()
			<-release
		})
		g.behind(&route.UpstreamPolicy{IdleTimeout: 50 * time.Millisecond}, s)
		serve(to("web"))
		r, err := http.NewRequest("GET", "http://"+g.address+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "h"
		response, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if body, err := io.ReadAll(response.Body); err == nil || string(body) != "half " {
			t.Errorf("the client got %q, %v; want the first half and an error", body, err)
		}
	})
}

func TestASessionComesBack(t *testing.T) {
	onBothPaths(t, func(t *testing.T, g *gateway, serve func(*route.Rule)) {
		servers := []*actor{newActor(t, "0", ok), newActor(t, "1", ok), newActor(t, "2", ok)}
		g.behind(nil, servers...)
		rule := to("web")
		rule.Session = &route.Session{Name: "sid"}
		serve(rule)
		first, _ := g.get("h", "/")
		if len(first.Cookies()) != 1 || first.Cookies()[0].Name != "sid" {
			t.Fatalf("a new client got cookies %v", first.Cookies())
		}
		home, cookie := first.Header.Get("Backend"), first.Cookies()[0]
		back := func(r *http.Request) { r.AddCookie(cookie) }
		for range 10 {
			r, _ := g.get("h", "/", back)
			if got := r.Header.Get("Backend"); got != home || len(r.Cookies()) > 0 {
				t.Errorf("the client came to %s with new cookies %v, want %s", got, r.Cookies(), home)
			}
		}
		var others []*actor
		for i, s := range servers {
			if fmt.Sprint(i) != home {
				others = append(others, s)
			}
		}
		g.behind(nil, others...)
		if r, _ := g.get("h", "/", back); r.StatusCode != 200 || len(r.Cookies()) != 1 || r.Cookies()[0].Value == cookie.Value {
			t.Errorf("after its server has left the client got %d with cookies %v", r.StatusCode, r.Cookies())
		}
	})
}

func TestTheSameKeyComesToTheSameServer(t *testing.T) {
	onBothPaths(t, func(t *testing.T, g *gateway, serve func(*route.Rule)) {
		policy := &route.UpstreamPolicy{Balance: route.Balance{Method: route.ConsistentHash, Keys: []route.HashKey{{Source: route.HeaderValue, Name: "User"}}}}
		g.behind(policy, newActor(t, "0", ok), newActor(t, "1", ok), newActor(t, "2", ok))
		serve(to("web"))
		used := map[string]bool{}
		for user := range 20 {
			at := map[string]bool{}
			for range 3 {
				r, _ := g.get("h", "/", func(r *http.Request) { r.Header.Set("user", fmt.Sprint(user)) })
				at[r.Header.Get("Backend")] = true
			}
			if len(at) != 1 {
				t.Errorf("user %d came to %v", user, at)
			}
			for name := range at {
				used[name] = true
			}
		}
		if len(used) != 3 {
			t.Errorf("20 users are at servers %v", used)
		}
	})
}

func TestAnUnhealthyServerGetsNothing(t *testing.T) {
	g := newGateway(t)
	var ill atomic.Bool
	ill.Store(true)
	patient := newActor(t, "patient", func(_ int, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" && ill.Load() {
			w.WriteHeader(500)
		}
	})
	g.behind(&route.UpstreamPolicy{Health: &route.HealthCheck{Path: "/healthz", Interval: 5 * time.Millisecond, Unhealthy: 1}}, patient, newActor(t, "well", ok))
	g.rule("h", "/", to("web"))
	g.apply()
	state := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !strings.Contains(g.dump(), patient.Listener.Addr().String()+" "+want); {
			if time.Now().After(deadline) {
				t.Fatalf("the server never gets %s:\n%s", want, g.dump())
			}
			g.get("h", "/") // takes its time
		}
	}
	state("unhealthy")
	for range 10 {
		if r, _ := g.get("h", "/"); r.Header.Get("Backend") != "well" {
			t.Error("an unhealthy server gets requests")
		}
	}
	ill.Store(false)
	state("available")
	if g.metricFrom(1, "gantry_gateway_health_checks_total") == 0 {
		t.Error("no health check is counted")
	}
}

func TestTheConnectTimeoutIsThePolicys(t *testing.T) {
	onBothPaths(t, func(t *testing.T, g *gateway, serve func(*route.Rule)) {
		address := full(t)
		g.SetUpstreams([]route.Upstream{{Service: servicePort("web"), Endpoints: []netip.AddrPort{address},
			Policy: &route.UpstreamPolicy{ConnectTimeout: 20 * time.Millisecond}}}, nil)
		serve(to("web"))
		start := time.Now()
		r, body := g.get("h", "/")
		problemOf(t, r, body, 502)
		if took := time.Since(start); took > 1500*time.Millisecond {
			t.Errorf("it took %s to give up, want about 20 ms", took)
		}
	})
}

func TestRequestsWaitForRoomAndTooManyAreRefused(t *testing.T) {
	onBothPaths(t, func(t *testing.T, g *gateway, serve func(*route.Rule)) {
		var atOnce, most atomic.Int32
		release, entered := make(chan struct{}), make(chan bool, 8)
		s := newActor(t, "a", func(_ int, w http.ResponseWriter, _ *http.Request) {
			for n := atOnce.Add(1); ; {
				if before := most.Load(); n <= before || most.CompareAndSwap(before, n) {
					break
				}
			}
			entered <- true
			<-release
			atOnce.Add(-1)
		})
		g.behind(&route.UpstreamPolicy{Limit: &route.Scaled{PerEndpoint: 2, Waiting: 3, Bytes: 1 << 20, Patience: time.Minute}}, s)
		serve(to("web"))
		// Two are with the server and three wait: of eight, three come too many.
		statuses := make(chan int, 8)
		for range 8 {
			go func() {
				r, _ := g.get("h", "/")
				statuses <- r.StatusCode
			}()
		}
		for range 3 {
			if got := <-statuses; got != 503 {
				t.Errorf("a request that is too much got %d, want 503", got)
			}
		}
		for range 2 {
			<-entered
		}
		close(release)
		for range 5 {
			if got := <-statuses; got != 200 {
				t.Errorf("a request that waited got %d, want 200", got)
			}
		}
		if most.Load() != 2 {
			t.Errorf("the server had %d requests at once, want 2", most.Load())
		}
	})
}
