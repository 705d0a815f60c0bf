package ruleset

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// Rules of a namespace that are not trusted with all samples see those with its label only, and what they
// record and fire carries it: what the Prometheus operator calls enforcedNamespaceLabel.
const (
	namespaceLabel = "namespace"
	confinedPrefix = "namespace/" // of the names of files that are confined
)

// maxResults bounds what one group of a PrometheusRule may record or fire, unless it says less itself.
const maxResults = 5000

// OfCluster is the file of an object that may see all samples: cluster/NAMESPACE/NAME.
func (f File) OfCluster() File { return File{Name: "cluster/" + f.Name, Groups: f.Groups} }

// Bounded gives the groups of an object their limit.
func (f File) Bounded() File {
	groups := make([]rulefmt.RuleGroup, len(f.Groups))
	for i, g := range f.Groups {
		if g.Limit <= 0 || g.Limit > maxResults {
			g.Limit = maxResults
		}
		groups[i] = g
	}
	return File{Name: f.Name, Groups: groups}
}

// Confined is the file with expressions that see only the samples of a namespace, and results that carry its
// label. Its name says so: namespace/NAMESPACE/NAME.
func (f File) Confined(namespace string) (File, error) {
	out := File{Name: confinedPrefix + f.Name}
	for _, g := range f.Groups {
		g.Labels = with(g.Labels, namespace)
		rules := make([]rulefmt.Rule, len(g.Rules))
		for i, r := range g.Rules {
			expr, err := Confine(r.Expr, namespace)
			if err != nil {
				return File{}, fmt.Errorf("rules %s: group %s: %w", f.Name, g.Name, err)
			}
			r.Expr, r.Labels = expr, with(r.Labels, namespace)
			rules[i] = r
		}
		g.Rules = rules
		out.Groups = append(out.Groups, g)
	}
	return out, nil
}

func with(l map[string]string, namespace string) map[string]string {
	out := maps.Clone(l)
	if out == nil {
		out = map[string]string{}
	}
	out[namespaceLabel] = namespace
	return out
}

// ConfinedTo is the namespace to which the file of a name is confined, or "".
func ConfinedTo(file string) string {
	rest, confined := strings.CutPrefix(file, confinedPrefix)
	if !confined {
		return ""
	}
	namespace, _, _ := strings.Cut(rest, "/")
	return namespace
}

// ParseExpr reads an expression of PromQL.
func ParseExpr(expr string) (parser.Expr, error) { return expressions.ParseExpr(expr) }

// Confine makes an expression see only the samples of a namespace.
func Confine(expr, namespace string) (string, error) {
	return Narrow(expr, model.LabelSet{namespaceLabel: model.LabelValue(namespace)})
}

// Narrow makes an expression see only the samples that have these labels, whatever else its selectors ask for.
func Narrow(expr string, to model.LabelSet) (string, error) {
	tree, err := ParseExpr(expr)
	if err != nil {
		return "", err
	}
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		s, selects := n.(*parser.VectorSelector)
		if !selects {
			return nil
		}
		for _, name := range slices.Sorted(maps.Keys(to)) {
			value := to[name]
			m := labels.MustNewMatcher(labels.MatchEqual, string(name), string(value))
			if !has(s.LabelMatchers, m) {
				s.LabelMatchers = append(s.LabelMatchers, m)
			}
		}
		return nil
	})
	return tree.String(), nil
}

func has(list []*labels.Matcher, m *labels.Matcher) bool {
	for _, have := range list {
		if have.Type == m.Type && have.Name == m.Name && have.Value == m.Value {
			return true
		}
	}
	return false
}
