package translate

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// What policies demand is kept at places that rules refer to (guard.Place), so a change of a
// policy is a new demand at some of them. Rules are compiled again only for a route that gets
// its first policy or loses the last one, since it inherits from other objects then.

// reattach reads the policies again, and adds the routes to names that must be compiled for
// it.
func (t *translation) reattach(names map[RouteName]bool) {
	p := &t.policies
	before := *p
	t.result.AccessPolicies, t.result.TrafficPolicies = map[types.NamespacedName]gatewayv1.PolicyStatus{}, map[types.NamespacedName]gatewayv1.PolicyStatus{}
	t.attachPolicies()
	for _, attached := range []*policies{&before, p} {
		for at := range attached.all() {
			if before.access[at] == p.access[at] && before.traffic[at] == p.traffic[at] {
				continue
			}
			appears := before.has(at) != p.has(at)
			switch at.kind {
			case "Namespace":
			case "Gateway":
				if at.section != "" && !p.precise[at] { // its listener has been nobody's before
					p.precise[at] = true
					t.nameAttached(at, names)
				}
			default:
				name := RouteName{at.kind, types.NamespacedName{Namespace: at.namespace, Name: at.name}}
				if t.placed[name] != nil && (appears || at.kind == "Ingress") { // whose problems tell of its policies
					names[name] = true
				}
			}
		}
	}
}

// nameAttached names the routes of a listener.
func (t *translation) nameAttached(at target, names map[RouteName]bool) {
	for name, p := range t.placed {
		if slices.ContainsFunc(p.attachments, func(on attachment) bool {
			g := on.listener.gateway
			return g.Namespace == at.namespace && g.Name == at.name && string(on.listener.spec.Name) == at.section
		}) {
			names[name] = true
		}
	}
}

// demandAnew says at every place what policies demand there now.
func (t *translation) demandAnew() {
	for line, place := range t.policies.places {
		t.builder.SetGuard(place, t.demanded(line))
	}
	t.cache.merged = t.policies.merged
}

// hasPolicy says whether a policy is for the route in particular.
func (t *translation) hasPolicy(name RouteName) bool {
	names := func(namespace string, refs refs) bool {
		return namespace == name.Namespace && slices.ContainsFunc(refs, func(r gatewayv1.LocalPolicyTargetReferenceWithSectionName) bool {
			return string(r.Kind) == name.Kind && string(r.Name) == name.Name
		})
	}
	return slices.ContainsFunc(t.AccessPolicies, func(p *v1alpha1.AccessPolicy) bool { return names(p.Namespace, p.Spec.TargetRefs) }) ||
		slices.ContainsFunc(t.TrafficPolicies, func(p *v1alpha1.TrafficPolicy) bool { return names(p.Namespace, p.Spec.TargetRefs) })
}
