package translate

import (
	"fmt"
	"regexp"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// A gRPC call is an HTTP/2 request of the path /service/method, so the rules of
// a GRPCRoute are rules for paths whose backends speak HTTP/2.

func (t *translation) compileGRPC(r *anyRoute, rules []gatewayv1.GRPCRouteRule) *compiledRoute {
	c := &compiledRoute{}
	for i := range rules {
		matches, err := compileGRPCMatches(rules[i].Matches)
		if err != nil {
			c.invalid = append(c.invalid, fmt.Sprintf("rule %d: %v", i, err))
			continue
		}
		rule := &route.Rule{Route: r.String(), Name: string(deref(rules[i].Name, ""))}
		if err := t.fillGRPC(rule, r, &rules[i], c); err != nil {
			c.invalid = append(c.invalid, fmt.Sprintf("rule %d: %v", i, err))
			rule.Invalid = err.Error()
		}
		c.rules = append(c.rules, compiledRule{matches: matches, rule: rule})
	}
	return c
}

func (t *translation) fillGRPC(rule *route.Rule, r *anyRoute, spec *gatewayv1.GRPCRouteRule, c *compiledRoute) error {
	if err := t.ruleFilters(rule, r, httpFilters(spec.Filters), c); err != nil {
		return err
	}
	for _, ref := range spec.BackendRefs {
		backend := t.addBackend(c, r, ref.BackendRef)
		var err error
		if backend.Filters, _, err = compileFilters(httpFilters(ref.Filters)); err != nil {
			return err
		}
		rule.Backends = append(rule.Backends, backend)
	}
	return nil
}

// httpFilters are the same filters as an HTTPRoute has them.
func httpFilters(filters []gatewayv1.GRPCRouteFilter) []gatewayv1.HTTPRouteFilter {
	var list []gatewayv1.HTTPRouteFilter
	for _, f := range filters {
		list = append(list, gatewayv1.HTTPRouteFilter{
			Type:                   gatewayv1.HTTPRouteFilterType(f.Type),
			RequestHeaderModifier:  f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier,
			RequestMirror:          f.RequestMirror,
			ExtensionRef:           f.ExtensionRef,
		})
	}
	return list
}

func compileGRPCMatches(specs []gatewayv1.GRPCRouteMatch) ([]route.Match, error) {
	if len(specs) == 0 {
		return []route.Match{{Kind: route.Prefix, Path: "/"}}, nil
	}
	matches := make([]route.Match, 0, len(specs))
	for _, spec := range specs {
		m, err := methodMatch(spec.Method)
		if err != nil {
			return nil, fmt.Errorf("method: %w", err)
		}
		for _, h := range spec.Headers {
			v, err := valueMatch(string(h.Name), h.Value, string(deref(h.Type, gatewayv1.GRPCHeaderMatchExact)))
			if err != nil {
				return nil, fmt.Errorf("header: %w", err)
			}
			m.Headers = append(m.Headers, v)
		}
		matches = append(matches, m)
	}
	return matches, nil
}

// methodMatch is the path that the calls of a service, a method or both have.
func methodMatch(spec *gatewayv1.GRPCMethodMatch) (m route.Match, err error) {
	if spec == nil {
		return route.Match{Kind: route.Prefix, Path: "/"}, nil
	}
	service, method := deref(spec.Service, ""), deref(spec.Method, "")
	const anything = "[^/]+"
	switch deref(spec.Type, gatewayv1.GRPCMethodMatchExact) {
	case gatewayv1.GRPCMethodMatchExact:
		switch {
		case service == "" && method == "":
			return route.Match{Kind: route.Prefix, Path: "/"}, nil
		case method == "":
			return route.Match{Kind: route.Prefix, Path: "/" + service}, nil
		case service != "":
			return route.Match{Kind: route.Exact, Path: "/" + service + "/" + method}, nil
		}
		service, method = anything, regexp.QuoteMeta(method)
	case gatewayv1.GRPCMethodMatchRegularExpression:
		for _, p := range []*string{&service, &method} {
			if *p == "" {
				*p = anything
			}
			if _, err := regexp.Compile(*p); err != nil {
				return m, err
			}
		}
		service, method = "(?:"+service+")", "(?:"+method+")"
	default:
		return m, fmt.Errorf("match type %s is not supported", *spec.Type)
	}
	m = route.Match{Kind: route.Regex, Path: "/" + service + "/" + method}
	m.Pattern, err = wholePattern(m.Path)
	return m, err
}
