package translate

import (
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// ruleFilters translates the filters of a rule.
func (t *translation) ruleFilters(rule *route.Rule, r *anyRoute, specs []gatewayv1.HTTPRouteFilter, c *compiledRoute) (err error) {
	var rest []gatewayv1.HTTPRouteFilter
	for _, spec := range specs {
		switch {
		case spec.Type == gatewayv1.HTTPRouteFilterCORS && spec.CORS != nil:
			rule.CORS = crossOrigin(spec.CORS)
		case spec.Type == gatewayv1.HTTPRouteFilterRequestMirror && spec.RequestMirror != nil:
			m := mirror(spec.RequestMirror)
			backend, refused := t.backendRef(r, spec.RequestMirror.BackendRef)
			m.Service, m.TLS, m.Invalid = backend.Service, backend.TLS, backend.Invalid
			c.services = append(c.services, types.NamespacedName{Namespace: m.Service.Namespace, Name: m.Service.Name})
			if c.refused == nil {
				c.refused = refused
			}
			rule.Mirrors = append(rule.Mirrors, m)
		default:
			rest = append(rest, spec)
		}
	}
	rule.Filters, rule.Redirect, err = compileFilters(rest)
	return err
}

// mirror translates what share of the requests is copied; without one, all are.
func mirror(spec *gatewayv1.HTTPRequestMirrorFilter) route.Mirror {
	switch {
	case spec.Percent != nil:
		return route.Mirror{Share: *spec.Percent, Outof: 100}
	case spec.Fraction != nil:
		return route.Mirror{Share: spec.Fraction.Numerator, Outof: max(deref(spec.Fraction.Denominator, 100), 1)}
	}
	return route.Mirror{Share: 1, Outof: 1}
}

func crossOrigin(spec *gatewayv1.HTTPCORSFilter) *route.CORS {
	return &route.CORS{
		Origins: texts(spec.AllowOrigins), Credentials: deref(spec.AllowCredentials, false), Methods: texts(spec.AllowMethods),
		Headers: texts(spec.AllowHeaders), Expose: texts(spec.ExposeHeaders), MaxAge: spec.MaxAge,
	}
}

func texts[T ~string](values []T) []string {
	var list []string
	for _, v := range values {
		list = append(list, string(v))
	}
	return list
}

// compileFilters translates the filters that a rule and a backend can have.
func compileFilters(specs []gatewayv1.HTTPRouteFilter) (f route.Filters, redirect *route.Redirect, err error) {
	for _, spec := range specs {
		switch {
		case spec.Type == gatewayv1.HTTPRouteFilterRequestHeaderModifier && spec.RequestHeaderModifier != nil:
			f.Request = headerChange(spec.RequestHeaderModifier)
		case spec.Type == gatewayv1.HTTPRouteFilterResponseHeaderModifier && spec.ResponseHeaderModifier != nil:
			f.Response = headerChange(spec.ResponseHeaderModifier)
		case spec.Type == gatewayv1.HTTPRouteFilterURLRewrite && spec.URLRewrite != nil:
			f.Rewrite = &route.Rewrite{
				Host: string(deref(spec.URLRewrite.Hostname, "")),
				Path: pathChange(spec.URLRewrite.Path),
			}
		case spec.Type == gatewayv1.HTTPRouteFilterRequestRedirect && spec.RequestRedirect != nil:
			redirect = &route.Redirect{
				Scheme: deref(spec.RequestRedirect.Scheme, ""),
				Host:   string(deref(spec.RequestRedirect.Hostname, "")),
				Port:   deref(spec.RequestRedirect.Port, 0),
				Path:   pathChange(spec.RequestRedirect.Path),
				Status: deref(spec.RequestRedirect.StatusCode, 302),
			}
		default:
			return f, nil, fmt.Errorf("filter %s is not supported: remove it from the rule", spec.Type)
		}
	}
	if redirect != nil && f.Rewrite != nil {
		return f, nil, fmt.Errorf("filters RequestRedirect and URLRewrite exclude each other: remove one")
	}
	return f, redirect, nil
}

func headerChange(spec *gatewayv1.HTTPHeaderFilter) *route.HeaderChange {
	change := &route.HeaderChange{Remove: spec.Remove}
	for _, h := range spec.Set {
		change.Set = append(change.Set, route.Header{Name: string(h.Name), Value: h.Value})
	}
	for _, h := range spec.Add {
		change.Add = append(change.Add, route.Header{Name: string(h.Name), Value: h.Value})
	}
	return change
}

func pathChange(spec *gatewayv1.HTTPPathModifier) *route.PathChange {
	switch {
	case spec == nil:
		return nil
	case spec.Type == gatewayv1.FullPathHTTPPathModifier:
		return &route.PathChange{Full: true, Value: deref(spec.ReplaceFullPath, "/")}
	}
	return &route.PathChange{Value: deref(spec.ReplacePrefixMatch, "/")}
}
