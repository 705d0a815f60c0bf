package controllers_test

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
)

// requests counts what the controllers ask of the API.
type requests struct {
	mu     sync.Mutex     // guards following
	counts map[string]int // by component, verb and kind
}

func (r *requests) count(component string, req *http.Request) {
	path := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	if i := slices.Index(path, "namespaces"); i >= 0 && i+2 < len(path) {
		path = path[i+2:]
	} else if i := slices.IndexFunc(path, func(s string) bool { return strings.HasPrefix(s, "v1") || strings.HasPrefix(s, "v2") }); i >= 0 {
		path = path[i+1:]
	}
	kind := path[0]
	if len(path) > 2 {
		kind += "/" + path[2]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[component+"\t"+req.Method+"\t"+kind]++
}

func (r *requests) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts = map[string]int{}
}

func (r *requests) print(title string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := tabwriter.NewWriter(os.Stderr, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n%s\n", title)
	var lines []string
	for what, n := range r.counts {
		lines = append(lines, fmt.Sprintf("%s\t%d", what, n))
	}
	slices.Sort(lines)
	for _, l := range lines {
		fmt.Fprintln(w, l)
	}
	_ = w.Flush()
}

// BenchmarkRequests counts the requests of each component while a deployment
// grows and shrinks: each costs a write of the store and a message to all who
// watch, so fewer are better.
func BenchmarkRequests(b *testing.B) {
	seen := &requests{counts: map[string]int{}}
	c := startCluster(b, func(c *cluster) { c.seen = seen.count })
	line := c.scalable(b)
	for b.Loop() {
		for _, step := range []struct{ from, to int }{{1, 50}, {50, 51}, {51, 1}} {
			c.scaled(b, line, step.from)
			settle(b.Context(), b)
			seen.reset()
			c.scaled(b, line, step.to)
			settle(b.Context(), b)
			title := fmt.Sprintf("%d to %d", step.from, step.to)
			line.Print(os.Stderr, title)
			seen.print(title)
		}
	}
}
