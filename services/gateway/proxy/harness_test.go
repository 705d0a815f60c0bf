package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// gateway is a data plane under test, with its address for port 80.
type gateway struct {
	*Server
	t       testing.TB
	address string
	builder *route.Builder
	log     *lockedBuffer
	metrics *prometheus.Registry
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func newGateway(t testing.TB, edit ...func(*Config)) *gateway {
	g := &gateway{t: t, builder: route.NewBuilder(), log: &lockedBuffer{}, metrics: prometheus.NewRegistry()}
	cfg := Config{
		Listen:    map[uint16]string{80: "127.0.0.1:0", 443: "127.0.0.1:0"},
		AccessLog: g.log,
		Registry:  g.metrics,
	}
	for _, e := range edit {
		e(&cfg)
	}
	server, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.Server = server
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := g.Shutdown(ctx, eventloop.Farewell, nil); err != nil {
			t.Errorf("shut down: %v", err)
		}
	})
	return g
}

// apply builds the table and opens its ports.
func (g *gateway) apply() map[uint16]Binding {
	g.t.Helper()
	bindings := map[uint16]Binding{} // all at the shared address
	for at, b := range g.SetTable(g.builder.Build()) {
		bindings[at.Port()] = b
	}
	for port, b := range bindings {
		if b.Err != nil {
			g.t.Fatalf("open port %d: %v", port, b.Err)
		}
	}
	if b, ok := bindings[80]; ok {
		g.address = b.Address.String()
	}
	return bindings
}

func (g *gateway) rule(host, path string, r *route.Rule) {
	g.builder.AddRule(80, false, "", route.HostPattern{Name: host}, route.Match{Kind: route.Prefix, Path: path}, r)
}

// to is a rule with one backend.
func to(service string) *route.Rule {
	return &route.Rule{Route: "HTTPRoute/test/" + service, Backends: []route.Backend{{Service: servicePort(service), Weight: 1}}}
}

func servicePort(service string) route.ServicePort {
	return route.ServicePort{Namespace: "test", Name: service, Port: 80}
}

// endpoints tells the data plane what stands behind a service.
func (g *gateway) endpoints(service string, protocol route.Protocol, servers ...*httptest.Server) {
	u := route.Upstream{Service: servicePort(service), Protocol: protocol}
	for _, s := range servers {
		u.Endpoints = append(u.Endpoints, netip.MustParseAddrPort(s.Listener.Addr().String()))
	}
	g.SetUpstreams([]route.Upstream{u}, nil)
}

// backend is a server that answers with its name and what it got.
func backend(t *testing.T, name string) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Backend", name)
		fmt.Fprintf(w, "%s %s %s %s\n", r.Method, r.Host, r.RequestURI, body)
		r.Header.Write(w)
	}))
	t.Cleanup(s.Close)
	return s
}

// get sends a request for a host and path and returns status, backend and body.
func (g *gateway) get(host, path string, edit ...func(*http.Request)) (*http.Response, string) {
	g.t.Helper()
	r, err := http.NewRequest("GET", "http://"+g.address+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	r.Host = host
	for _, e := range edit {
		e(r)
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return response, string(body)
}

// problemOf checks that a response is a problem document with this status.
func problemOf(t *testing.T, r *http.Response, body string, status int) {
	t.Helper()
	var doc struct {
		Title, Detail string
		Status        int
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatalf("status %d with body %q is no problem document: %v", r.StatusCode, body, err)
	}
	if r.StatusCode != status || doc.Status != status || doc.Detail == "" || r.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d %+v, want a problem with status %d", r.StatusCode, doc, status)
	}
}
