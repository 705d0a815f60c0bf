package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

func TestRequestsGoToTheServiceOfTheirHostAndPath(t *testing.T) {
	g := newGateway(t)
	g.rule("shop.example.com", "/", to("web"))
	g.rule("shop.example.com", "/api", to("api"))
	g.endpoints("web", route.HTTP1, backend(t, "web"))
	g.endpoints("api", route.HTTP1, backend(t, "api"))
	g.apply()

	for path, want := range map[string]string{"/": "web", "/apiary": "web", "/api": "api", "/api/v1?q=%zz;a": "api"} {
		r, body := g.get("Shop.Example.com:8080", path)
		if r.StatusCode != 200 || r.Header.Get("Backend") != want {
			t.Errorf("%s: status %d from %q, want 200 from %q", path, r.StatusCode, r.Header.Get("Backend"), want)
		}
		if !strings.HasPrefix(body, "GET Shop.Example.com:8080 "+path+" ") {
			t.Errorf("the backend saw %q", body)
		}
		for _, header := range []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http\r", "X-Forwarded-Host: Shop.Example.com:8080"} {
			if !strings.Contains(body, header) {
				t.Errorf("%s is missing in %q", header, body)
			}
		}
	}
	r, body := g.get("other.example.com", "/")
	problemOf(t, r, body, 404)
	r, body = g.get("shop.example.com", "/api/%2e%2e/admin")
	problemOf(t, r, body, 400)
	_, body = g.get("shop.example.com", "/", func(r *http.Request) { r.Header.Set("X-Forwarded-For", "10.9.9.9") })
	if strings.Contains(body, "10.9.9.9") {
		t.Error("a client could forge X-Forwarded-For")
	}
	g.access.Flush()
	if log := g.log.String(); !strings.Contains(log, `"route":"HTTPRoute/test/api"`) || strings.Contains(log, "q=") {
		t.Errorf("access log: %s", log)
	}
}

func TestWeightsShareTheRequests(t *testing.T) {
	g := newGateway(t)
	g.rule("", "/", &route.Rule{Backends: []route.Backend{
		{Service: servicePort("v1"), Weight: 90}, {Service: servicePort("v2"), Weight: 10}, {Service: servicePort("off"), Weight: 0},
	}})
	g.endpoints("v1", route.HTTP1, backend(t, "v1"))
	g.endpoints("v2", route.HTTP1, backend(t, "v2"))
	g.apply()
	seen := map[string]int{}
	for range 1000 {
		r, _ := g.get("h", "/")
		seen[r.Header.Get("Backend")]++
	}
	if v2 := seen["v2"]; v2 < 50 || v2 > 160 || seen["v1"] != 1000-v2 {
		t.Errorf("of 1000 requests %v", seen)
	}
}

func TestFiltersChangeRequestsAndResponses(t *testing.T) {
	g := newGateway(t)
	rule := to("web")
	rule.Filters = route.Filters{
		Request:  &route.HeaderChange{Set: []route.Header{{Name: "X-Env", Value: "prod"}}, Add: []route.Header{{Name: "X-Via", Value: "g"}}, Remove: []string{"X-Debug"}},
		Response: &route.HeaderChange{Set: []route.Header{{Name: "Backend", Value: "hidden"}}},
		Rewrite:  &route.Rewrite{Host: "internal", Path: &route.PathChange{Value: "/new"}},
	}
	g.rule("", "/old", rule)
	g.rule("", "/moved", &route.Rule{Redirect: &route.Redirect{Scheme: "https", Host: "example.org", Path: &route.PathChange{Value: "/"}, Status: 301}})
	g.rule("", "/here", &route.Rule{Redirect: &route.Redirect{Status: 302, Path: &route.PathChange{Full: true, Value: "/there"}}})
	g.endpoints("web", route.HTTP1, backend(t, "web"))
	g.apply()

	r, body := g.get("h", "/old/a%2Fb?q=1", func(r *http.Request) {
		r.Header.Set("X-Env", "dev")
		r.Header.Set("X-Via", "me")
		r.Header.Set("X-Debug", "1")
	})
	if !strings.HasPrefix(body, "GET internal /new/a%2Fb?q=1 ") || !strings.Contains(body, "X-Env: prod\r\nX-Forwarded") ||
		!strings.Contains(body, "X-Via: me\r\nX-Via: g\r\n") || strings.Contains(body, "X-Debug") || r.Header.Get("Backend") != "hidden" {
		t.Errorf("the backend saw %q, the client %v", body, r.Header)
	}
	r, _ = g.get("h", "/moved/x?q=1")
	if got := r.Header.Get("Location"); r.StatusCode != 301 || got != "https://example.org:443/x?q=1" && got != "https://example.org/x?q=1" {
		t.Errorf("redirected with %d to %q", r.StatusCode, got)
	}
	r, _ = g.get("h", "/here")
	if got, want := r.Header.Get("Location"), "http://h:"+g.address[strings.LastIndex(g.address, ":")+1:]+"/there"; got != want {
		t.Errorf("redirected to %q, want %q", got, want)
	}
}

