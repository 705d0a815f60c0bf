package translate

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// compiledRule is a rule of a route with all the ways to reach it.
type compiledRule struct {
	matches []route.Match
	rule    *route.Rule
}

// compiledRoute is an HTTPRoute independent of where it is attached.
type compiledRoute struct {
	rules []compiledRule
	// refused holds the first reference that cannot be used, or nil.
	refused *refusal
	// invalid holds what is wrong with rules, one sentence each.
	invalid []string
}

// httpRoute attaches a route to the listeners that it names and that allow it.
func (t *translation) httpRoute(r *gatewayv1.HTTPRoute) {
	compiled := t.compile(r)
	var parents []gatewayv1.RouteParentStatus
	for _, ref := range r.Spec.ParentRefs {
		listeners, ours := t.parent(r, ref)
		if !ours {
			continue
		}
		accepted := t.attach(r, ref, listeners, compiled)
		parents = append(parents, gatewayv1.RouteParentStatus{
			ParentRef:      ref,
			ControllerName: ControllerName,
			Conditions:     compiled.conditions(accepted, r.Generation),
		})
	}
	if parents != nil {
		t.result.Routes[nameOf(r)] = parents
	}
}

// parent finds the listeners of the Gateway that ref names, and says whether
// that Gateway is ours at all.
func (t *translation) parent(r *gatewayv1.HTTPRoute, ref gatewayv1.ParentReference) (listeners []*listener, ours bool) {
	if deref(ref.Group, gatewayv1.GroupName) != gatewayv1.GroupName || deref(ref.Kind, "Gateway") != "Gateway" {
		return nil, false
	}
	name := types.NamespacedName{Namespace: string(deref(ref.Namespace, gatewayv1.Namespace(r.Namespace))), Name: string(ref.Name)}
	for _, l := range t.listeners {
		if nameOf(l.gateway) == name {
			listeners = append(listeners, l)
		}
	}
	return listeners, len(listeners) > 0
}

// attach adds the rules to every listener that ref selects, and returns the
// Accepted condition.
func (t *translation) attach(r *gatewayv1.HTTPRoute, ref gatewayv1.ParentReference, listeners []*listener, c *compiledRoute) metav1.Condition {
	refuse := func(reason gatewayv1.RouteConditionReason, message string) metav1.Condition {
		return condition(string(gatewayv1.RouteConditionAccepted), string(reason), false, r.Generation, message)
	}
	selected, allowed, attached := 0, 0, 0
	for _, l := range listeners {
		if (ref.SectionName != nil && *ref.SectionName != l.spec.Name) || (ref.Port != nil && *ref.Port != l.spec.Port) {
			continue
		}
		selected++
		if len(l.kinds) == 0 || !t.allows(l, r.Namespace) {
			continue
		}
		allowed++
		hosts := hostsFor(l, r)
		if len(hosts) == 0 {
			continue
		}
		attached++
		if len(c.rules) == 0 && len(c.invalid) > 0 {
			continue
		}
		l.attached++
		if l.serves() {
			t.addRules(l, hosts, c.rules)
		}
	}
	switch {
	case selected == 0:
		return refuse(gatewayv1.RouteReasonNoMatchingParent, "the Gateway has no listener with the sectionName and port of this parentRef")
	case allowed == 0:
		return refuse(gatewayv1.RouteReasonNotAllowedByListeners, fmt.Sprintf("no listener allows HTTPRoutes of namespace %s: see allowedRoutes of the Gateway", r.Namespace))
	case attached == 0:
		return refuse(gatewayv1.RouteReasonNoMatchingListenerHostname, "no listener serves any of the route's hostnames")
	case len(c.rules) == 0 && len(c.invalid) > 0:
		return refuse(gatewayv1.RouteReasonUnsupportedValue, strings.Join(c.invalid, "; "))
	}
	return condition(string(gatewayv1.RouteConditionAccepted), string(gatewayv1.RouteReasonAccepted), true, r.Generation, "")
}

func (t *translation) addRules(l *listener, hosts []string, rules []compiledRule) {
	for _, host := range hosts {
		for _, rule := range rules {
			for _, match := range rule.matches {
				t.builder.AddRule(l.port, l.tls, l.hostname, hostPattern(host), match, t.protect(l, rule.rule))
			}
		}
	}
}

