package translate

import (
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// compileFilters translates the filters of a rule or of a backend.
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

func headerChange(spec *gatewayv1.HTTPHeaderFilter) route.HeaderChange {
	change := route.HeaderChange{Remove: spec.Remove}
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
