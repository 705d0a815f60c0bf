package route

import (
	"cmp"
	"slices"
	"strings"
	"testing"
)

// described is a rule in the words of the specification, to be looked up without
// an index.
type described struct {
	host, path, method string
	exact              bool
	order              int
	rule               *Rule
}

// describe reads rules of the form "host path method", one in each line. A path
// that ends in $ is exact.
func describe(text string) []described {
	var all []described
	for line := range strings.Lines(text) {
		parts := strings.Fields(line)
		if len(parts) < 2 || !strings.HasPrefix(parts[1], "/") || len(all) == 50 {
			continue
		}
		d := described{host: strings.ToLower(parts[0]), path: parts[1], order: len(all), rule: &Rule{Route: line}}
		if len(parts) > 2 {
			d.method = parts[2]
		}
		if d.host == "*" {
			d.host = AnyHost
		}
		d.path, d.exact = strings.CutSuffix(d.path, "$")
		all = append(all, d)
	}
	return all
}

// serves tells whether a host pattern stands for a host, and how well.
func (d described) serves(host string) (int, bool) {
	suffix, wildcard := strings.CutPrefix(d.host, "*")
	switch {
	case d.host == AnyHost:
		return 0, true
	case wildcard && strings.HasPrefix(suffix, "."):
		at := len(host) - len(suffix)
		return len(suffix), at >= 0 && strings.HasSuffix(host, suffix)
	}
	return 1 << 20, d.host == host
}

func (d described) matches(path, method string) bool {
	if d.method != "" && d.method != method {
		return false
	}
	if d.exact {
		return d.path == path
	}
	prefix := strings.TrimSuffix(d.path, "/")
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// best is the rule that the specification of HTTPRoute chooses: the most specific
// host, then exact paths, then the longest prefix, then the method, then the first.
func best(all []described, host, path, method string) *Rule {
	most := -1
	for _, d := range all {
		if rank, ok := d.serves(host); ok {
			most = max(most, rank)
		}
	}
	var left []described
	for _, d := range all {
		if rank, ok := d.serves(host); ok && rank == most && d.matches(path, method) {
			left = append(left, d)
		}
	}
	if len(left) == 0 {
		return nil
	}
	yes := func(b bool) int {
		if b {
			return 0
		}
		return 1
	}
	length := func(d described) int { return -len(strings.TrimSuffix(d.path, "/")) }
	return slices.MinFunc(left, func(a, b described) int {
		return cmp.Or(cmp.Compare(yes(a.exact), yes(b.exact)), cmp.Compare(length(a), length(b)),
			cmp.Compare(yes(a.method != ""), yes(b.method != "")), cmp.Compare(a.order, b.order))
	}).rule
}

// FuzzTable compares tables of any rules with the plain reading of the specification.
func FuzzTable(f *testing.F) {
	const rules = "a.test /\na.test /api\na.test /api/v1 GET\na.test /api$\n*.test /\n*.b.test /x/ POST\n* /\n"
	for _, seed := range [][3]string{
		{"a.test", "/api/v1/x", "GET"}, {"a.test", "/api", "GET"}, {"a.test", "/apiary", "GET"}, {"c.b.test", "/x", "POST"}, {"c.b.test", "/y", "POST"},
		{"test", "/", "GET"}, {".test", "/", "GET"}, {"", "/", "GET"}, {"a.test", "//api", "GET"}, {"a.test", "/api//", "GET"},
	} {
		f.Add(rules, seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, rules, host, path, method string) {
		if host = strings.ToLower(host); !strings.HasPrefix(path, "/") {
			return
		}
		all, b := describe(rules), NewBuilder()
		for _, d := range all {
			kind := Prefix
			if d.exact {
				kind = Exact
			}
			b.AddRule(80, false, "", HostPattern{Name: d.host}, Match{Kind: kind, Path: d.path, Method: d.method}, d.rule)
		}
		want := best(all, host, path, method)
		hit, ok := b.Build().Lookup(80, host, method, path, nil)
		if ok != (want != nil) || ok && hit.Rule != want {
			t.Fatalf("rules %q: %s %q on %q found %v, want %v", rules, method, path, host, hit.Rule, want)
		}
		if hit.Prefix != "" && !strings.HasPrefix(path, hit.Prefix) {
			t.Fatalf("%q does not begin with the prefix %q that matched", path, hit.Prefix)
		}
	})
}