// hostsFor returns the host patterns that the route serves on the listener.
func hostsFor(l *listener, r *gatewayv1.HTTPRoute) []string {
	if len(r.Spec.Hostnames) == 0 {
		return []string{l.hostname}
	}
	var hosts []string
	for _, h := range r.Spec.Hostnames {
		if host, ok := route.Intersect(l.hostname, strings.ToLower(string(h))); ok {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// conditions returns what the route says about one parent.
func (c *compiledRoute) conditions(accepted metav1.Condition, generation int64) []metav1.Condition {
	resolved := condition(string(gatewayv1.RouteConditionResolvedRefs), string(gatewayv1.RouteReasonResolvedRefs), true, generation, "")
	if c.refused != nil {
		resolved = condition(string(gatewayv1.RouteConditionResolvedRefs), string(c.refused.reason), false, generation, c.refused.message)
	}
	conditions := []metav1.Condition{accepted, resolved}
	if len(c.invalid) > 0 && accepted.Status == metav1.ConditionTrue {
		conditions = append(conditions, condition(string(gatewayv1.RouteConditionPartiallyInvalid), string(gatewayv1.RouteReasonUnsupportedValue), true, generation,
			"Dropped Rule: "+strings.Join(c.invalid, "; ")))
	}
	return conditions
}

func (t *translation) compile(r *gatewayv1.HTTPRoute) *compiledRoute {
	c := &compiledRoute{}
	for i := range r.Spec.Rules {
		spec := &r.Spec.Rules[i]
		matches, err := compileMatches(spec.Matches)
		if err != nil {
			// What cannot be compared cannot be kept from falling through.
			c.invalid = append(c.invalid, fmt.Sprintf("rule %d: %v", i, err))
			continue
		}
		rule := &route.Rule{Route: "HTTPRoute/" + r.Namespace + "/" + r.Name, Name: string(deref(spec.Name, ""))}
		if err := t.fill(rule, r, spec, c); err != nil {
			c.invalid = append(c.invalid, fmt.Sprintf("rule %d: %v", i, err))
			rule.Invalid = err.Error()
		}
		c.rules = append(c.rules, compiledRule{matches: matches, rule: rule})
	}
	return c
}

// fill translates everything of a rule but its matches.
func (t *translation) fill(rule *route.Rule, r *gatewayv1.HTTPRoute, spec *gatewayv1.HTTPRouteRule, c *compiledRoute) (err error) {
	if spec.Timeouts != nil {
		if rule.RequestTimeout, err = duration(spec.Timeouts.Request); err != nil {
			return fmt.Errorf("timeouts.request: %w", err)
		}
		if rule.BackendTimeout, err = duration(spec.Timeouts.BackendRequest); err != nil {
			return fmt.Errorf("timeouts.backendRequest: %w", err)
		}
	}
	if err = t.ruleFilters(rule, r, spec.Filters, c); err != nil {
		return err
	}
	for _, ref := range spec.BackendRefs {
		backend := route.Backend{Weight: deref(ref.Weight, 1)}
		var refused *refusal
		backend.Service, refused = t.backendRef(r, ref.BackendObjectReference)
		if refused != nil {
			backend.Invalid = refused.message
			if c.refused == nil {
				c.refused = refused
			}
		}
		var redirect *route.Redirect
		if backend.Filters, redirect, err = compileFilters(ref.Filters); err != nil {
			return err
		}
		if redirect != nil {
			return fmt.Errorf("a RequestRedirect filter cannot be on a backendRef: move it to the rule")
		}
		rule.Backends = append(rule.Backends, backend)
	}
	return nil
}

func duration(d *gatewayv1.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	return time.ParseDuration(string(*d)) // GEP-2257 durations are a subset of Go's
}

func compileMatches(specs []gatewayv1.HTTPRouteMatch) ([]route.Match, error) {
	if len(specs) == 0 {
		return []route.Match{{Kind: route.Prefix, Path: "/"}}, nil
	}
	matches := make([]route.Match, 0, len(specs))
	for _, spec := range specs {
		m, err := compileMatch(spec)
		if err != nil {
			return nil, err
		}
		matches = append(matches, m)
	}
	return matches, nil
}

func compileMatch(spec gatewayv1.HTTPRouteMatch) (m route.Match, err error) {
	m = route.Match{Kind: route.Prefix, Path: "/", Method: string(deref(spec.Method, ""))}
	if p := spec.Path; p != nil {
		m.Path = deref(p.Value, "/")
		switch deref(p.Type, gatewayv1.PathMatchPathPrefix) {
		case gatewayv1.PathMatchPathPrefix:
		case gatewayv1.PathMatchExact:
			m.Kind = route.Exact
		case gatewayv1.PathMatchRegularExpression:
			m.Kind = route.Regex
			if m.Pattern, err = wholePattern(m.Path); err != nil {
				return m, fmt.Errorf("path: %w", err)
			}
		default:
			return m, fmt.Errorf("path match type %s is not supported", *p.Type)
		}
	}
	for _, h := range spec.Headers {
		v, err := valueMatch(string(h.Name), h.Value, string(deref(h.Type, gatewayv1.HeaderMatchExact)))
		if err != nil {
			return m, fmt.Errorf("header: %w", err)
		}
		m.Headers = append(m.Headers, v)
	}
	for _, q := range spec.QueryParams {
		v, err := valueMatch(string(q.Name), q.Value, string(deref(q.Type, gatewayv1.QueryParamMatchExact)))
		if err != nil {
			return m, fmt.Errorf("query parameter: %w", err)
		}
		m.Query = append(m.Query, v)
	}
	return m, nil
}

func valueMatch(name, value, kind string) (m route.ValueMatch, err error) {
	m = route.ValueMatch{Name: name, Value: value}
	switch kind {
	case string(gatewayv1.HeaderMatchExact):
	case string(gatewayv1.HeaderMatchRegularExpression):
		if m.Pattern, err = wholePattern(value); err != nil {
			return m, fmt.Errorf("%s: %w", name, err)
		}
	default:
		return m, fmt.Errorf("%s: match type %s is not supported", name, kind)
	}
	return m, nil
}

// wholePattern compiles an RE2 expression that must match the whole value.
func wholePattern(expression string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expression); err != nil {
		return nil, err
	}
	return regexp.Compile("^(?:" + expression + ")$")
}
