package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gantryhq/gantry/services/gateway/audit"
	"github.com/gantryhq/gantry/services/gateway/guard"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// bothPaths runs a story for requests that the event loop carries and for those
// that net/http does.
func bothPaths(t *testing.T, story func(t *testing.T, path func(*http.Request))) {
	t.Run("event loop", func(t *testing.T) { story(t, func(*http.Request) {}) })
	t.Run("net/http", func(t *testing.T) { story(t, func(r *http.Request) { r.Header.Set("TE", "trailers") }) })
}

func with(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Add(name, value) }
}

// guarded is a gateway with one route whose policies demand something.
func guarded(t *testing.T, rules *guard.Rules, edit ...func(*route.Rule)) *gateway {
	g := newGateway(t)
	rule := to("web")
	rule.Guard = guard.NewPlace(rules)
	for _, e := range edit {
		e(rule)
	}
	g.rule("shop.example.com", "/", rule)
	g.apply()
	g.endpoints("web", route.HTTP1, backend(t, "web"))
	return g
}

func keysOf(t *testing.T, keys map[string]string) *guard.Authentication {
	t.Helper()
	k := &guard.Keys{Headers: []string{"X-API-Key"}}
	for client, key := range keys {
		if err := k.Add(client, key, "X-Client"); err != nil {
			t.Fatal(err)
		}
	}
	a := &guard.Authentication{Policy: "AccessPolicy/test/keys", Keys: k, ClientField: "X-Client"}
	a.Seal()
	return a
}

func TestAClientIsToldToBackendsAndNobodyElseIs(t *testing.T) {
	bothPaths(t, func(t *testing.T, path func(*http.Request)) {
		g := guarded(t, &guard.Rules{Authentication: keysOf(t, map[string]string{"acme": "sesame"})})
		r, body := g.get("shop.example.com", "/", path)
		problemOf(t, r, body, 401)
		if r.Header.Get("WWW-Authenticate") == "" || !strings.Contains(body, `"policy":"AccessPolicy/test/keys"`) || !strings.Contains(body, guard.ProblemType+"unauthenticated") {
			t.Errorf("refused with %v %s", r.Header, body)
		}
		r, body = g.get("shop.example.com", "/", path, with("X-API-Key", "wrong"))
		problemOf(t, r, body, 401)
		r, body = g.get("shop.example.com", "/", path, with("X-API-Key", "sesame"),
			with("X-Client", "root"), with("X_Client", "root"), with("x-client", "root"), with("Connection", "X-Client"))
		if r.StatusCode != 200 || !strings.Contains(body, "X-Client: acme\r\n") || strings.Contains(body, "root") || strings.Contains(body, "sesame") {
			t.Errorf("got %d, the backend saw %q", r.StatusCode, body)
		}
	})
}

func TestLimitsHoldOnBothPathsTogether(t *testing.T) {
	g := guarded(t, &guard.Rules{Limits: []*guard.Limit{{ID: "a", Name: "burst", Policy: "TrafficPolicy/test/a", Requests: 4, Window: time.Hour, Burst: 4}}})
	for i := range 4 {
		edit := func(*http.Request) {}
		if i%2 == 1 {
			edit = with("TE", "trailers")
		}
		// What a client says about its address makes no difference.
		r, _ := g.get("shop.example.com", "/", edit, with("X-Forwarded-For", netip.AddrFrom4([4]byte{1, 1, 1, byte(i)}).String()))
		if r.StatusCode != 200 || !strings.HasPrefix(r.Header.Get("RateLimit"), `"burst";r=`) || r.Header.Get("RateLimit-Policy") != `"burst";q=4;w=3600` {
			t.Fatalf("request %d: %d %v", i, r.StatusCode, r.Header)
		}
	}
	for _, edit := range []func(*http.Request){func(*http.Request) {}, with("TE", "trailers")} {
		r, body := g.get("shop.example.com", "/", edit, with("X-Forwarded-For", "9.9.9.9"))
		problemOf(t, r, body, 429)
		if r.Header.Get("Retry-After") == "" || r.Header.Get("RateLimit") == "" {
			t.Errorf("refused with %v", r.Header)
		}
	}
	if log := g.log; log != nil {
		g.access.Flush()
		if n := strings.Count(log.String(), `"status":429`); n != 2 {
			t.Errorf("the access log has %d refusals, want 2:\n%s", n, log)
		}
	}
}

func TestBodiesAreBounded(t *testing.T) {
	bothPaths(t, func(t *testing.T, path func(*http.Request)) {
		g := guarded(t, &guard.Rules{MaxBody: &guard.MaxBody{Policy: "TrafficPolicy/test/a", Bytes: 1000}})
		post := func(n int, length int64) func(*http.Request) {
			return func(r *http.Request) {
				r.Method, r.Body, r.ContentLength = "POST", io.NopCloser(strings.NewReader(strings.Repeat("x", n))), length
			}
		}
		for _, c := range []struct {
			n      int
			length int64
			status int
		}{{1000, 1000, 200}, {1001, 1001, 413}, {1000, -1, 200}, {100_000, -1, 413}} {
			r, body := g.get("shop.example.com", "/", path, post(c.n, c.length))
			if r.StatusCode != c.status {
				t.Errorf("%d bytes with length %d: %d, want %d", c.n, c.length, r.StatusCode, c.status)
			}
			if c.status == 413 {
				problemOf(t, r, body, 413)
			}
		}
	})
}

