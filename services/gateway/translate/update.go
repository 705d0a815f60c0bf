package translate

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// Change names what may differ from the objects of the last translation.
type Change struct {
	Routes   map[RouteName]bool // and Ingresses
	Services map[types.NamespacedName]bool
	// References are objects that matter only to whom refers to them.
	References map[Reference]bool
	// Grants are the namespaces of ReferenceGrants.
	Grants map[string]bool
	// Policies says that AccessPolicies or TrafficPolicies may differ.
	Policies bool
}

// Reference names an object that is only looked up: a Secret, a ConfigMap, a Namespace,
// or a Credential, which is a Secret of CredentialsType.
type Reference struct {
	Kind string
	types.NamespacedName
}

// authoritiesOf is the kind that a ConfigMap is asked for as when it holds certificates of
// authorities, beside its own.
const authoritiesOf = "Authorities"

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
// table that shares everything else with it. It returns false where a change can
// concern more than that: then Translate is needed. Of the objects only the look-ups
// are used, and the lists of what the change says may differ.
func (t *Translator) Update(objects Objects, c Change) (*Result, bool) {
	if t.last == nil {
		return nil, false
	}
	before := t.last.result
	result, ok := t.last.update(objects, c)
	if !ok {
		t.last.result = before
	}
	return result, ok
}

func (t *translation) update(objects Objects, c Change) (*Result, bool) {
	names, ok := t.concerned(c)
	if !ok {
		return nil, false
	}
	t.adopt(objects)
	if len(c.Grants) > 0 {
		t.readGrants(objects.Grants)
	}
	rotated, policies, ok := t.references(c.References)
	if !ok {
		return nil, false
	}
	if c.Policies {
		t.AccessPolicies, t.TrafficPolicies = objects.AccessPolicies, objects.TrafficPolicies
	}
	before := t.result
	t.result = before.successor()
	clear(t.policies.copies) // of this run only
	for name := range names {
		policies = policies || t.hasPolicy(name) // whose status says whether the route exists
	}
	if policies = policies || c.Policies; policies && !t.reattach(names) {
		return nil, false
	}
	if len(names) > maxUpdate {
		return nil, false
	}
	present, ingresses, ok := t.separate(names)
	if !ok {
		return nil, false
	}
	t.builder = before.Table.Edit()
	for _, cert := range rotated {
		t.builder.ReplaceCertificate(cert)
	}
	if policies {
		t.demandAnew()
	}
	for name := range names {
		if name.Kind == "Ingress" {
			t.displaceIngress(name)
			continue
		}
		t.displace(name)
		t.result.Routes[name] = nil
	}
	for _, r := range oldestFirst(present) {
		t.route(r)
	}
	for _, i := range oldestFirst(ingresses) {
		t.ingress(i, t.knownCertificates)
	}
	t.gatewayStatuses()
	t.listenerSetStatuses()
	return t.finish(), true
}

// successor is a result in which everything is as it was that only a whole translation, or
// a change of policies, decides.
func (r *Result) successor() *Result {
	next := newResult()
	next.Partial, next.Classes, next.Wishes = true, r.Classes, r.Wishes
	next.Ingresses, next.IngressProblems = slices.Clone(r.Ingresses), maps.Clone(r.IngressProblems)
	next.AdoptPolicies(r)
	return next
}

// concerned are the routes that a change names, directly or by what they refer to.
func (t *translation) concerned(c Change) (names map[RouteName]bool, ok bool) {
	names = map[RouteName]bool{}
	maps.Copy(names, c.Routes)
	for s := range c.Services {
		if t.fixed[s] || t.secured.targeted[s] {
			return nil, false
		}
		maps.Copy(names, t.users[s])
	}
	for namespace := range c.Grants {
		if t.lent[namespace] {
			return nil, false // a listener may refer to what is there
		}
		maps.Copy(names, t.abroad[namespace])
	}
	return names, true
}

// separate returns what there is of the named routes and Ingresses, if all of them can be
// compiled without the others.
func (t *translation) separate(names map[RouteName]bool) (present []*anyRoute, ingresses []*networkingv1.Ingress, ok bool) {
	for name := range names {
		if name.Kind == "Ingress" {
			if !t.separableIngress(name) {
				return nil, nil, false
			}
			if i := t.ourIngress(name); i != nil {
				ingresses = append(ingresses, i)
			}
			continue
		}
		if !t.separable(name) {
			return nil, nil, false
		}
		if r := t.lookUp(name); r != nil {
			present = append(present, r)
		}
	}
	return present, ingresses, true
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

// references returns the certificates that take the place of others, and whether policies
// must be read again. It reports false where a changed object means more than that to somebody.
func (t *translation) references(changed map[Reference]bool) (certs []*route.Certificate, policies, ok bool) {
	for r := range changed {
		if !t.asked[r] && !(r.Kind == "Credential" && t.asked[allCredentials(r.Namespace)]) {
			continue // nobody refers to it
		}
		switch {
		case r.Kind == "Credential", r.Kind == "ConfigMap" && !t.asked[Reference{authoritiesOf, r.NamespacedName}]:
			policies = true
			continue
		case r.Kind != "Secret" || t.clientPairs[r.NamespacedName]:
			return nil, false, false
		}
		before, known := t.certificates[r.NamespacedName]
		cert, err := t.certificate(r.NamespacedName)
		if !known || before.err != nil || err != nil {
			return nil, false, false // listeners, and who waits for a certificate, say so
		}
		certs = append(certs, cert)
	}
	return certs, policies, true
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
