package upstream

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// asked is a request with headers.
type asked map[string]string

func (a asked) Header(name string) (string, bool) { v, ok := a[name]; return v, ok }
func (a asked) Query(name string) (string, bool)  { v, ok := a["?"+name]; return v, ok }
func (a asked) Client() netip.Addr                { return netip.MustParseAddr("192.0.2.1") }
func (a asked) Host() string                      { return "shop.example.com" }
func (a asked) Path() string                      { return "/cart" }

func TestASessionStaysAtItsEndpoint(t *testing.T) {
	p := newPooled(t, 5, nil)
	rule := &route.Rule{Session: &route.Session{Name: "sid"}, Backends: []route.Backend{{Service: web, Weight: 1}}}
	first := p.Course(rule, asked{}, nil)
	e := p.Acquire(nil, first.AimOf())
	name, cookie := first.Field(e, true)
	if name != "Set-Cookie" || !strings.HasPrefix(cookie, "sid=") || !strings.HasSuffix(cookie, "; Path=/; Secure; HttpOnly") {
		t.Fatalf("a new client gets %s: %s", name, cookie)
	}
	value, _, _ := strings.Cut(cookie, ";")
	back := asked{"Cookie": "a=b; " + value + "; c=d"}
	for range 20 {
		backend, resumed := p.pools.Resume(rule, back)
		if backend != &rule.Backends[0] {
			t.Fatal("the session's backend is not found")
		}
		c := p.Course(rule, back, resumed)
		if got := p.Acquire(nil, c.AimOf()); got != e {
			t.Fatalf("the session goes to %s, want %s", got.Host, e.Host)
		}
		if name, _ := c.Field(e, true); name != "" {
			t.Errorf("a client that comes back gets another cookie")
		}
	}
	// When its endpoint fails, the session moves, and the client is told.
	_, resumed := p.pools.Resume(rule, back)
	c := p.Course(rule, back, resumed)
	other := p.Acquire([]*Endpoint{e}, c.AimOf())
	if _, moved := c.Field(other, true); other == e || !strings.HasPrefix(moved, "sid="+other.token) {
		t.Errorf("the session that moves gets %q", moved)
	}
	for _, wrong := range []string{"sid=", "sid=made-up", "xsid=" + e.token, "sid"} {
		if backend, _ := p.pools.Resume(rule, asked{"Cookie": wrong}); backend != nil {
			t.Errorf("cookie %q is taken for a session", wrong)
		}
	}
}

func TestSessionsEnd(t *testing.T) {
	p := newPooled(t, 3, nil)
	rule := &route.Session{Name: "X-Session", InHeader: true, Absolute: time.Hour}
	e, now := p.endpoint(2), time.Unix(1_800_000_000, 0)
	value := e.Value(rule, now)
	for after, want := range map[time.Duration]*Endpoint{0: e, time.Hour: e, time.Hour + time.Second: nil} {
		if got := p.Find(rule, value, now.Add(after)); got != want {
			t.Errorf("after %s the session is at %v, want %v", after, got, want)
		}
	}
	for _, wrong := range []string{e.token, e.token + ".", e.token + ".!", "." + value} {
		if p.Find(rule, wrong, now) != nil {
			t.Errorf("session %q is taken", wrong)
		}
	}
}

func TestCookies(t *testing.T) {
	for _, c := range []struct {
		rule route.Session
		tls  bool
		want string
	}{
		{route.Session{Name: "s"}, false, "s=v; Path=/; HttpOnly"},
		{route.Session{Name: "s", Absolute: time.Hour}, false, "s=v; Path=/; HttpOnly"},
		{route.Session{Name: "s", Absolute: time.Hour, Permanent: true}, true, "s=v; Path=/; Max-Age=3600; Secure; HttpOnly"},
		{route.Session{Name: "s", Path: "/shop", Domain: "example.com", SameSite: "Lax", Secure: true}, false, "s=v; Path=/shop; Domain=example.com; SameSite=Lax; Secure; HttpOnly"},
	} {
		if got := string(AppendCookie(nil, &c.rule, "v", c.tls)); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestKeysOfRequests(t *testing.T) {
	key := func(r asked, keys ...route.HashKey) uint64 { return KeyOf(r, keys) }
	user := route.HashKey{Source: route.HeaderValue, Name: "User"}
	cookie := route.HashKey{Source: route.CookieValue, Name: "u"}
	if key(asked{"User": "a"}, user) != key(asked{"User": "a", "Else": "b"}, user) {
		t.Error("the same header gives different keys")
	}
	if key(asked{"User": "a"}, user) == key(asked{"User": "b"}, user) {
		t.Error("different headers give the same key")
	}
	if key(asked{}, user) != 0 || key(asked{"Cookie": "x=1"}, user, cookie) != 0 {
		t.Error("a request without any of the parts has a key")
	}
	if key(asked{"Cookie": "x=1; u=2"}, cookie) == 0 || key(asked{}, route.HashKey{Source: route.ClientAddress}) == 0 {
		t.Error("a request with the part has no key")
	}
	if key(asked{"User": "ab", "Cookie": "u=c"}, user, cookie) == key(asked{"User": "a", "Cookie": "u=bc"}, user, cookie) {
		t.Error("parts run into each other")
	}
	p := newPooled(t, 4, &route.UpstreamPolicy{Balance: route.Balance{Method: route.ConsistentHash, Keys: []route.HashKey{user}}})
	without := p.Course(&route.Rule{}, asked{}, nil)
	if got := p.spread(8, without.AimOf()); len(got) != 4 {
		t.Errorf("requests without a key go to %v", got)
	}
	with := p.Course(&route.Rule{}, asked{"User": "a"}, nil)
	if got := p.spread(8, with.AimOf()); len(got) != 1 {
		t.Errorf("requests with one key go to %v", got)
	}
}
