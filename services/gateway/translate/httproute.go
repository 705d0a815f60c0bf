package translate

import (
	"fmt"
	"regexp"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

func (t *translation) compileHTTP(r *anyRoute, rules []gatewayv1.HTTPRouteRule) *compiledRoute {
	c := &compiledRoute{}
	for i := range rules {
		spec := &rules[i]
		matches, err := compileMatches(spec.Matches)
		if err != nil {
			// What cannot be compared cannot be kept from falling through.
			c.invalid = append(c.invalid, fmt.Sprintf("rule %d: %v", i, err))
			continue
		}
		rule := &route.Rule{Route: r.String(), Name: string(deref(spec.Name, ""))}
		if err := t.fill(rule, r, spec, c); err != nil {
			c.invalid = append(c.invalid, fmt.Sprintf("rule %d: %v", i, err))
			rule.Invalid = err.Error()
		}
		c.rules = append(c.rules, compiledRule{matches: matches, rule: rule})
	}
	return c
}

// fill translates everything of a rule but its matches.
func (t *translation) fill(rule *route.Rule, r *anyRoute, spec *gatewayv1.HTTPRouteRule, c *compiledRoute) (err error) {
	if spec.Timeouts != nil {
		if rule.RequestTimeout, err = duration(spec.Timeouts.Request); err != nil {
			return fmt.Errorf("timeouts.request: %w", err)
		}
		if rule.BackendTimeout, err = duration(spec.Timeouts.BackendRequest); err != nil {
			return fmt.Errorf("timeouts.backendRequest: %w", err)
		}
	}
	if spec.Retry != nil {
		if rule.Retry, err = retry(spec.Retry); err != nil {
			return err
		}
	}
	if spec.SessionPersistence != nil {
		if rule.Session, err = session(spec.SessionPersistence, rule.Route); err != nil {
			return fmt.Errorf("sessionPersistence: %w", err)
		}
	}
	if err = t.ruleFilters(rule, r, spec.Filters, c); err != nil {
		return err
	}
	for _, ref := range spec.BackendRefs {
		backend := t.addBackend(c, r, ref.BackendRef)
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
