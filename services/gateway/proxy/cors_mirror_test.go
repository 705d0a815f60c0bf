package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

func TestPagesOfAllowedOriginsMayUseARoute(t *testing.T) {
	g := newGateway(t)
	rule := to("web")
	rule.CORS = &route.CORS{
		Origins: []string{"https://*.example.com", "https://shop.org:443"}, Credentials: true,
		Methods: []string{"GET", "PUT"}, Headers: []string{"*"}, Expose: []string{"X-Total"}, MaxAge: 60,
	}
	g.rule("", "/", rule)
	g.endpoints("web", route.HTTP1, httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*") // the route's word counts
		if r.Method == http.MethodOptions {
			t.Error("a preflight reached the backend")
		}
	})))
	g.apply()
	ask := func(method, origin string) http.Header {
		t.Helper()
		r, _ := http.NewRequest(method, "http://"+g.address+"/", nil)
		r.Header.Set("Origin", origin)
		if method == http.MethodOptions {
			r.Header.Set("Access-Control-Request-Method", "PUT")
			r.Header.Set("Access-Control-Request-Headers", "x-one, x-two")
		}
		response, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode/100 != 2 || response.Header.Get("Vary") != "Origin" {
			t.Errorf("%s from %s: %d, Vary %q", method, origin, response.StatusCode, response.Header.Get("Vary"))
		}
		return response.Header
	}
	for _, origin := range []string{"https://a.example.com", "https://a.b.EXAMPLE.com:443", "https://shop.org"} {
		h := ask(http.MethodOptions, origin)
		if h.Get("Access-Control-Allow-Origin") != origin || h.Get("Access-Control-Allow-Credentials") != "true" ||
			h.Get("Access-Control-Allow-Methods") != "GET, PUT" || h.Get("Access-Control-Allow-Headers") != "x-one, x-two" || h.Get("Access-Control-Max-Age") != "60" {
			t.Errorf("preflight from %s: %v", origin, h)
		}
		if h := ask(http.MethodGet, origin); h.Get("Access-Control-Allow-Origin") != origin || h.Get("Access-Control-Expose-Headers") != "X-Total" {
			t.Errorf("request from %s: %v", origin, h)
		}
	}
	for _, origin := range []string{"https://example.com", "http://a.example.com", "https://a.example.com:8443", "https://evil.org/.example.com", "null"} {
		for _, method := range []string{http.MethodOptions, http.MethodGet} {
			for name := range ask(method, origin) {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s from %s got %s", method, origin, name)
				}
			}
		}
	}
}

func TestMirrorsGetCopiesAndNobodyWaitsForThem(t *testing.T) {
	g := newGateway(t)
	copies := make(chan string, 8)
	copier := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		copies <- fmt.Sprintf("%s %s %s %q %v", r.Method, r.Host, r.RequestURI, body, err)
		w.WriteHeader(500)
	}))
	t.Cleanup(copier.Close)
	stuck := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stuck }))
	t.Cleanup(slow.Close)
	t.Cleanup(func() { close(stuck) })
	rule := to("web")
	rule.Mirrors = []route.Mirror{
		{Service: servicePort("copy"), Share: 1, Outof: 1}, {Service: servicePort("never"), Share: 0, Outof: 100},
		{Service: servicePort("slow"), Share: 1, Outof: 1}, {Service: servicePort("none"), Share: 1, Outof: 1}, {Invalid: "no such Service", Share: 1, Outof: 1},
	}
	g.rule("", "/", rule)
	g.endpoints("web", route.HTTP1, backend(t, "web"))
	g.endpoints("copy", route.HTTP1, copier)
	g.endpoints("never", route.HTTP1, copier)
	g.endpoints("slow", route.HTTP1, slow)
	g.apply()

	for _, key := range []string{"", "k1"} {
		request, _ := http.NewRequest("POST", "http://"+g.address+"/a?b=c", strings.NewReader("two apples"))
		request.Host = "h"
		if key != "" {
			request.Header.Set("Idempotency-Key", key)
		}
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != 200 || !strings.Contains(string(body), "two apples") {
			t.Errorf("the request itself: %d %s", response.StatusCode, body)
		}
		select {
		case got := <-copies:
			if got != `POST h /a?b=c "two apples" <nil>` {
				t.Errorf("the mirror got %s", got)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the mirror got nothing")
		}
	}
	// A body that is larger than what a stuck mirror takes passes all the same.
	r, err := http.Post("http://"+g.address+"/", "text/plain", io.LimitReader(endless{}, 32<<20))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r.Body); err != nil || n < 32<<20 {
		t.Errorf("%d bytes came back, %v", n, err)
	}
	r.Body.Close()
	<-copies // whole or given up, but told
	if len(copies) > 0 {
		t.Errorf("a mirror with no share got %s", <-copies)
	}
}

// A mirror that must be verified gets copies over TLS, and one that fails that gets none.
func TestCopiesAreSentOverTLSWhereThePolicySaysSo(t *testing.T) {
	server := certificate(t, "bank.internal")
	roots := x509.NewCertPool()
	roots.AddCert(server.Pair.Leaf)
	copies := make(chan string, 8)
	secure := func(name string) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { copies <- name + " " + r.TLS.ServerName }))
		s.TLS = &tls.Config{Certificates: []tls.Certificate{*server.Pair}}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	g := newGateway(t)
	rule := to("web")
	rule.Mirrors = []route.Mirror{
		{Service: servicePort("imposter"), Share: 1, Outof: 1, TLS: &route.BackendTLS{ServerName: "other.internal", Roots: roots}},
		{Service: servicePort("bank"), Share: 1, Outof: 1, TLS: &route.BackendTLS{ServerName: "bank.internal", Roots: roots}},
	}
	g.rule("", "/", rule)
	g.endpoints("web", route.HTTP1, backend(t, "web"))
	g.endpoints("bank", route.HTTP1, secure("bank"))
	g.endpoints("imposter", route.HTTP1, secure("imposter"))
	g.apply()
	for range 2 {
		if r, _ := g.get("h", "/"); r.StatusCode != 200 {
			t.Errorf("the request itself: %d", r.StatusCode)
		}
		select {
		case got := <-copies:
			if got != "bank bank.internal" {
				t.Errorf("a copy went to %s", got)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("no copy arrived")
		}
	}
}

// endless is a text without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}
