package translate

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

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
	// Listeners says that Gateways, ListenerSets or GatewayClasses may differ.
	Listeners bool
	// BackendTLS says that BackendTLSPolicies may differ.
	BackendTLS bool
	// IngressClasses may differ, and with them which Ingresses are ours.
	IngressClasses bool
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

// placed is a route as it was compiled, and where it is attached; or an Ingress.
type placed struct {
	route       *anyRoute
	compiled    *compiledRoute
	attachments []attachment
	kept        []*listener // that it is not attached to because another kind has its hosts

	services []types.NamespacedName // of an Ingress
	parts    []ingressPlace
}

// attachment is a listener that has the rules of a route for these hosts.
type attachment struct {
	listener *listener
	hosts    []string
}

// on says whether the route is attached to a listener.
func (p *placed) on(l *listener) bool {
	return slices.ContainsFunc(p.attachments, func(a attachment) bool { return a.listener == l })
}

// use notes which Services a route or an Ingress refers to.
func (t *translation) use(name RouteName, services []types.NamespacedName) {
	for _, s := range services {
		if t.users[s] == nil {
			t.users[s] = map[RouteName]bool{}
		}
		t.users[s][name] = true
		if name.Kind == "Ingress" && t.placed[name] != nil {
			t.placed[name].services = append(t.placed[name].services, s)
		}
	}
}

// Update compiles what a change concerns into a copy of the last table that shares everything
// else with it. It returns false where a change can concern more than that: then Translate is
// needed. Of the objects only the look-ups are used, and the lists of what the change says may
// differ; those of Gateways, ListenerSets, GatewayClasses and BackendTLSPolicies must be there
// also for changes of references and grants.
func (t *Translator) Update(objects Objects, c Change) (*Result, bool) {
	if t.last == nil || t.last.remembered() > t.most {
		return nil, false
	}
	before := t.last.result
	result, ok := t.last.update(objects, c)
	if !ok {
		t.last.result = before
	}
	return result, ok
}

// affected is what a change is about, as far as that is known.
type affected struct {
	names      map[RouteName]bool // routes and Ingresses to be compiled again
	resettled  map[RouteName]bool // routes that may be attached elsewhere
	listeners  bool
	backendTLS bool
	policies   bool
	// certificates says that listeners or Ingresses offer other ones.
	certificates bool
	rotated      []*route.Certificate // that only take the place of others
	opened       opened               // what the listeners were in the table, if listeners
}

func (t *translation) update(objects Objects, c Change) (*Result, bool) {
	a := &affected{
		names: maps.Clone(c.Routes), resettled: map[RouteName]bool{},
		listeners: c.Listeners, backendTLS: c.BackendTLS, policies: c.Policies || c.Listeners || c.IngressClasses,
	}
	if a.names == nil {
		a.names = map[RouteName]bool{}
	}
	t.adopt(objects)
	t.concern(c, a)
	t.references(c.References, a)
	if len(c.Grants) > 0 {
		t.readGrants(objects.Grants)
	}
	if c.Policies {
		t.AccessPolicies, t.TrafficPolicies = objects.AccessPolicies, objects.TrafficPolicies
	}
	before := t.result
	t.result = before.successor()
	clear(t.policies.copies) // of this run only
	if c.IngressClasses {
		t.reclass(objects, a)
	}
	if a.listeners {
		t.relisten(objects, a)
	}
	if a.backendTLS {
		t.resecure(objects, a)
	}
	for name := range a.names {
		a.policies = a.policies || t.hasPolicy(name) // whose status says whether the route exists
	}
	if a.policies {
		t.reattach(a.names)
	}
	if len(a.names) > maxUpdate {
		return nil, false
	}
	present, ingresses, ok := t.separate(a)
	if !ok {
		return nil, false
	}
	t.builder = before.Table.Edit()
	t.replace(a, present, ingresses)
	t.gatewayStatuses()
	t.listenerSetStatuses()
	t.backendTLSStatuses()
	return t.finish(), true
}

