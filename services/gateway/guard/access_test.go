package guard

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func apiKeys(t *testing.T, header string, keys ...string) *Keys {
	t.Helper()
	k := &Keys{Headers: []string{header}, Parameters: []string{"key"}}
	for i := 0; i < len(keys); i += 2 {
		if err := k.Add(keys[i], keys[i+1], "X-Client"); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func TestAPIKeys(t *testing.T) {
	hashed := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("s3cret")))
	r := adopted(t, authenticated(&Authentication{ClientField: "X-Client", Keys: apiKeys(t, "X-API-Key", "acme", "open sesame", "bolt", hashed)}))
	for _, c := range []struct {
		name   string
		fields Fields
		client string
	}{
		{"as it is", fields{header: []string{"x-api-key: open sesame"}}, "acme"},
		{"hashed", fields{header: []string{"X-API-Key: s3cret"}}, "bolt"},
		{"in the query", queryOf(t, "/?a=b&key=open%20sesame"), "acme"},
		{"the hash itself", fields{header: []string{"X-API-Key: " + hashed}}, ""},
		{"unknown", fields{header: []string{"X-API-Key: other"}}, ""},
		{"empty", fields{header: []string{"X-API-Key: "}}, ""},
		{"none", fields{}, ""},
		{"two", fields{header: []string{"X-API-Key: s3cret", "X-API-Key: other"}}, ""},
		{"header and query", fields{header: []string{"X-API-Key: s3cret"}, query: "key=s3cret"}, ""},
		{"endless", fields{header: []string{"X-API-Key: " + strings.Repeat("a", maxCredential+1)}}, ""},
	} {
		q := request()
		q.Fields = c.fields
		id, refused := r.ask(t, q)
		if c.client != "" && (id == nil || id.Client != c.client || string(id.Header) != "X-Client: "+c.client+"\r\n") {
			t.Errorf("%s: %+v, want client %s", c.name, refused, c.client)
		}
		if c.client == "" && (refused == nil || refused.Status != 401 || !strings.Contains(refused.Fields, "WWW-Authenticate: ")) {
			t.Errorf("%s: accepted as %+v, %+v", c.name, id, refused)
		}
	}
	if !r.Drops([]byte("X-API-Key")) {
		t.Error("backends see the keys")
	}
	if err := (&Keys{}).Add("x", "sha256:abc", ""); err == nil {
		t.Error("a digest that is none is taken for a key")
	}
	twice := apiKeys(t, "X-API-Key", "a", "same")
	if err := twice.Add("b", "same", ""); err == nil {
		t.Error("two clients have the same key")
	}
}