func TestRedirectsDoNotAskWhoItIs(t *testing.T) {
	deny := &guard.Addresses{Policy: "AccessPolicy/test/a", Deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	redirect := func(r *route.Rule) { r.Redirect = &route.Redirect{Scheme: "https", Status: 301} }
	g := guarded(t, &guard.Rules{Authentication: keysOf(t, map[string]string{"a": "b"})}, redirect)
	if r, _ := g.get("shop.example.com", "/"); r.StatusCode != 301 {
		t.Errorf("a redirect answers %d", r.StatusCode)
	}
	g = guarded(t, &guard.Rules{Addresses: deny}, redirect)
	r, body := g.get("shop.example.com", "/")
	problemOf(t, r, body, 403)
}

func TestTheClientBehindATrustedProxyIsCounted(t *testing.T) {
	bothPaths(t, func(t *testing.T, path func(*http.Request)) {
		g := guarded(t, &guard.Rules{Limits: []*guard.Limit{{ID: "a", Name: "burst", Requests: 1, Window: time.Hour, Burst: 1}}})
		g.cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		for _, c := range []struct {
			forwarded []string
			status    int
		}{
			{[]string{"192.0.2.1"}, 200},
			{[]string{"192.0.2.2"}, 200},
			{[]string{"192.0.2.1"}, 429},
			{[]string{"6.6.6.6, 192.0.2.1"}, 429},
			{[]string{"6.6.6.6", "192.0.2.1"}, 429},
			{[]string{"192.0.2.1, 127.0.0.2"}, 429},
			{[]string{"6.6.6.6, 192.0.2.1", "127.0.0.2"}, 429},
		} {
			r, _ := g.get("shop.example.com", "/", path, func(r *http.Request) { r.Header["X-Forwarded-For"] = c.forwarded })
			if r.StatusCode != c.status {
				t.Errorf("forwarded for %q: %d, want %d", c.forwarded, r.StatusCode, c.status)
			}
		}
	})
}

func TestSecurityHeadersOnBothPaths(t *testing.T) {
	bothPaths(t, func(t *testing.T, path func(*http.Request)) {
		harden := guard.NewHarden("TrafficPolicy/test/a", []guard.ClaimField{{Claim: "DENY", Name: "X-Frame-Options"}},
			[]guard.ClaimField{{Claim: "max-age=1", Name: "Strict-Transport-Security"}}, []string{"Backend"})
		g := guarded(t, &guard.Rules{Harden: harden, MaxBody: &guard.MaxBody{Bytes: 1}})
		r, _ := g.get("shop.example.com", "/", path)
		if r.Header.Get("X-Frame-Options") != "DENY" || r.Header.Get("Backend") != "" || r.Header.Get("Strict-Transport-Security") != "" {
			t.Errorf("got %v", r.Header)
		}
		r, _ = g.get("shop.example.com", "/", path, func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "POST", io.NopCloser(strings.NewReader("abc")), 3
		})
		if r.StatusCode != 413 || r.Header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("a refusal has %v", r.Header)
		}
		g.endpoints("web", route.HTTP1)
		r, _ = g.get("shop.example.com", "/", path)
		if r.StatusCode != 503 || r.Header.Get("X-Frame-Options") != "DENY" || len(r.Header["X-Content-Type-Options"]) != 1 {
			t.Errorf("without a backend %d has %v", r.StatusCode, r.Header)
		}
	})
}