func TestWhatCannotBeServedIsExplained(t *testing.T) {
	g := newGateway(t)
	stuck := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stuck }))
	t.Cleanup(slow.Close)
	t.Cleanup(func() { close(stuck) })
	dead := backend(t, "dead")
	dead.Close()
	timeout, backendTimeout := to("slow"), to("slow")
	timeout.RequestTimeout, backendTimeout.BackendTimeout = 20*time.Millisecond, 20*time.Millisecond
	for path, rule := range map[string]*route.Rule{
		"/empty": to("empty"), "/unknown": to("unknown"), "/dead": to("dead"),
		"/timeout": timeout, "/backend-timeout": backendTimeout,
		"/invalid":  {Invalid: "filter X is not supported"},
		"/refused":  {Backends: []route.Backend{{Weight: 1, Invalid: "Service does not exist"}}},
		"/unweight": {Backends: []route.Backend{{Weight: 0}}},
	} {
		g.rule("", path, rule)
	}
	g.endpoints("empty", route.HTTP1)
	g.endpoints("dead", route.HTTP1, dead)
	g.endpoints("slow", route.HTTP1, slow)
	g.apply()
	for path, status := range map[string]int{
		"/empty": 503, "/unknown": 503, "/dead": 502, "/timeout": 504, "/backend-timeout": 504,
		"/invalid": 500, "/refused": 500, "/unweight": 500, "/nowhere": 404,
	} {
		r, body := g.get("h", path)
		problemOf(t, r, body, status)
	}
}

func TestARequestIsSentToAnotherEndpointWhenOneIsGone(t *testing.T) {
	g := newGateway(t)
	g.rule("", "/", to("web"))
	alive, dead := backend(t, "alive"), backend(t, "dead")
	dead.Close()
	g.endpoints("web", route.HTTP1, alive, dead)
	g.apply()
	for i := range 50 {
		r, err := http.Post("http://"+g.address+"/", "text/plain", strings.NewReader("a body that must arrive whole"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != 200 || !strings.Contains(string(body), "a body that must arrive whole") {
			t.Fatalf("request %d: %d %s", i, r.StatusCode, body)
		}
	}
}

func TestARequestWithAnIdempotencyKeyIsRepeatedWhenTheConnectionBreaks(t *testing.T) {
	g := newGateway(t)
	g.rule("", "/", to("web"))
	breaks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		conn.Close()
	}))
	t.Cleanup(breaks.Close)
	g.endpoints("web", route.HTTP1, breaks, backend(t, "works"))
	g.apply()
	for _, key := range []string{"order-1", ""} {
		failed := 0
		for range 10 {
			r, _ := http.NewRequest("POST", "http://"+g.address+"/", strings.NewReader("two apples"))
			if key != "" {
				r.Header.Set("Idempotency-Key", key)
			}
			response, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode == 502 {
				failed++
			} else if !strings.Contains(string(body), "two apples") {
				t.Errorf("key %q: %d %s", key, response.StatusCode, body)
			}
		}
		if key != "" && failed > 0 || key == "" && failed == 0 {
			t.Errorf("with key %q %d of 10 requests failed", key, failed)
		}
	}
}