func TestPasswords(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("wonderland"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum([]byte("old"))
	file := fmt.Sprintf("# users\nalice:%s\nbob:{SHA}%s\n", hash, base64.StdEncoding.EncodeToString(sum[:]))
	b, err := NewBasic([]byte(file), "X-Client")
	if err != nil {
		t.Fatal(err)
	}
	r := adopted(t, authenticated(&Authentication{Basic: b}))
	basic := func(text string) *Request {
		return request("Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(text)))
	}
	for text, client := range map[string]string{
		"alice:wonderland": "alice", "bob:old": "bob",
		"alice:wrong": "", "bob:wrong": "", "eve:wonderland": "", "alice": "", "": "", "alice:": "",
		"alice:wonderland\x00": "", "a:" + strings.Repeat("x", 2*maxBasic): "",
	} {
		id, refused := r.ask(t, basic(text))
		if client != "" && (id == nil || id.Client != client) || client == "" && (refused == nil || refused.Status != 401) {
			t.Errorf("%.20q is answered with %+v, %+v; want client %q", text, id, refused, client)
		}
	}
	p := &Pass{}
	if v := r.Admit(basic("alice:wonderland"), p); v != Admitted {
		t.Errorf("a password that was checked is checked again: %v", v)
	}
	q := basic("alice:wonderland")
	q.Now = noon.Add(time.Hour)
	if v := r.Admit(q, p); v != Elsewhere || p.Wait == nil {
		t.Errorf("a check is remembered for ever: %v", v)
	}
	for _, wrong := range []string{"", "alice", "alice:plain", "alice:$apr1$abc$def", ":{SHA}x"} {
		if _, err := NewBasic([]byte(wrong), ""); err == nil {
			t.Errorf("%q is taken for a file of passwords", wrong)
		}
	}
}

func TestSeveralWays(t *testing.T) {
	i := newIssuer(t, "k1")
	a := &Authentication{Keys: apiKeys(t, "X-API-Key", "acme", "sesame"), Tokens: []*Tokens{tokens(i.keySet(t))}}
	r := adopted(t, authenticated(a))
	for _, c := range []struct {
		name, client string
		header       []string
	}{
		{"key", "acme", []string{"X-API-Key: sesame"}},
		{"token", "anna", []string{"Authorization: bearer " + i.token(t, nil)}},
		{"wrong key beside a right token", "", []string{"X-API-Key: x", "Authorization: Bearer " + i.token(t, nil)}},
		{"two tokens", "", []string{"Authorization: Bearer " + i.token(t, nil), "Authorization: Bearer x"}},
		{"a way that is not offered", "", []string{"Authorization: Basic YTpi"}},
	} {
		id, refused := r.ask(t, request(c.header...))
		if c.client != "" && (id == nil || id.Client != c.client) || c.client == "" && refused == nil {
			t.Errorf("%s: %+v, %+v", c.name, id, refused)
		}
	}
	anonymous := adopted(t, authenticated(&Authentication{Anonymous: true, Keys: a.Keys}))
	if _, refused := anonymous.ask(t, request()); refused != nil {
		t.Errorf("nobody may come: %+v", refused)
	}
	if _, refused := anonymous.ask(t, request("X-API-Key: wrong")); refused == nil {
		t.Error("a wrong key counts as none")
	}
}

func TestAddresses(t *testing.T) {
	net := netip.MustParsePrefix
	r := adopted(t, &Rules{Addresses: &Addresses{Policy: "AccessPolicy/shop/test",
		Allow: []netip.Prefix{net("10.0.0.0/8"), net("2001:db8::/32")}, Deny: []netip.Prefix{net("10.66.0.0/16")}}})
	for address, ok := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "2001:db8::1": true,
		"10.66.0.1": false, "::ffff:10.66.0.1": false, "192.0.2.1": false, "2001:db9::1": false,
	} {
		q := request()
		q.Client = netip.MustParseAddr(address)
		if _, refused := r.ask(t, q); (refused == nil) != ok || refused != nil && refused.Status != 403 {
			t.Errorf("%s: %+v, want allowed %v", address, refused, ok)
		}
	}
}

func TestTheRealClientBehindProxies(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct{ name, peer, forwarded, client string }{
		{"no proxy", "192.0.2.1", "1.1.1.1", "192.0.2.1"},
		{"one proxy", "10.0.0.1", "192.0.2.1", "192.0.2.1"},
		{"what the client made up", "10.0.0.1", "1.1.1.1, 10.0.0.9, 192.0.2.1", "192.0.2.1"},
		{"two proxies", "10.0.0.1", "1.1.1.1, 192.0.2.1, 10.0.0.2", "192.0.2.1"},
		{"only proxies", "10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"},
		{"nothing", "10.0.0.1", "", "10.0.0.1"},
		{"no address", "10.0.0.1", "192.0.2.1, unknown", "10.0.0.1"},
		{"with port", "10.0.0.1", "192.0.2.1:4711", "192.0.2.1"},
		{"IPv6 with port", "fd00::1", "[2001:db8::1]:4711", "2001:db8::1"},
		{"mapped", "::ffff:10.0.0.1", "::ffff:192.0.2.1", "192.0.2.1"},
	} {
		if got := RealClient(netip.MustParseAddr(c.peer), trusted, c.forwarded); got.String() != c.client {
			t.Errorf("%s: %s, want %s", c.name, got, c.client)
		}
	}
}

func TestPermissions(t *testing.T) {
	expression := func(text string) *Expression {
		e, err := Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	anna := &Identity{Client: "anna", Groups: []string{"staff"}, Claims: claims{
		"scope": "orders.read orders.write", "tier": "gold", "roles": []any{"a", "b"}, "admin": true, "level": 3.0,
	}}
	for _, c := range []struct {
		name string
		p    Permission
		ok   bool
	}{
		{"nothing named", Permission{}, true},
		{"client", Permission{Clients: []string{"bob", "anna"}}, true},
		{"other client", Permission{Clients: []string{"bob"}}, false},
		{"group", Permission{Groups: []string{"staff"}}, true},
		{"client of another group", Permission{Clients: []string{"anna"}, Groups: []string{"board"}}, false},
		{"method", Permission{Methods: []string{"GET"}}, true},
		{"other method", Permission{Methods: []string{"POST"}}, false},
		{"scope", Permission{Claims: []ClaimValues{{"scope", []string{"orders.read"}}}}, true},
		{"part of a scope", Permission{Claims: []ClaimValues{{"scope", []string{"orders"}}}}, false},
		{"list", Permission{Claims: []ClaimValues{{"roles", []string{"b"}}}}, true},
		{"true", Permission{Claims: []ClaimValues{{"admin", []string{"true"}}}}, true},
		{"number", Permission{Claims: []ClaimValues{{"level", []string{"3"}}}}, true},
		{"no such claim", Permission{Claims: []ClaimValues{{"none", []string{"x"}}}}, false},
		{"expression", Permission{Expression: expression(`claims.tier == "gold" && request.method == "GET" && "staff" in groups && client == "anna"`)}, true},
		{"expression that is false", Permission{Expression: expression(`claims.tier == "silver"`)}, false},
		{"expression that fails", Permission{Expression: expression(`claims.none == "x"`)}, false},
		{"expression that costs too much", Permission{Expression: expression(
			`[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, a+b+c+d+e > 0)))))`)}, false},
	} {
		a := &Authorization{Rules: []Permission{c.p}}
		if got := a.allows(request(), anna); got != c.ok {
			t.Errorf("%s: allowed %v, want %v", c.name, got, c.ok)
		}
	}
	for _, wrong := range []string{"", "client", "nothing == 1", `"a`, strings.Repeat("(", 5000)} {
		if _, err := Compile(wrong); err == nil {
			t.Errorf("%.20q is taken for a condition", wrong)
		}
	}
}

func TestABrokenPolicyLetsNothingThrough(t *testing.T) {
	r := adopted(t, &Rules{Broken: "AccessPolicy/shop/test"})
	if _, refused := r.ask(t, request()); refused == nil || refused.Status != 503 || refused.Policy != "AccessPolicy/shop/test" {
		t.Errorf("answered with %+v", refused)
	}
}

func TestBodiesOfUnknownLengthGoWhereTheyAreBounded(t *testing.T) {
	r := adopted(t, &Rules{MaxBody: &MaxBody{Bytes: 100}})
	p := &Pass{}
	for length, want := range map[int64]Verdict{0: Admitted, 100: Admitted, 101: Refused, -1: Elsewhere} {
		q := request()
		q.Length = length
		if got := r.Admit(q, p); got != want {
			t.Errorf("a body of %d bytes: %v, want %v", length, got, want)
		}
	}
	q := request()
	q.Length, q.MayWait = -1, true
	if r.Admit(q, p) != Admitted {
		t.Error("nobody takes bodies of unknown length")
	}
}
