package route

import (
	"fmt"
	"net/netip"
	"regexp"
	"testing"
)

// request is a test's Attributes.
type request struct{ headers, query map[string]string }

func (r request) Header(name string) (string, bool) { v, ok := r.headers[name]; return v, ok }
func (r request) Query(name string) (string, bool)  { v, ok := r.query[name]; return v, ok }

// add makes a rule that answers with its own name.
func add(b *Builder, listener, host string, m Match, name string) {
	if m.Path == "" {
		m.Kind, m.Path = Prefix, "/"
	}
	if m.Kind == Regex {
		m.Pattern = regexp.MustCompile("^(?:" + m.Path + ")$")
	}
	b.AddRule(80, false, listener, HostPattern{Name: host}, m, &Rule{Route: name})
}

func lookup(t *testing.T, table *Table, host, method, path string, r request) string {
	t.Helper()
	hit, ok := table.Lookup(80, host, method, path, r)
	if !ok {
		return "none"
	}
	return hit.Rule.Route
}

func TestTheMostSpecificHostWins(t *testing.T) {
	b := NewBuilder()
	add(b, "", "", Match{}, "any")
	add(b, "", "shop.example.com", Match{}, "exact")
	add(b, "", "*.example.com", Match{}, "wildcard")
	add(b, "", "*.eu.example.com", Match{}, "longer wildcard")
	b.AddRule(80, false, "", HostPattern{Name: "*.ingress.org", OneLabel: true}, Match{Kind: Prefix, Path: "/"}, &Rule{Route: "one label"})
	table := b.Build()
	for host, want := range map[string]string{
		"shop.example.com":       "exact",
		"a.example.com":          "wildcard",
		"a.b.example.com":        "wildcard",
		"a.eu.example.com":       "longer wildcard",
		"example.com":            "any",
		"notexample.com":         "any",
		"a.ingress.org":          "one label",
		"a.b.ingress.org":        "any",
		"":                       "any",
		"xshop.example.com.evil": "any",
	} {
		if got := lookup(t, table, host, "GET", "/", request{}); got != want {
			t.Errorf("host %q is served by %q, want %q", host, got, want)
		}
	}
}

func TestPathsMatchBySegmentAndTheLongestPrefixWins(t *testing.T) {
	b := NewBuilder()
	add(b, "", "", Match{Kind: Prefix, Path: "/"}, "root")
	add(b, "", "", Match{Kind: Prefix, Path: "/a"}, "a")
	add(b, "", "", Match{Kind: Prefix, Path: "/a/b/"}, "ab")
	add(b, "", "", Match{Kind: Exact, Path: "/a/b"}, "exact")
	add(b, "", "", Match{Kind: Regex, Path: "/a/b/[0-9]+"}, "regex")
	table := b.Build()
	for path, want := range map[string]string{
		"/": "root", "/x": "root", "/ab": "root", "/a": "a", "/a/": "a", "/a/c": "a",
		"/a/b": "exact", "/a/b/": "ab", "/a/b/c/d/e/f": "ab", "/a/b/12": "regex", "/a/b/12/": "ab",
		"//": "root", "/a//b": "a", "*": "none",
	} {
		if got := lookup(t, table, "h", "GET", path, request{}); got != want {
			t.Errorf("path %q is served by %q, want %q", path, got, want)
		}
	}
	if hit, _ := table.Lookup(80, "h", "GET", "/a/b/c", request{}); hit.Prefix != "/a/b" {
		t.Errorf("the prefix of /a/b/c is %q, want /a/b", hit.Prefix)
	}
}

func TestOtherConditionsDecideBetweenRulesForOnePath(t *testing.T) {
	b := NewBuilder()
	add(b, "", "", Match{Kind: Prefix, Path: "/a"}, "first")
	add(b, "", "", Match{Kind: Prefix, Path: "/a"}, "second")
	add(b, "", "", Match{Kind: Prefix, Path: "/a", Query: []ValueMatch{{Name: "q", Value: "1"}}}, "query")
	add(b, "", "", Match{Kind: Prefix, Path: "/a", Headers: []ValueMatch{{Name: "H", Pattern: regexp.MustCompile("^x+$")}}}, "header")
	add(b, "", "", Match{Kind: Prefix, Path: "/a", Method: "POST"}, "method")
	add(b, "", "", Match{Kind: Prefix, Path: "/a/only-get", Method: "GET"}, "only get")
	table := b.Build()
	header, query := map[string]string{"H": "xxx"}, map[string]string{"q": "1"}
	for _, c := range []struct {
		method, path string
		request      request
		want         string
	}{
		{"GET", "/a", request{}, "first"},
		{"GET", "/a", request{query: query}, "query"},
		{"GET", "/a", request{headers: header, query: query}, "header"},
		{"POST", "/a", request{headers: header, query: query}, "method"},
		{"GET", "/a", request{headers: map[string]string{"H": "y"}}, "first"},
		{"GET", "/a/only-get", request{}, "only get"},
		{"POST", "/a/only-get", request{}, "method"}, // a shorter prefix that does hold
	} {
		if got := lookup(t, table, "h", c.method, c.path, c.request); got != c.want {
			t.Errorf("%s %s %+v is served by %q, want %q", c.method, c.path, c.request, got, c.want)
		}
	}
}