// Who is refused need not connect anew, and requests that were sent ahead are all answered.
func TestAConnectionGoesOnAfterARefusal(t *testing.T) {
	g := guarded(t, &guard.Rules{Authentication: keysOf(t, map[string]string{"acme": "sesame"})})
	c, err := net.Dial("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	const ahead = 500
	wrong := "GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n" + "POST / HTTP/1.1\r\nHost: shop.example.com\r\nContent-Length: 3\r\n\r\nabc"
	if _, err := io.WriteString(c, strings.Repeat(wrong, ahead/2)+"GET / HTTP/1.1\r\nHost: shop.example.com\r\nX-API-Key: sesame\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	for i := range ahead + 1 {
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		io.Copy(io.Discard, r.Body)
		if want := map[bool]int{true: 200, false: 401}[i == ahead]; r.StatusCode != want || r.Close {
			t.Fatalf("answer %d is %d, and the last: %v; want %d", i, r.StatusCode, r.Close, want)
		}
	}
	answer := func(what, method string, status int, last bool) {
		t.Helper()
		r, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil || r.StatusCode != status || r.Close != last {
			t.Fatalf("%s is answered with %+v, %v", what, r, err)
		}
		io.Copy(io.Discard, r.Body)
	}
	io.WriteString(c, "HEAD / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n")
	answer("a HEAD", "HEAD", 401, false)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: shop.example.com\r\nContent-Length: 5\r\n\r\n")
	answer("a request whose small body is still to come", "POST", 401, false)
	io.WriteString(c, "he")
	io.WriteString(c, "lloGET / HTTP/1.1\r\nHost: shop.example.com\r\nX-API-Key: sesame\r\n\r\n")
	answer("what follows", "GET", 200, false)
	// To wait for a large one would be to take it.
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: shop.example.com\r\nContent-Length: 100000\r\n\r\n")
	answer("a request whose large body is still to come", "POST", 401, true)
}

func TestTheAuditLogSaysWhoDidWhat(t *testing.T) {
	bothPaths(t, func(t *testing.T, path func(*http.Request)) {
		g := guarded(t, &guard.Rules{Authentication: keysOf(t, map[string]string{"acme": "sesame"}), Audit: &guard.Audit{All: true}, AccessLog: &guard.AccessLog{}})
		lines := &lockedBuffer{}
		g.cfg.Audit = audit.New(lines)
		g.get("shop.example.com", "/orders?token=secret", path, with("X-API-Key", "sesame"))
		g.get("shop.example.com", "/orders", path, with("X-API-Key", "wrong"))
		deadline := time.Now().Add(10 * time.Second)
		for strings.Count(lines.String(), "\n") < 2 && time.Now().Before(deadline) {
			g.cfg.Audit.Flush()
			time.Sleep(time.Millisecond)
		}
		got := lines.String()
		for _, want := range []string{
			`"who":{"name":"acme","method":"apiKey"},"method":"GET","host":"shop.example.com","path":"/orders","route":"HTTPRoute/test/web","status":200`,
			`"status":401,"refused":"unauthenticated","policy":"AccessPolicy/test/keys"`,
		} {
			if !strings.Contains(got, want) {
				t.Errorf("the audit log does not say %s:\n%s", want, got)
			}
		}
		if strings.Contains(got, "secret") || strings.Contains(got, "sesame") || strings.Contains(got, "wrong") {
			t.Errorf("the audit log has a secret:\n%s", got)
		}
		g.access.Flush()
		if g.log.String() != "" {
			t.Errorf("the access log has what the policy leaves out: %s", g.log)
		}
	})
}

func TestBodiesAreComparedWithTheSchema(t *testing.T) {
	shape := &guard.Shape{Policy: "TrafficPolicy/test/a", MaxBody: 100}
	if err := shape.SetSchema([]byte(`{"type":"object","required":["name"]}`)); err != nil {
		t.Fatal(err)
	}
	g := guarded(t, &guard.Rules{Shape: shape})
	for _, c := range []struct {
		body   string
		length int64
		status int
	}{{`{"name":1}`, 10, 200}, {`{"name":1}`, -1, 200}, {`{}`, 2, 400}, {`{"name":"` + strings.Repeat("x", 200) + `"}`, -1, 413}} {
		r, body := g.get("shop.example.com", "/", with("Content-Type", "application/json"), func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "POST", io.NopCloser(strings.NewReader(c.body)), c.length
		})
		if r.StatusCode != c.status || c.status == 200 && !strings.Contains(body, c.body) {
			t.Errorf("%.20s is answered with %d %s", c.body, r.StatusCode, body)
		}
	}
}

func TestResponsesAreKeptAndCompressed(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, strings.Repeat("all work and no play ", 1000))
	}))
	t.Cleanup(server.Close)
	g := newGateway(t)
	rule := to("web")
	rule.Guard = guard.NewPlace(&guard.Rules{
		Compress: &guard.Compress{Algorithms: []string{"gzip"}, Types: []string{"text/*"}, MinSize: 100}, Cache: &guard.Cache{MaxObject: 1 << 20},
		Limits: []*guard.Limit{{ID: "a", Name: "burst", Requests: 10, Window: time.Hour, Burst: 10}},
	})
	g.rule("shop.example.com", "/", rule)
	g.apply()
	g.endpoints("web", route.HTTP1, server)
	for i := range 3 {
		r, body := g.get("shop.example.com", "/", with("Accept-Encoding", "gzip"))
		if r.Header.Get("Content-Encoding") != "gzip" || len(body) > 1000 || !strings.HasPrefix(r.Header.Get("RateLimit"), fmt.Sprintf(`"burst";r=%d;`, 9-i)) || len(r.Header.Values("RateLimit")) != 1 {
			t.Errorf("request %d: %d bytes, %v", i, len(body), r.Header)
		}
	}
	if r, body := g.get("shop.example.com", "/", with("Accept-Encoding", "identity")); r.Header.Get("Content-Encoding") != "" || len(body) != 21000 || r.Header.Get("Age") == "" {
		t.Errorf("as it is: %d bytes, %v", len(body), r.Header)
	}
	if asked != 1 {
		t.Errorf("the backend was asked %d times", asked)
	}
	if r, _ := g.get("shop.example.com", "/", with("Accept-Encoding", "gzip"), with("Cookie", "session=1")); r.Header.Get("Content-Encoding") != "" || asked != 2 {
		t.Errorf("a client with a cookie: asked %d times, %v", asked, r.Header)
	}
}
