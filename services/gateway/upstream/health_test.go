package upstream

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// asks probes a real server once.
func asks(t *testing.T, at net.Addr, protocol route.Protocol, h *route.HealthCheck) error {
	t.Helper()
	e := newEndpoint(netip.MustParseAddrPort(at.String()), protocol, time.Second)
	t.Cleanup(e.closeIdle)
	h.Timeout = 10 * time.Second
	return probe(context.Background(), e, h)
}

func TestHTTPHealthChecks(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Host + r.URL.Path {
		case "web.local/healthz":
			w.WriteHeader(204)
		case "web.local/teapot":
			w.WriteHeader(418)
		default:
			w.WriteHeader(503)
		}
	}))
	defer s.Close()
	for _, c := range []struct {
		check route.HealthCheck
		good  bool
	}{
		{route.HealthCheck{Path: "/healthz", Host: "web.local"}, true},
		{route.HealthCheck{Path: "/healthz"}, false},
		{route.HealthCheck{}, false},
		{route.HealthCheck{Path: "/teapot", Host: "web.local"}, false},
		{route.HealthCheck{Path: "/teapot", Host: "web.local", Statuses: []int{200, 418}}, true},
		{route.HealthCheck{Path: "/healthz", Host: "web.local", Statuses: []int{200}}, false},
		{route.HealthCheck{Kind: route.CheckTCP}, true},
	} {
		if err := asks(t, s.Listener.Addr(), route.HTTP1, &c.check); (err == nil) != c.good {
			t.Errorf("%s: %v", &c.check, err)
		}
	}
}

func TestGRPCHealthChecks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, state := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, state)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	state.SetServingStatus("shop.Web", grpc_health_v1.HealthCheckResponse_SERVING)
	state.SetServingStatus("shop.Old", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	for service, good := range map[string]bool{"": true, "shop.Web": true, "shop.Old": false, "shop.None": false} {
		if err := asks(t, l.Addr(), route.H2C, &route.HealthCheck{Kind: route.CheckGRPC, Service: service}); (err == nil) != good {
			t.Errorf("service %q: %v", service, err)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for kind := range route.CheckTCP + 1 {
		if asks(t, l.Addr(), route.H2C, &route.HealthCheck{Kind: kind}) == nil {
			t.Errorf("check %d passes", kind)
		}
	}
}