// replace takes out of the table what is affected, and puts in what there is instead.
func (t *translation) replace(a *affected, present []*anyRoute, ingresses []*networkingv1.Ingress) {
	if a.certificates {
		t.builder.ClearCertificates()
	}
	for _, cert := range a.rotated {
		t.builder.ReplaceCertificate(cert)
	}
	if a.policies {
		t.demandAnew()
	}
	for name := range a.names {
		if name.Kind == "Ingress" {
			t.displaceIngress(name)
			continue
		}
		t.displace(name)
		t.result.Routes[name] = nil
	}
	for name := range a.resettled {
		t.unsettle(name)
	}
	if a.listeners {
		t.reopen(a.opened)
	}
	for name := range a.resettled {
		if p := t.placed[name]; p != nil && !a.names[name] {
			present = append(present, p.route)
		}
	}
	for _, r := range oldestFirst(present) {
		if name := (RouteName{r.kind, nameOf(r)}); t.placed[name] != nil {
			t.settle(name)
			continue
		}
		t.route(r)
	}
	for _, i := range oldestFirst(ingresses) {
		t.ingress(i)
	}
	if a.certificates {
		t.offerCertificates()
	}
}

// successor is a result in which everything is as it was that only a whole translation, or
// a change of policies, decides.
func (r *Result) successor() *Result {
	next := newResult()
	next.Partial, next.Classes = true, r.Classes
	next.Ingresses, next.IngressProblems = slices.Clone(r.Ingresses), maps.Clone(r.IngressProblems)
	next.AccessPolicies, next.TrafficPolicies, next.keySets = r.AccessPolicies, r.TrafficPolicies, r.keySets
	return next
}

// Adopt makes the result of an update complete with what an earlier one says of everything else.
func (r *Result) Adopt(earlier *Result) {
	if !r.Partial {
		return
	}
	changed := r.Routes
	r.Routes, r.Partial = earlier.Routes, false
	for name, parents := range changed {
		if r.Routes[name] = parents; parents == nil {
			delete(r.Routes, name)
		}
	}
}

// concern finds what a change is about, by whom it names and who refers to that.
func (t *translation) concern(c Change, a *affected) {
	for s := range c.Services {
		maps.Copy(a.names, t.users[s])
	}
	for namespace := range c.Grants {
		maps.Copy(a.names, t.abroad[namespace])
		a.listeners = a.listeners || t.lent[namespace] // a listener may refer to what is there
	}
}

// separate returns what there is of the named routes and Ingresses, if all of them can be
// compiled without the others.
func (t *translation) separate(a *affected) (present []*anyRoute, ingresses []*networkingv1.Ingress, ok bool) {
	for name := range a.names {
		if name.Kind == "Ingress" {
			if !t.separableIngress(name, a) {
				return nil, nil, false
			}
			if i := t.ourIngress(name); i != nil {
				ingresses = append(ingresses, i)
			}
			continue
		}
		r := t.lookUp(name)
		if !t.separable(name, r) {
			return nil, nil, false
		}
		if r != nil {
			present = append(present, r)
		}
	}
	for name := range a.resettled {
		if p := t.placed[name]; p != nil && !t.separable(name, p.route) {
			return nil, nil, false
		}
	}
	return present, ingresses, true
}