func TestWebSocketsAreForwarded(t *testing.T) {
	g := newGateway(t)
	rule := to("echo")
	rule.RequestTimeout = 50 * time.Millisecond // must not cut a connection that was upgraded
	g.rule("", "/", rule)
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		rw.Flush()
		io.Copy(conn, rw)
	}))
	t.Cleanup(echo.Close)
	g.endpoints("echo", route.HTTP1, echo)
	g.apply()

	conn, err := net.Dial("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != 101 || response.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("upgrade: %v %+v", err, response)
	}
	deadline := time.Now().Add(150 * time.Millisecond)
	for n := 0; n < 3 || time.Now().Before(deadline); n++ {
		message := fmt.Sprintf("message %d\n", n)
		fmt.Fprint(conn, message)
		if got, err := reader.ReadString('\n'); err != nil || got != message {
			t.Fatalf("echo of %q: %q, %v", message, got, err)
		}
	}
}

// grpcLike is an HTTP/2 server without TLS that answers with trailers, as a
// gRPC server does.
func grpcLike(t *testing.T) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" {
			w.WriteHeader(http.StatusHTTPVersionNotSupported)
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		w.Header().Set("Content-Type", "application/grpc")
		io.Copy(w, r.Body)
		w.Header().Set("Grpc-Status", "0")
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func TestGRPCPassesWithoutTLSFromEndToEnd(t *testing.T) {
	g := newGateway(t)
	g.rule("", "/", to("grpc"))
	g.endpoints("grpc", route.H2C, grpcLike(t))
	g.apply()
	client := &http.Transport{Protocols: new(http.Protocols)}
	client.Protocols.SetUnencryptedHTTP2(true)
	defer client.CloseIdleConnections()
	r, _ := http.NewRequest("POST", "http://"+g.address+"/shop.Orders/List", strings.NewReader("message"))
	r.Header.Set("Te", "trailers")
	r.Header.Set("Content-Type", "application/grpc")
	response, err := client.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if response.ProtoMajor != 2 || string(body) != "message" || response.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("HTTP/%d %d %q, trailer %v", response.ProtoMajor, response.StatusCode, body, response.Trailer)
	}
}

func TestTLSCertificatesFollowTheServerName(t *testing.T) {
	g := newGateway(t)
	roots := x509.NewCertPool()
	g.builder.AddListener(443, true, "")
	for _, host := range []string{"a.example.com", "b.example.com"} {
		cert := certificate(t, host)
		roots.AddCert(cert.Pair.Leaf)
		g.builder.AddCertificate(443, route.HostPattern{Name: host}, cert)
		g.builder.AddListener(443, true, host)
		g.builder.AddRule(443, true, host, route.HostPattern{Name: host}, route.Match{Kind: route.Prefix, Path: "/"}, to("web"))
	}
	g.endpoints("web", route.HTTP1, backend(t, "web"))
	address := g.apply()[443].Address.String()

	client := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
	}
	defer client.CloseIdleConnections()
	for _, host := range []string{"a.example.com", "b.example.com"} {
		r, _ := http.NewRequest("GET", "https://"+host+"/", nil)
		response, err := client.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != 200 || response.ProtoMajor != 2 || !strings.Contains(string(body), "X-Forwarded-Proto: https") {
			t.Errorf("%s: HTTP/%d %d %s", host, response.ProtoMajor, response.StatusCode, body)
		}
	}
	r, _ := http.NewRequest("GET", "https://a.example.com/", nil)
	r.Host = "b.example.com"
	response, err := client.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	response.Body.Close()
	problemOf(t, response, string(body), http.StatusMisdirectedRequest)
	if _, err := tls.Dial("tcp", address, &tls.Config{ServerName: "c.example.com", RootCAs: roots}); err == nil {
		t.Error("a server name without certificate got one")
	}
}

