package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/demand"
	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/proxy"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// Who follows the demand sees requests that wait, that are served, and that are over; and
// counts on when the gateway is replaced by another one.
func TestTheDemandIsFollowed(t *testing.T) {
	release := make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer backend.Close()
	at := route.Upstream{
		Service: route.ServicePort{Namespace: "shop", Name: "web", Port: 80},
		Scaled:  &route.Scaled{Waiting: 10, Bytes: 1 << 20, Patience: 10 * time.Second},
	}
	dataPlane, err := proxy.New(proxy.Config{Listen: map[uint16]string{80: "127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer dataPlane.Shutdown(context.Background(), eventloop.Farewell, nil)
	table := route.NewBuilder()
	table.AddRule(80, false, "", route.HostPattern{}, route.Match{Kind: route.Prefix, Path: "/"},
		&route.Rule{Route: "HTTPRoute/shop/web", Backends: []route.Backend{{Service: at.Service, Weight: 1}}})
	var address netip.AddrPort
	for _, binding := range dataPlane.SetTable(table.Build()) {
		address = binding.Address
	}
	dataPlane.SetUpstreams([]route.Upstream{at}, nil)

	admin := httptest.NewServer(streamDemand(dataPlane.Upstreams()))
	defer admin.Close()
	follower, err := demand.NewFollower(admin.URL, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		follower.Run(ctx)
	}()
	defer func() {
		stop()
		<-followed
	}()
	name := demand.Name{Namespace: "shop", Service: "web"}
	becomes := func(want demand.State) {
		t.Helper()
		limit := time.After(10 * time.Second)
		for {
			changed := follower.Changed()
			got, known := follower.Of(name)
			if known && got == want {
				return
			}
			select {
			case <-changed:
			case <-limit:
				t.Fatalf("the demand is %+v (%v), want %+v", got, known, want)
			}
		}
	}
	becomes(demand.State{})
	ask := func(n int) (done chan int) {
		done = make(chan int, n)
		for range n {
			go func() {
				response, err := http.Get("http://" + address.String())
				if err != nil {
					done <- 0
					return
				}
				response.Body.Close()
				done <- response.StatusCode
			}()
		}
		return done
	}
	done := ask(3)
	becomes(demand.State{Requests: 3, Waiting: 3})
	at.Endpoints = []netip.AddrPort{netip.MustParseAddrPort(backend.Listener.Addr().String())}
	dataPlane.SetUpstreams([]route.Upstream{at}, nil)
	becomes(demand.State{Requests: 3, InFlight: 3, Endpoints: 1})
	close(release)
	for range 3 {
		if status := <-done; status != http.StatusOK {
			t.Errorf("a request that waited got %d", status)
		}
	}
	becomes(demand.State{Requests: 3, Endpoints: 1})

	gone := follower.Changed()
	admin.CloseClientConnections() // as when the gateway is replaced
	<-gone
	becomes(demand.State{Requests: 3, Endpoints: 1})
	<-ask(1)
	becomes(demand.State{Requests: 4, Endpoints: 1})
	dataPlane.SetUpstreams(nil, []route.ServicePort{at.Service})
	for limit := time.After(10 * time.Second); ; {
		changed := follower.Changed()
		if _, known := follower.Of(name); !known {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatal("a Service that is gone is still followed")
		}
	}
}