// adopt takes the look-ups of new objects, and remembers what is looked up.
func (t *translation) adopt(o Objects) {
	t.HTTPRoute, t.GRPCRoute, t.TLSRoute, t.TCPRoute, t.Ingress = o.HTTPRoute, o.GRPCRoute, o.TLSRoute, o.TCPRoute, o.Ingress
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

// references finds what changed objects mean to those who refer to them.
func (t *translation) references(changed map[Reference]bool, a *affected) {
	for r := range changed {
		if !t.asked[r] && !(r.Kind == "Credential" && t.asked[allCredentials(r.Namespace)]) {
			continue // nobody refers to it
		}
		switch r.Kind {
		case "Credential":
			a.policies = true
		case "ConfigMap": // it may hold authorities, keys or both
			a.policies = true
			if t.asked[Reference{authoritiesOf, r.NamespacedName}] {
				a.listeners, a.backendTLS = true, true
			}
		case "Namespace":
			a.listeners = true
			for name, p := range t.placed {
				if p.route != nil && name.Namespace == r.Name {
					a.resettled[name] = true
				}
			}
		case "Secret":
			t.certificateChanged(r.NamespacedName, a)
		}
	}
}

// certificateChanged replaces a certificate, or has all look again who refer to it.
func (t *translation) certificateChanged(name types.NamespacedName, a *affected) {
	before, known := t.certificates[name]
	cert, err := t.certificate(name)
	if known && before.err == nil && err == nil && !t.clientPairs[name] {
		a.rotated = append(a.rotated, cert)
		for _, l := range t.listeners {
			for i, c := range l.certificates {
				if c.Source == cert.Source {
					l.certificates = slices.Clone(l.certificates)
					l.certificates[i] = cert
				}
			}
		}
		return
	}
	a.listeners, a.certificates = true, true
	for ingress, i := range t.ingresses {
		if i.Namespace == name.Namespace && slices.ContainsFunc(i.Spec.TLS, func(s networkingv1.IngressTLS) bool { return s.SecretName == name.Name }) {
			a.names[ingress] = true
		}
	}
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
	case "TLSRoute":
		if r := t.TLSRoute(name.NamespacedName); r != nil {
			return t.tlsRoute(r)
		}
	case "TCPRoute":
		if r := t.TCPRoute(name.NamespacedName); r != nil {
			return t.tcpRoute(r)
		}
	}
	return nil
}

// separable says whether a route can be compiled without the others: HTTPRoutes and GRPCRoutes
// keep each other from host names.
func (t *translation) separable(name RouteName, now *anyRoute) bool {
	decides := func(l *listener, hosts []string) bool {
		if len(l.kept) > 0 {
			return true
		}
		other, _ := l.takenBy(name.Kind, hosts)
		return other != ""
	}
	if old := t.placed[name]; old != nil && slices.ContainsFunc(old.attachments, func(a attachment) bool { return decides(a.listener, a.hosts) }) {
		return false
	}
	return now == nil || !slices.ContainsFunc(now.parents, func(ref gatewayv1.ParentReference) bool {
		listeners, _ := t.parent(now, ref)
		return slices.ContainsFunc(listeners, func(l *listener) bool { return decides(l, hostsFor(l, now)) })
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
	for _, s := range old.compiled.services {
		delete(t.users[s], name)
	}
	for _, ref := range old.route.parents {
		if at, ok := old.route.parentName(ref); ok {
			delete(t.children[at], name)
		}
	}
	for _, l := range old.kept {
		delete(l.kept, name)
	}
	for _, a := range old.attachments {
		t.detach(name, old, a)
	}
}

// detach takes a route from a listener.
func (t *translation) detach(name RouteName, p *placed, a attachment) {
	l := a.listener
	l.attached--
	l.hostsOf(name.Kind).add(a.hosts, -1)
	if !l.opens() {
		return
	}
	routeName := p.route.String()
	for _, b := range t.builders(l) {
		if l.family == rawTCP {
			b.RemoveRawStreams(l.port, routeName)
			continue
		}
		for _, host := range a.hosts {
			if p.route.stream() {
				b.RemoveStreams(l.port, l.hostname, hostPattern(host), routeName)
				continue
			}
			for _, rule := range p.compiled.rules {
				for _, match := range rule.matches {
					b.RemoveRules(l.port, l.tls, l.hostname, hostPattern(host), match, routeName)
				}
			}
		}
	}
}
