package route

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Rules of a host are found by path whether there are few paths or many, also while
// their number goes up and down.
func TestPathsAreFoundHoweverManyThereAre(t *testing.T) {
	var p paths
	at := func(i int) string { return fmt.Sprintf("/%d", i) }
	for i := range 3 * fewPaths {
		p.set(at(i), []entry{{rule: &Rule{Name: at(i)}}})
		before := p.clone()
		p.set(at(0), []entry{{rule: &Rule{Name: "another"}}})
		if before.get(at(0))[0].rule == p.get(at(0))[0].rule {
			t.Fatal("a copy changed with the original")
		}
		for j := range i + 1 {
			if got := p.get(at(j)); len(got) != 1 || j > 0 && got[0].rule.Name != at(j) {
				t.Fatalf("of %d paths, %s has %v", i+1, at(j), got)
			}
		}
		if p.len() != i+1 || p.get("/none") != nil {
			t.Fatalf("%d paths, and %v", p.len(), p.get("/none"))
		}
	}
	names := p.names(strings.Compare)
	if len(names) != 3*fewPaths || !slices.IsSorted(names) {
		t.Errorf("the paths are %v", names)
	}
	for i := range 3 * fewPaths {
		if p.set(at(i), nil); p.len() != 3*fewPaths-i-1 || p.get(at(i)) != nil {
			t.Fatalf("%d paths, and %v, after %d were removed", p.len(), p.get(at(i)), i+1)
		}
	}
}