func TestListenersAreIsolated(t *testing.T) {
	b := NewBuilder()
	add(b, "", "", Match{}, "any listener")
	add(b, "*.example.com", "a.example.com", Match{}, "wildcard listener")
	b.AddListener(80, false, "empty.example.com")
	table := b.Build()
	for host, want := range map[string]string{
		"a.example.com":     "wildcard listener",
		"b.example.com":     "none", // the more specific listener has no route for it
		"empty.example.com": "none",
		"example.org":       "any listener",
	} {
		if got := lookup(t, table, host, "GET", "/", request{}); got != want {
			t.Errorf("host %q is served by %q, want %q", host, got, want)
		}
	}
	if table.At(netip.AddrPortFrom(netip.Addr{}, 80)).SameListener("a.example.com", "example.org") || !table.At(netip.AddrPortFrom(netip.Addr{}, 80)).SameListener("a.example.com", "b.example.com") {
		t.Error("listeners of hosts are confused")
	}
}

func TestIntersect(t *testing.T) {
	for _, c := range []struct {
		listener, route, want string
		ok                    bool
	}{
		{"", "a.com", "a.com", true},
		{"a.com", "", "a.com", true},
		{"*.a.com", "x.a.com", "x.a.com", true},
		{"x.a.com", "*.a.com", "x.a.com", true},
		{"*.a.com", "*.b.a.com", "*.b.a.com", true},
		{"*.b.a.com", "*.a.com", "*.b.a.com", true},
		{"*.a.com", "a.com", "", false},
		{"*.a.com", "xa.com", "", false},
		{"a.com", "b.com", "", false},
	} {
		if got, ok := Intersect(c.listener, c.route); got != c.want || ok != c.ok {
			t.Errorf("Intersect(%q, %q) = %q, %v; want %q, %v", c.listener, c.route, got, ok, c.want, c.ok)
		}
	}
}

// large is a table of n routes on a tenth as many hosts.
func large(n int) *Table {
	b := NewBuilder()
	for i := range n {
		add(b, "", fmt.Sprintf("host-%d.example.com", i/10), Match{Kind: Prefix, Path: fmt.Sprintf("/service-%d/v1", i%10)}, fmt.Sprint(i))
	}
	return b.Build()
}

func TestLookupAllocatesNothing(t *testing.T) {
	table := large(10_000)
	if n := testing.AllocsPerRun(100, func() {
		table.Lookup(80, "host-500.example.com", "GET", "/service-5/v1/users/12?x", request{})
	}); n != 0 {
		t.Errorf("a look-up allocates %v times", n)
	}
}

func BenchmarkLookupAmong10000Routes(b *testing.B) {
	table := large(10_000)
	var attributes Attributes = request{}
	for b.Loop() {
		if _, ok := table.Lookup(80, "host-500.example.com", "GET", "/service-5/v1/users/12", attributes); !ok {
			b.Fatal("no route")
		}
	}
}

// FuzzLookup checks the prefix look-up against the specification's definition,
// applied rule by rule.
func FuzzLookup(f *testing.F) {
	f.Add("shop.example.com", "/a/b/c")
	f.Add("", "")
	f.Add("..", "//a/")
	prefixes := []string{"/", "/a", "/a/b", "/a/b/c/d", "/é", "/a//b"}
	b := NewBuilder()
	for _, p := range prefixes {
		add(b, "*.example.com", "*.example.com", Match{Kind: Prefix, Path: p}, p)
		add(b, "", "", Match{Kind: Prefix, Path: p}, p)
	}
	table := b.Build()
	f.Fuzz(func(t *testing.T, host, path string) {
		want := "none"
		if path != "" && path[0] == '/' {
			for _, p := range prefixes {
				if hasPrefixBySegment(path, p) {
					want = p
				}
			}
		}
		if path == "" || path[0] != '/' {
			table.Lookup(80, host, "GET", path, request{}) // must not panic
			return
		}
		if got := lookup(t, table, host, "GET", path, request{}); got != want {
			t.Errorf("%q %q is served by %q, want %q", host, path, got, want)
		}
	})
}

// hasPrefixBySegment is PathPrefix as the Gateway API defines it.
func hasPrefixBySegment(path, prefix string) bool {
	if prefix == "/" {
		return true
	}
	return path == prefix || len(path) > len(prefix) && path[:len(prefix)] == prefix && path[len(prefix)] == '/'
}
