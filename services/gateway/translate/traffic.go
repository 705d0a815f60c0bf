package translate

import (
	"fmt"
	"reflect"
	"time"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/guard"
)

// trafficParts is a compiled TrafficPolicy.
type trafficParts struct {
	policy string
	spec   v1alpha1.TrafficPolicySpec

	rates, quotas part[[]*guard.Limit]
	maxBody       part[guard.MaxBody]
	shape         part[guard.Shape]
	harden        part[guard.Harden]
	compress      part[guard.Compress]
	cache         part[guard.Cache]
	accessLog     part[guard.AccessLog]
	audit         part[guard.Audit]
}

func (p *trafficParts) problem() error {
	return joined(p.rates.err, p.quotas.err, p.maxBody.err, p.shape.err, p.compress.err, p.cache.err)
}

// merge must see the limits of both fields apart, so it keeps those of the other one.
func (p *trafficParts) merge(r *guard.Rules, use func(field, policy string, err error)) {
	replace := func(field string, limits part[[]*guard.Limit], quotas bool) {
		if !limits.set() {
			return
		}
		var kept []*guard.Limit
		for _, l := range r.Limits {
			if (l.Calendar != guard.NoCalendar) != quotas {
				kept = append(kept, l)
			}
		}
		r.Limits = append(kept, deref(limits.value, nil)...)
		use(field, p.policy, limits.err)
	}
	replace("rateLimits", p.rates, false)
	replace("quotas", p.quotas, true)
	put(&r.MaxBody, p.maxBody, func(err error) { use("maxRequestBody", p.policy, err) })
	put(&r.Shape, p.shape, func(err error) { use("requestShape", p.policy, err) })
	put(&r.Harden, p.harden, func(err error) { use("securityHeaders", p.policy, err) })
	put(&r.Compress, p.compress, func(err error) { use("compression", p.policy, err) })
	put(&r.Cache, p.cache, func(err error) { use("cache", p.policy, err) })
	put(&r.AccessLog, p.accessLog, func(err error) { use("accessLog", p.policy, err) })
	put(&r.Audit, p.audit, func(err error) { use("auditLog", p.policy, err) })
}

// put lets a field that is set take the place of what was inherited.
func put[T any](into **T, p part[T], use func(error)) {
	if p.set() {
		*into = p.value
		use(p.err)
	}
}

// compileTraffic compiles a policy, unless it did not change.
func (t *translation) compileTraffic(o *v1alpha1.TrafficPolicy) *trafficParts {
	if before := t.cache.traffic[nameOf(o)]; before != nil && reflect.DeepEqual(before.spec, o.Spec) {
		return before
	}
	p := &trafficParts{policy: "TrafficPolicy/" + o.Namespace + "/" + o.Name, spec: o.Spec}
	if o.Spec.RateLimits != nil {
		p.rates.value, p.rates.err = compileRates(p.policy, o.Spec.RateLimits)
	}
	if o.Spec.Quotas != nil {
		p.quotas.value = compileQuotas(p.policy, o.Spec.Quotas)
	}
	if q := o.Spec.MaxRequestBody; q != nil {
		if n, err := bytesOr(q, 0); err != nil {
			p.maxBody.err = fmt.Errorf("maxRequestBody: %w", err)
		} else {
			p.maxBody.value = &guard.MaxBody{Policy: p.policy, Bytes: n}
		}
	}
	p.compileContent(&o.Spec)
	return p
}

func compileRates(policy string, specs []v1alpha1.RateLimit) (*[]*guard.Limit, error) {
	limits := []*guard.Limit{}
	for _, s := range specs {
		window, err := durationOr(s.Period, time.Second, 10*time.Millisecond, time.Hour)
		if err != nil {
			return nil, fmt.Errorf("rateLimits %q: period: %w", s.Name, err)
		}
		l := &guard.Limit{ID: policy + "/" + s.Name, Policy: policy, Name: s.Name, Requests: s.Requests, Window: window, Burst: s.Burst}
		if l.Burst == 0 {
			l.Burst = s.Requests
		}
		countBy(l, s.By, guard.ByAddress)
		limits = append(limits, l)
	}
	return &limits, nil
}

func compileQuotas(policy string, specs []v1alpha1.Quota) *[]*guard.Limit {
	limits := []*guard.Limit{}
	for _, s := range specs {
		l := &guard.Limit{
			ID: policy + "/quota/" + s.Name, Policy: policy, Name: s.Name, Requests: s.Requests,
			Calendar: map[string]guard.Calendar{"Hour": guard.Hour, "Day": guard.Day, "Month": guard.Month}[s.Per],
		}
		countBy(l, s.By, guard.ByClient)
		limits = append(limits, l)
	}
	return &limits
}

func countBy(l *guard.Limit, by *v1alpha1.CountBy, otherwise guard.By) {
	l.By = otherwise
	if by == nil {
		return
	}
	l.Named = by.Name
	l.By = map[string]guard.By{
		"Address": guard.ByAddress, "Client": guard.ByClient, "Claim": guard.ByClaim, "Header": guard.ByHeader,
		"Host": guard.ByHost, "Tenant": guard.ByNamespace, "Route": guard.ByRoute,
	}[by.Type]
}
