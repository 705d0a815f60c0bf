package translate

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// Change names what may differ from the objects of the last translation.
type Change struct {
	Routes   map[RouteName]bool // and Ingresses
	Services map[types.NamespacedName]bool
	// References are objects that matter only to whom refers to them.
	References map[Reference]bool
}

// Reference names an object that is only looked up: a Secret, a ConfigMap, a Namespace,
// or a Credential, which is a Secret of CredentialsType.
type Reference struct {
	Kind string
	types.NamespacedName
}

// maxUpdate is for how many routes compiling everything anew is not slower.
const maxUpdate = 1000

// placed is where a route has been attached.
type placed struct {
	services    []types.NamespacedName
	attachments []attachment
	parts       []ingressPlace
}

type attachment struct {
	listener *listener
	hosts    []string
	rules    []compiledRule
}

func (p *placed) add(l *listener, hosts []string, rules []compiledRule) {
	p.attachments = append(p.attachments, attachment{l, hosts, rules})
}

// use notes which Services a route or an Ingress refers to.
func (t *translation) use(name RouteName, stream bool, services []types.NamespacedName) {
	for _, s := range services {
		if stream {
			t.fixed[s] = true
			continue
		}
		if t.users[s] == nil {
			t.users[s] = map[RouteName]bool{}
		}
		t.users[s][name] = true
		if name.Kind == "Ingress" && t.placed[name] != nil {
			t.placed[name].services = append(t.placed[name].services, s)
		}
	}
}

// Update compiles the routes that a change concerns into a copy of the last
// table that shares everything else with it. It returns false, and has done
// nothing, where a change can concern more than that: then Translate is needed.
// Only the look-ups of objects are used.
func (t *Translator) Update(objects Objects, c Change) (*Result, bool) {
	run := t.last
	if run == nil {
		return nil, false
	}
	names := map[RouteName]bool{}
	for name := range c.Routes {
		names[name] = true
	}
	for s := range c.Services {
		if run.fixed[s] || run.secured.targeted[s] {
			return nil, false
		}
		for name := range run.users[s] {
			names[name] = true
		}
	}
	if len(names) > maxUpdate {
		return nil, false
	}
	run.adopt(objects)
	clear(run.policies.rules) // of this run only
	rotated, ok := run.rotated(c.References)
	if !ok {
		return nil, false
	}
	var present []*anyRoute
	var ingresses []*networkingv1.Ingress
	for name := range names {
		if name.Kind == "Ingress" {
			if !run.separableIngress(name) {
				return nil, false
			}
			if i := run.ourIngress(name); i != nil {
				ingresses = append(ingresses, i)
			}
			continue
		}
		if !run.separable(name) {
			return nil, false
		}
		if r := run.lookUp(name); r != nil {
			present = append(present, r)
		}
	}
	before := run.result
	run.result = newResult()
	run.result.Partial, run.result.Classes, run.result.Wishes = true, before.Classes, before.Wishes
	run.result.Ingresses, run.result.IngressProblems = slices.Clone(before.Ingresses), maps.Clone(before.IngressProblems)
	run.builder = before.Table.Edit()
	for _, cert := range rotated {
		run.builder.ReplaceCertificate(cert)
	}
	for name := range names {
		if name.Kind == "Ingress" {
			run.displaceIngress(name)
			continue
		}
		run.displace(name)
		run.result.Routes[name] = nil
	}
	for _, r := range oldestFirst(present) {
		run.route(r)
	}
	for _, i := range oldestFirst(ingresses) {
		run.ingress(i, run.knownCertificates)
	}
	run.gatewayStatuses()
	run.listenerSetStatuses()
	return run.finish(), true
}

// adopt takes the look-ups of new objects, and remembers what is looked up.
func (t *translation) adopt(o Objects) {
	t.HTTPRoute, t.GRPCRoute, t.Ingress = o.HTTPRoute, o.GRPCRoute, o.Ingress
	t.Service, t.Issuing = o.Service, o.Issuing
	t.Secret = noting(t.asked, "Secret", o.Secret)
	t.ConfigMap = noting(t.asked, "ConfigMap", o.ConfigMap)
	t.Credential = noting(t.asked, "Credential", o.Credential)
	if namespace := o.Namespace; namespace != nil {
		t.Namespace = func(name string) *corev1.Namespace {
			t.asked[Reference{"Namespace", types.NamespacedName{Name: name}}] = true
			return namespace(name)
		}
	}
	if credentials := o.Credentials; credentials != nil {
		t.Credentials = func(namespace string) []*corev1.Secret {
			t.asked[allCredentials(namespace)] = true
			return credentials(namespace)
		}
	}
}