func TestEndpointsComeAndGoUnderLoadWithoutAFailedRequest(t *testing.T) {
	g := newGateway(t)
	g.rule("", "/", to("web"))
	stable := backend(t, "stable")
	g.endpoints("web", route.HTTP1, stable)
	g.apply()

	var sent, failed atomic.Int64
	var load sync.WaitGroup
	stop, progress := make(chan struct{}), make(chan struct{})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	for worker := range 8 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				case progress <- struct{}{}:
				default:
				}
				r, _ := http.NewRequest("GET", "http://"+g.address+"/", nil)
				if worker%2 == 0 {
					r, _ = http.NewRequest("POST", "http://"+g.address+"/", strings.NewReader("x"))
				}
				response, err := client.Do(r)
				sent.Add(1)
				if err != nil {
					failed.Add(1)
					t.Errorf("request failed: %v", err)
					continue
				}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
				if response.StatusCode != 200 {
					failed.Add(1)
					t.Errorf("status %d", response.StatusCode)
				}
			}
		})
	}
	// Each generation is a new pod: it enters when it listens, leaves, and stops
	// when the gateway has no request in flight there any more. Before that it
	// would lose POST requests that are on their way, which nobody may send twice
	// (RFC 9110, section 9.2.2).
	var old *httptest.Server
	for generation := range 100 {
		leaving := g.upstreams.Get(servicePort("web")).Endpoints()
		fresh := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
		}))
		g.endpoints("web", route.HTTP1, stable, fresh)
		for range 20 {
			<-progress
		}
		for _, e := range leaving {
			for e.Removed() && e.InFlight() > 0 {
				<-progress
			}
		}
		if old != nil {
			if err := old.Config.Shutdown(context.Background()); err != nil {
				t.Fatalf("generation %d: %v", generation, err)
			}
		}
		old = fresh
	}
	close(stop)
	load.Wait()
	old.Close()
	t.Logf("%d requests, %d failed, in 100 changes of endpoints", sent.Load(), failed.Load())
}

func TestRequestsInFlightFinishWhenTheirEndpointOrPortGoes(t *testing.T) {
	g := newGateway(t)
	g.rule("", "/", to("web"))
	arrived, release := make(chan struct{}), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		fmt.Fprint(w, "finished")
	}))
	t.Cleanup(slow.Close)
	g.endpoints("web", route.HTTP1, slow)
	g.apply()

	answer := make(chan string)
	go func() {
		_, body := g.get("h", "/")
		answer <- body
	}()
	<-arrived
	g.endpoints("web", route.HTTP1)
	if r, body := g.get("h", "/"); r.StatusCode != 503 {
		t.Errorf("a removed endpoint got a new request: %d %s", r.StatusCode, body)
	}
	g.SetTable(route.NewBuilder().Build()) // the port is no longer in the table
	close(release)
	if got := <-answer; got != "finished" {
		t.Errorf("the request in flight got %q", got)
	}
}

func TestATableThatCannotBindAPortServesTheOthers(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	g := newGateway(t)
	g.cfg.Listen[81] = taken.Addr().String()
	g.rule("", "/", to("web"))
	g.builder.AddListener(81, false, "")
	bindings := g.SetTable(g.builder.Build())
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.Addr{}, port) }
	if bindings[at(81)].Err == nil || bindings[at(80)].Err != nil {
		t.Errorf("bindings: %+v", bindings)
	}
}

func TestASuccessorBindsOnlyWhenATakeOverIsMeant(t *testing.T) {
	g := newGateway(t)
	g.rule("", "/", to("web"))
	g.apply()
	if l, err := listen(g.address, false); err == nil {
		l.Close()
		t.Error("a second gateway took part of the connections by accident")
	}
	l, err := listen(g.address, true)
	if err != nil {
		t.Fatalf("take over: %v", err)
	}
	l.Close()
}
