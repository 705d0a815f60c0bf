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
	"testing"
	"time"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/guard"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// lines is a server of a protocol that the gateway does not know: it answers
// each line with its name and, when the client has no more to say, with bye.
func lines(t *testing.T, name string, config *tls.Config) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { c.Close() }() // with a farewell where there is TLS
				if config != nil {
					c = tls.Server(c, config)
				}
				in := bufio.NewScanner(c)
				for in.Scan() {
					fmt.Fprintf(c, "%s %s\n", name, in.Text())
				}
				io.WriteString(c, "bye\n")
			}()
		}
	}()
	return netip.MustParseAddrPort(listener.Addr().String())
}

// say sends two lines, ends its side, and returns all that comes back.
func say(t *testing.T, c net.Conn) string {
	t.Helper()
	defer c.Close()
	if _, err := io.WriteString(c, "one\ntwo\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func TestAPortCarriesConnectionsWithoutLookingIntoThem(t *testing.T) {
	g := newGateway(t)
	g.cfg.Listen[5432] = "127.0.0.1:0"
	g.builder.AddRawStream(5432, to("db"))
	dead := netip.MustParseAddrPort("127.0.0.1:1") // nobody listens there: the next one is tried
	g.SetUpstreams([]route.Upstream{{Service: servicePort("db"), Endpoints: []netip.AddrPort{dead, lines(t, "db", nil)}}}, nil)
	address := g.apply()[5432].Address.String()
	for range 4 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if got := say(t, c); got != "db one\ndb two\nbye\n" {
			t.Errorf("got %q", got)
		}
	}
}

