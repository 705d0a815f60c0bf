package translate

import (
	"net/http"
	"regexp"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// place is a path of a host of an Ingress, at which another Ingress may be a canary.
type place struct {
	namespace, host, path string
	kind                  networkingv1.PathType
}

// readCanaries finds the Ingresses that take a part of others' requests.
func (t *translation) readCanaries() {
	t.canaries = map[place]*canary{}
	for _, i := range oldestFirst(t.Ingresses) {
		if i.Annotations[annotationPrefix+"canary"] != "true" || !t.ownsIngress(i) {
			continue
		}
		w := readAnnotations(i)
		for _, r := range i.Spec.Rules {
			if r.HTTP == nil || w.canary == nil {
				continue
			}
			for _, p := range r.HTTP.Paths {
				c := *w.canary
				c.backend = t.ingressBackend(i, w, p.Backend)
				if at := placeOf(i, r.Host, p); t.canaries[at] == nil {
					t.canaries[at] = &c
				} else {
					t.ingressProblem(i, "another canary takes requests of path %s already", p.Path)
				}
			}
		}
	}
}

func placeOf(i *networkingv1.Ingress, host string, p networkingv1.HTTPIngressPath) place {
	return place{i.Namespace, strings.ToLower(host), p.Path, deref(p.PathType, networkingv1.PathTypePrefix)}
}

// matched is a rule and what it is for.
type matched struct {
	match route.Match
	rule  *route.Rule
}

// split divides a rule's requests between it and a canary.
func (c *canary) split(match route.Match, rule *route.Rule) []matched {
	if c == nil {
		return []matched{{match, rule}}
	}
	to := func(b ...route.Backend) *route.Rule {
		r := *rule
		r.Backends = b
		return &r
	}
	only, never := to(c.backend), rule
	with := func(m route.ValueMatch, r *route.Rule) matched {
		match := match
		match.Headers = append(slices.Clip(match.Headers), m)
		return matched{match, r}
	}
	var list []matched
	switch {
	case c.header == "":
	case c.value != "":
		list = append(list, with(route.ValueMatch{Name: c.header, Value: c.value}, only))
	case c.alwaysPattern != nil:
		list = append(list, with(route.ValueMatch{Name: c.header, Value: c.pattern, Pattern: c.alwaysPattern}, only))
	default:
		list = append(list,
			with(route.ValueMatch{Name: c.header, Value: "always"}, only),
			with(route.ValueMatch{Name: c.header, Value: "never"}, never))
	}
	if c.cookie != "" {
		says := func(word string) route.ValueMatch {
			text := `(?:^|;)\s*` + regexp.QuoteMeta(c.cookie) + "=" + word + `\s*(?:;|$)`
			return route.ValueMatch{Name: "Cookie", Value: text, Pattern: regexp.MustCompile(text)}
		}
		list = append(list, with(says("always"), only), with(says("never"), never))
	}
	if c.weight > 0 && len(rule.Backends) == 1 {
		main, part := rule.Backends[0], c.backend
		main.Weight, part.Weight = c.total-c.weight, c.weight
		rule = to(main, part)
	}
	return append(list, matched{match, rule})
}

// apply makes a rule what the annotations ask for. Its match may become a pattern.
func (w *wishes) apply(rule *route.Rule, match *route.Match) {
	name, backends := rule.Route, rule.Backends
	*rule = w.rule
	rule.Route, rule.Backends, rule.Redirect, rule.Invalid = name, backends, w.redirect, w.broken
	rule.Name = w.section()
	if match.Kind != route.Exact && (w.regex || strings.Contains(w.rewrite, "$")) {
		// As nginx does: from the beginning, to wherever, without regard to case.
		pattern, err := regexp.Compile("(?i)^" + match.Path)
		if err != nil {
			w.say("path %s is no regular expression (RE2), so what begins like it is answered with 500: %v", match.Path, err)
			rule.Invalid = w.problems[len(w.problems)-1]
			match.Kind, match.Path = route.Prefix, literal(match.Path)
			return
		}
		match.Kind, match.Pattern = route.Regex, pattern
	}
	if w.rewrite != "" {
		change := &route.PathChange{Full: true, Value: w.rewrite}
		if match.Pattern != nil {
			change = &route.PathChange{Value: groups.ReplaceAllString(w.rewrite, "$${$1}"), Pattern: match.Pattern}
		}
		rewrite := route.Rewrite{Path: change}
		if rule.Filters.Rewrite != nil {
			rewrite.Host = rule.Filters.Rewrite.Host
		}
		rule.Filters.Rewrite = &rewrite
	}
}

// section is where policies find what the annotations say, or "".
func (w *wishes) section() string {
	if w.access == nil && w.traffic == nil {
		return ""
	}
	return annotationsSection
}

// groups are those of a match in nginx's text for its replacement.
var groups = regexp.MustCompile(`\$(\d+)`)

// literal is the part of a broken expression that is certainly a beginning of all paths
// it was meant for.
func literal(expression string) string {
	if i := strings.IndexAny(expression, `\.+*?()|[]{}^$`); i >= 0 {
		expression = expression[:i]
	}
	return expression[:strings.LastIndexByte(expression, '/')+1]
}

// toHTTPS redirects what came in plain.
func toHTTPS(name string) *route.Rule {
	return &route.Rule{Route: name, Redirect: &route.Redirect{Scheme: "https", Status: http.StatusPermanentRedirect}}
}

// extras are rules of a host beside those for its paths.
func (w *wishes) extras(name, host string, add func(host string, match route.Match, rule *route.Rule)) {
	if w.appRoot != "" {
		add(host, route.Match{Kind: route.Exact, Path: "/"}, &route.Rule{Route: name, Name: w.section(), Invalid: w.broken,
			Redirect: &route.Redirect{Path: &route.PathChange{Full: true, Value: w.appRoot}, Status: http.StatusFound}})
	}
	if w.www && host != route.AnyHost && !strings.HasPrefix(host, "*") {
		other, found := strings.CutPrefix(host, "www.")
		if !found {
			other = "www." + host
		}
		add(other, route.Match{Kind: route.Prefix, Path: "/"}, &route.Rule{Route: name,
			Redirect: &route.Redirect{Host: host, Status: http.StatusPermanentRedirect}})
	}
}