// allCredentials stands for those that are chosen by their labels.
func allCredentials(namespace string) Reference {
	return Reference{"Credential", types.NamespacedName{Namespace: namespace}}
}

func noting[T any](asked map[Reference]bool, kind string, lookUp func(types.NamespacedName) T) func(types.NamespacedName) T {
	if lookUp == nil {
		return nil
	}
	return func(name types.NamespacedName) T {
		asked[Reference{kind, name}] = true
		return lookUp(name)
	}
}

// rotated returns the certificates that take the place of others. It reports false where
// a changed object means more than that to somebody.
func (t *translation) rotated(changed map[Reference]bool) (certs []*route.Certificate, ok bool) {
	for r := range changed {
		if !t.asked[r] && !(r.Kind == "Credential" && t.asked[allCredentials(r.Namespace)]) {
			continue // nobody refers to it
		}
		if r.Kind != "Secret" || t.clientPairs[r.NamespacedName] {
			return nil, false
		}
		before, known := t.certificates[r.NamespacedName]
		cert, err := t.certificate(r.NamespacedName)
		if !known || before.err != nil || err != nil {
			return nil, false // listeners, and who waits for a certificate, say so
		}
		certs = append(certs, cert)
	}
	return certs, true
}

func (t *translation) lookUp(name RouteName) *anyRoute {
	switch name.Kind {
	case "HTTPRoute":
		if r := t.HTTPRoute(name.NamespacedName); r != nil {
			return t.httpRoute(r)
		}
	case "GRPCRoute":
		if r := t.GRPCRoute(name.NamespacedName); r != nil {
			return t.grpcRoute(r)
		}
	}
	return nil
}

// separable says whether a route can be compiled without the others: nothing
// that it does, or did, decides about another object.
func (t *translation) separable(name RouteName) bool {
	if name.Kind != "HTTPRoute" && name.Kind != "GRPCRoute" {
		return false
	}
	if t.hasPolicy(name) { // whose status says whether the route exists
		return false
	}
	var listeners []*listener
	services := []types.NamespacedName{}
	if old := t.placed[name]; old != nil {
		services = old.services
		for _, a := range old.attachments {
			listeners = append(listeners, a.listener)
		}
	}
	if r := t.lookUp(name); r != nil {
		services = append(slices.Clip(services), r.compile(r).services...)
		for _, ref := range r.parents {
			of, _ := t.parent(r, ref)
			listeners = append(listeners, of...)
		}
	}
	// The Gateways that reach a Service are in the status of its policy.
	if slices.ContainsFunc(services, func(s types.NamespacedName) bool { return t.secured.targeted[s] }) {
		return false
	}
	// HTTPRoutes and GRPCRoutes keep each other from host names.
	return !slices.ContainsFunc(listeners, func(l *listener) bool {
		for kind, hosts := range l.hosts {
			if kind != name.Kind && !hosts.empty() {
				return true
			}
		}
		return false
	})
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

// displace takes a route out of the table and of what the listeners count.
func (t *translation) displace(name RouteName) {
	old := t.placed[name]
	if old == nil {
		return
	}
	delete(t.placed, name)
	if t.lookUp(name) == nil {
		delete(t.good, name)
	}
	for _, s := range old.services {
		delete(t.users[s], name)
	}
	for _, a := range old.attachments {
		l := a.listener
		l.attached--
		l.hostsOf(name.Kind).add(a.hosts, -1)
		routeName := name.Kind + "/" + name.Namespace + "/" + name.Name
		for _, b := range t.builders(l.gateway) {
			for _, rule := range a.rules {
				for _, host := range a.hosts {
					for _, match := range rule.matches {
						if l.serves() && refusedGateway(l.gateway) == nil {
							b.RemoveRules(l.port, l.tls, l.hostname, hostPattern(host), match, routeName)
						}
					}
				}
			}
		}
	}
}