func TestAPortChangesWhatItSpeaks(t *testing.T) {
	g := newGateway(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.cfg.Listen[80] = free.Addr().String() // the same address each time
	free.Close()
	cert := certificate(t, "h")
	roots := x509.NewCertPool()
	roots.AddCert(cert.Pair.Leaf)
	g.endpoints("web", route.HTTP1, backend(t, "web"))
	g.SetUpstreams([]route.Upstream{{Service: servicePort("db"), Endpoints: []netip.AddrPort{lines(t, "db", nil)}}}, nil)
	plain := func(b *route.Builder) {
		b.AddRule(80, false, "", route.HostPattern{}, route.Match{Kind: route.Prefix, Path: "/"}, to("web"))
	}
	raw := func(b *route.Builder) { b.AddRawStream(80, to("db")) }
	secure := func(b *route.Builder) {
		b.AddCertificate(80, route.HostPattern{}, cert)
		b.AddRule(80, true, "", route.HostPattern{}, route.Match{Kind: route.Prefix, Path: "/"}, to("web"))
	}
	diverting := func(b *route.Builder) {
		secure(b)
		b.AddSecureListener(80, "other", &route.Secure{Mode: route.Passthrough})
	}
	for i, build := range []func(*route.Builder){plain, raw, plain, secure, diverting, raw, diverting, secure, plain} {
		g.builder = route.NewBuilder()
		build(g.builder)
		address := g.apply()[80].Address.String()
		switch p := g.Table().Ports()[0]; {
		case p.Raw:
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			if got := say(t, c); got != "db one\ndb two\nbye\n" {
				t.Errorf("step %d: got %q", i, got)
			}
		case p.TLS:
			if r := secureGet(t, address, "h", &tls.Config{RootCAs: roots}, false); r.StatusCode != 200 {
				t.Errorf("step %d: %s", i, r.Status)
			}
		default:
			if r, _ := g.get("h", "/"); r.StatusCode != 200 {
				t.Errorf("step %d: %s", i, r.Status)
			}
		}
	}
}

func TestPoliciesKeepConnectionsOut(t *testing.T) {
	g := newGateway(t)
	here := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	cases := map[uint16]struct {
		guard  *guard.Rules
		served bool
	}{
		5001: {&guard.Rules{Addresses: &guard.Addresses{Allow: here}}, true},
		5002: {&guard.Rules{Addresses: &guard.Addresses{Deny: here}}, false},
		5003: {&guard.Rules{Authorization: &guard.Authorization{}}, false},
		5005: {&guard.Rules{Limits: []*guard.Limit{{ID: "one", Name: "one", Requests: 1, Window: time.Hour, Burst: 1}}}, true},
		5004: {&guard.Rules{Broken: "AccessPolicy/test/broken"}, false},
	}
	for port, c := range cases {
		g.cfg.Listen[port] = "127.0.0.1:0"
		rule := to("db")
		rule.Guard = guard.NewPlace(c.guard)
		g.builder.AddRawStream(port, rule)
	}
	g.SetUpstreams([]route.Upstream{{Service: servicePort("db"), Endpoints: []netip.AddrPort{lines(t, "db", nil)}}}, nil)
	bound := g.apply()
	served := func(port uint16) bool {
		conn, err := net.Dial("tcp", bound[port].Address.String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "one\n")
		conn.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(conn) // a refused connection may be reset
		conn.Close()
		return string(answer) == "db one\nbye\n"
	}
	for port, c := range cases {
		if got := served(port); got != c.served {
			t.Errorf("port %d: served %v", port, got)
		}
	}
	if served(5005) {
		t.Error("a limit of one connection let a second one through")
	}
}

// secureStreams is a port with HTTPS, a server name that is passed through and
// one that is decrypted.
func secureStreams(t *testing.T) (address string, roots *x509.CertPool) {
	g := newGateway(t)
	roots = x509.NewCertPool()
	certs := map[string]*route.Certificate{}
	for _, host := range []string{"web.example.com", "a.db.example.com", "queue.example.com"} {
		certs[host] = certificate(t, host)
		roots.AddCert(certs[host].Pair.Leaf)
	}
	g.builder.AddListener(443, true, "web.example.com")
	g.builder.AddCertificate(443, route.HostPattern{Name: "web.example.com"}, certs["web.example.com"])
	g.builder.AddRule(443, true, "web.example.com", route.HostPattern{}, route.Match{Kind: route.Prefix, Path: "/"}, to("web"))
	g.builder.AddSecureListener(443, "*.db.example.com", &route.Secure{Mode: route.Passthrough})
	g.builder.AddStream(443, "*.db.example.com", route.HostPattern{Name: "a.db.example.com"}, to("db"))
	g.builder.AddSecureListener(443, "queue.example.com", &route.Secure{Mode: route.Terminate})
	g.builder.AddCertificate(443, route.HostPattern{Name: "queue.example.com"}, certs["queue.example.com"])
	g.builder.AddStream(443, "queue.example.com", route.HostPattern{Name: "queue.example.com"}, to("queue"))
	g.endpoints("web", route.HTTP1, backend(t, "web"))
	g.SetUpstreams([]route.Upstream{
		{Service: servicePort("db"), Endpoints: []netip.AddrPort{lines(t, "db", &tls.Config{Certificates: []tls.Certificate{*certs["a.db.example.com"].Pair}})}},
		{Service: servicePort("queue"), Endpoints: []netip.AddrPort{lines(t, "queue", nil)}},
	}, nil)
	return g.apply()[443].Address.String(), roots
}

func TestOnePortServesHTTPSAndOtherProtocolsByServerName(t *testing.T) {
	address, roots := secureStreams(t)
	for name, want := range map[string]string{
		"a.db.example.com":  "db one\ndb two\nbye\n",
		"queue.example.com": "queue one\nqueue two\nbye\n",
	} {
		c, err := tls.Dial("tcp", address, &tls.Config{ServerName: name, RootCAs: roots})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := say(t, c); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"b.db.example.com", "elsewhere.org", ""} {
		if c, err := tls.Dial("tcp", address, &tls.Config{ServerName: name, InsecureSkipVerify: true}); err == nil {
			c.Close()
			t.Errorf("server name %q is served, which nobody does", name)
		}
	}
	for _, http2 := range []bool{false, true} {
		response := secureGet(t, address, "web.example.com", &tls.Config{RootCAs: roots}, http2)
		if response.StatusCode != 200 || (response.ProtoMajor == 2) != http2 {
			t.Errorf("HTTPS beside them: HTTP/%d %d", response.ProtoMajor, response.StatusCode)
		}
	}
}

// secureGet asks for https://host/ at an address.
func secureGet(t *testing.T, address, host string, config *tls.Config, http2 bool) *http.Response {
	t.Helper()
	response, err := tryGet(address, host, config, http2)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func tryGet(address, host string, config *tls.Config, http2 bool) (*http.Response, error) {
	client := &http.Transport{
		TLSClientConfig: config, ForceAttemptHTTP2: http2,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
	}
	defer client.CloseIdleConnections()
	r, _ := http.NewRequest("GET", "https://"+host+"/", nil)
	response, err := client.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	response.Body.Close()
	return response, nil
}

func TestListenersAskClientsForCertificates(t *testing.T) {
	g := newGateway(t)
	server, known, stranger := certificate(t, "*.example.com"), certificate(t, "known"), certificate(t, "stranger")
	roots, authorities := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(server.Pair.Leaf)
	authorities.AddCert(known.Pair.Leaf)
	for _, l := range []struct {
		host   string
		secure *route.Secure
	}{
		{"strict.example.com", &route.Secure{ClientCAs: authorities}},
		{"lenient.example.com", &route.Secure{ClientCAs: authorities, Lenient: true}},
		{"open.example.com", nil},
	} {
		g.builder.AddListener(443, true, l.host)
		if l.secure != nil {
			g.builder.AddSecureListener(443, l.host, l.secure)
		}
		g.builder.AddCertificate(443, route.HostPattern{Name: l.host}, server)
		g.builder.AddRule(443, true, l.host, route.HostPattern{}, route.Match{Kind: route.Prefix, Path: "/"}, to("web"))
	}
	g.endpoints("web", route.HTTP1, backend(t, "web"))
	address := g.apply()[443].Address.String()
	for _, c := range []struct {
		host   string
		client *route.Certificate
		served bool
	}{
		{"strict.example.com", known, true},
		{"strict.example.com", stranger, false},
		{"strict.example.com", nil, false},
		{"lenient.example.com", stranger, true},
		{"lenient.example.com", nil, true},
		{"open.example.com", nil, true},
	} {
		config := &tls.Config{RootCAs: roots}
		who := "nobody"
		if c.client != nil {
			who = c.client.Source
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.client.Pair, nil }
		}
		if _, err := tryGet(address, c.host, config, false); (err == nil) != c.served {
			t.Errorf("%s for %s: %v", c.host, who, err)
		}
	}
}

func TestBackendsAreVerifiedAsTheirPolicySays(t *testing.T) {
	server, client := certificate(t, "bank.internal"), certificate(t, "gateway")
	roots, clients := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(server.Pair.Leaf)
	clients.AddCert(client.Pair.Leaf)
	bank := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "HTTP/%d %s", r.ProtoMajor, r.TLS.ServerName)
	}))
	bank.TLS = &tls.Config{Certificates: []tls.Certificate{*server.Pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	bank.EnableHTTP2 = true
	bank.StartTLS()
	t.Cleanup(bank.Close)

	g := newGateway(t)
	cases := map[string]struct {
		tls    *route.BackendTLS
		http2  bool
		status int
		body   string
	}{
		"/right":    {&route.BackendTLS{ServerName: "bank.internal", Roots: roots, Client: client}, false, 200, "HTTP/1 bank.internal"},
		"/http2":    {&route.BackendTLS{ServerName: "bank.internal", Roots: roots, Client: client}, true, 200, "HTTP/2 bank.internal"},
		"/san":      {&route.BackendTLS{ServerName: "other.internal", Names: []string{"x.org", "*.internal"}, Roots: roots, Client: client}, false, 200, "HTTP/1 other.internal"},
		"/name":     {&route.BackendTLS{ServerName: "other.internal", Roots: roots, Client: client}, false, 502, ""},
		"/wrongsan": {&route.BackendTLS{ServerName: "bank.internal", Names: []string{"x.org"}, URIs: []string{"spiffe://x"}, Roots: roots, Client: client}, false, 502, ""},
		"/roots":    {&route.BackendTLS{ServerName: "bank.internal", Roots: clients, Client: client}, false, 502, ""},
		"/sanroots": {&route.BackendTLS{ServerName: "bank.internal", Names: []string{"bank.internal"}, Roots: clients, Client: client}, false, 502, ""},
		"/noclient": {&route.BackendTLS{ServerName: "bank.internal", Roots: roots}, false, 502, ""},
	}
	for path, c := range cases {
		rule := to("bank")
		rule.Backends[0].TLS, rule.Backends[0].HTTP2 = c.tls, c.http2
		g.rule("", path, rule)
	}
	g.endpoints("bank", route.HTTP1, bank)
	g.apply()
	for range 2 { // the second time over kept connections
		for path, c := range cases {
			if response, body := g.get("h", path); response.StatusCode != c.status || c.body != "" && body != c.body {
				t.Errorf("%s: %d %s, want %d %s", path, response.StatusCode, body, c.status, c.body)
			}
		}
	}
}

func TestAProxyNamesTheClient(t *testing.T) {
	g := newGateway(t)
	g.cfg.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	g.cfg.Listen[5432] = "127.0.0.1:0"
	g.rule("", "/", to("web"))
	g.builder.AddRawStream(5432, to("db"))
	g.endpoints("web", route.HTTP1, backend(t, "web"))
	g.SetUpstreams([]route.Upstream{{Service: servicePort("db"), Endpoints: []netip.AddrPort{lines(t, "db", nil)}}}, nil)
	raw := g.apply()[5432].Address.String()

	ask := func(address, text string) string {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, text)
		if address == raw {
			c.(*net.TCPConn).CloseWrite()
		}
		answer, _ := io.ReadAll(c) // a refused connection may be reset
		return string(answer)
	}
	header := "PROXY TCP4 192.0.2.77 10.0.0.1 49152 80\r\n"
	plain := "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
	unusual := "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, close\r\nUpgrade: x\r\n\r\n" // net/http has this one
	for _, request := range []string{plain, unusual} {
		if got := ask(g.address, header+request); !strings.Contains(got, "X-Forwarded-For: 192.0.2.77\r\n") {
			t.Errorf("%q was answered with %q", request, got)
		}
		if got := ask(g.address, request); strings.Contains(got, "200") {
			t.Errorf("a connection that names nobody was answered with %q", got)
		}
	}
	if got := ask(raw, header+"one\n"); got != "db one\nbye\n" {
		t.Errorf("stream: %q", got)
	}
	if got := ask(raw, "one\n"); got != "" {
		t.Errorf("stream that names nobody: %q", got)
	}
	if err := g.Shutdown(context.Background(), eventloop.Farewell, nil); err != nil {
		t.Error(err)
	}
	for _, want := range []string{`"192.0.2.77:49152"`, `"protocol":"TCP"`} {
		if !strings.Contains(g.log.String(), want) {
			t.Errorf("the log has no %s: %s", want, g.log)
		}
	}
}
