package translate

import (
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// anyRoute is a route of any kind, with what they all have.
type anyRoute struct {
	metav1.Object
	kind      string
	parents   []gatewayv1.ParentReference
	hostnames []gatewayv1.Hostname
	compile   func(*anyRoute) *compiledRoute
}

// String names the route as metrics and logs do.
func (r *anyRoute) String() string { return r.kind + "/" + r.GetNamespace() + "/" + r.GetName() }

// stream says whether the route is for connections rather than for requests.
func (r *anyRoute) stream() bool { return r.kind == "TLSRoute" || r.kind == "TCPRoute" }

// compiledRule is a rule of a route with all the ways to reach it.
type compiledRule struct {
	matches []route.Match // none for rules of connections
	rule    *route.Rule
}

// compiledRoute is a route independent of where it is attached.
type compiledRoute struct {
	rules []compiledRule
	// services are those that the rules refer to.
	services []types.NamespacedName
	// refused holds the first reference that cannot be used, or nil.
	refused *refusal
	// invalid holds what is wrong with rules, one sentence each.
	invalid []string
	// mistakes are what is wrong with a later version of the route, which is not
	// served for that reason.
	mistakes []string
}

// routes lists the routes of all kinds.
func (t *translation) routes() []*anyRoute {
	list := make([]*anyRoute, 0, len(t.Routes)+len(t.GRPCRoutes)+len(t.TLSRoutes)+len(t.TCPRoutes))
	for _, r := range t.Routes {
		list = append(list, t.httpRoute(r))
	}
	for _, r := range t.GRPCRoutes {
		list = append(list, t.grpcRoute(r))
	}
	for _, r := range t.TLSRoutes {
		list = append(list, t.tlsRoute(r))
	}
	for _, r := range t.TCPRoutes {
		list = append(list, t.tcpRoute(r))
	}
	return list
}

func (t *translation) tlsRoute(r *gatewayv1.TLSRoute) *anyRoute {
	return &anyRoute{r, "TLSRoute", r.Spec.ParentRefs, r.Spec.Hostnames, func(a *anyRoute) *compiledRoute {
		var rules [][]gatewayv1.BackendRef
		for _, rule := range r.Spec.Rules {
			rules = append(rules, rule.BackendRefs)
		}
		return t.compileStream(a, rules)
	}}
}

func (t *translation) tcpRoute(r *gatewayv1.TCPRoute) *anyRoute {
	return &anyRoute{r, "TCPRoute", r.Spec.ParentRefs, nil, func(a *anyRoute) *compiledRoute {
		var rules [][]gatewayv1.BackendRef
		for _, rule := range r.Spec.Rules {
			rules = append(rules, rule.BackendRefs)
		}
		return t.compileStream(a, rules)
	}}
}

func (t *translation) httpRoute(r *gatewayv1.HTTPRoute) *anyRoute {
	return &anyRoute{r, "HTTPRoute", r.Spec.ParentRefs, r.Spec.Hostnames, func(a *anyRoute) *compiledRoute { return t.compileHTTP(a, r.Spec.Rules) }}
}

func (t *translation) grpcRoute(r *gatewayv1.GRPCRoute) *anyRoute {
	return &anyRoute{r, "GRPCRoute", r.Spec.ParentRefs, r.Spec.Hostnames, func(a *anyRoute) *compiledRoute { return t.compileGRPC(a, r.Spec.Rules) }}
}

// route attaches a route to the listeners that it names and that allow it.
func (t *translation) route(r *anyRoute) {
	r, compiled := t.lastGood(r)
	name := RouteName{r.kind, nameOf(r)}
	t.placed[name] = &placed{route: r, compiled: compiled}
	t.use(name, compiled.services)
	for _, ref := range r.parents {
		if at, ok := r.parentName(ref); ok {
			if t.children[at] == nil {
				t.children[at] = map[RouteName]bool{}
			}
			t.children[at][name] = true
		}
	}
	t.settle(name)
}

// settle attaches a route to those of its listeners on which it is not yet.
func (t *translation) settle(name RouteName) {
	p := t.placed[name]
	r, compiled := p.route, p.compiled
	for _, l := range p.kept {
		delete(l.kept, name)
	}
	p.kept = nil
	var parents []gatewayv1.RouteParentStatus
	for i, ref := range r.parents {
		listeners, ours := t.parent(r, ref)
		if !ours {
			continue
		}
		t.builder.SetOrder(route.Order{Age: r.GetCreationTimestamp().Unix(), Name: nameOf(r).String(), Index: i * maxRules})
		accepted := t.attach(p, ref, listeners)
		parents = append(parents, gatewayv1.RouteParentStatus{
			ParentRef:      ref,
			ControllerName: ControllerName,
			Conditions:     t.conditions(compiled, accepted, r.GetGeneration()),
		})
	}
	if parents != nil || t.result.Partial {
		t.result.Routes[name] = parents
	}
}

// maxRules is more than the matches that a route can have on one listener: rules that it
// has by its second parent come after those by its first one.
const maxRules = 1 << 20

// lastGood compiles a route or, if there is a mistake in it and there was none in
// an earlier version, that one.
func (t *translation) lastGood(r *anyRoute) (*anyRoute, *compiledRoute) {
	name := RouteName{r.kind, nameOf(r)}
	compiled := r.compile(r)
	if len(compiled.invalid) == 0 {
		t.good[name] = r.Object
		return r, compiled
	}
	good := t.good[name]
	if good == nil || good.GetUID() != r.GetUID() || good.GetGeneration() >= r.GetGeneration() {
		return r, compiled
	}
	var earlier *anyRoute
	switch o := good.(type) {
	case *gatewayv1.HTTPRoute:
		earlier = t.httpRoute(o)
	case *gatewayv1.GRPCRoute:
		earlier = t.grpcRoute(o)
	default:
		return r, compiled // the others cannot have mistakes
	}
	instead := earlier.compile(earlier)
	if len(instead.invalid) > 0 {
		return r, compiled
	}
	instead.mistakes = compiled.invalid
	// Where it is attached, and of which version statuses tell, is what it says now.
	return &anyRoute{r.Object, r.kind, r.parents, earlier.hostnames, earlier.compile}, instead
}

// parent finds the listeners of the Gateway or ListenerSet that ref names, and
// says whether that is ours at all.
func (t *translation) parent(r *anyRoute, ref gatewayv1.ParentReference) (listeners []*listener, ours bool) {
	at, ok := r.parentName(ref)
	if !ok {
		return nil, false
	}
	listeners, ours = t.byParent[at]
	return listeners, ours
}

// parentName is the Gateway or ListenerSet that ref names, if it names one.
func (r *anyRoute) parentName(ref gatewayv1.ParentReference) (name parentName, ok bool) {
	kind := string(deref(ref.Kind, "Gateway"))
	return parentName{kind, types.NamespacedName{
		Namespace: string(deref(ref.Namespace, gatewayv1.Namespace(r.GetNamespace()))), Name: string(ref.Name),
	}}, deref(ref.Group, gatewayv1.GroupName) == gatewayv1.GroupName && (kind == "Gateway" || kind == "ListenerSet")
}

// selects says whether a reference to its Gateway or ListenerSet means a listener.
func selects(ref gatewayv1.ParentReference, l *listener) bool {
	return (ref.SectionName == nil || *ref.SectionName == l.spec.Name) && (ref.Port == nil || *ref.Port == l.spec.Port)
}

// attach adds the rules to every listener that ref selects and that has them not yet, and
// returns the Accepted condition.
func (t *translation) attach(p *placed, ref gatewayv1.ParentReference, listeners []*listener) metav1.Condition {
	r, c := p.route, p.compiled
	refuse := func(reason gatewayv1.RouteConditionReason, message string) metav1.Condition {
		return condition(string(gatewayv1.RouteConditionAccepted), string(reason), false, r.GetGeneration(), message)
	}
	selected, allowed, matching, attached := 0, 0, 0, 0
	var taken string
	for _, l := range listeners {
		if !selects(ref, l) {
			continue
		}
		selected++
		if p.on(l) {
			allowed, matching, attached = allowed+1, matching+1, attached+1
			continue
		}
		if !t.allows(l, r.kind, r.GetNamespace()) {
			continue
		}
		allowed++
		hosts := hostsFor(l, r)
		if len(hosts) == 0 {
			continue
		}
		matching++
		if other, host := l.takenBy(r.kind, hosts); other != "" {
			l.kept[RouteName{r.kind, nameOf(r)}] = true
			p.kept = append(p.kept, l)
			taken = fmt.Sprintf("host name %q is already served by a %s: the two kinds cannot share one", host, other)
			continue
		}
		attached++
		if len(c.rules) == 0 && len(c.invalid) > 0 {
			continue
		}
		l.attached++
		l.hostsOf(r.kind).add(hosts, 1)
		p.attachments = append(p.attachments, attachment{l, hosts})
		if l.opens() {
			t.addRules(l, hosts, c.rules)
		}
	}
	switch {
	case selected == 0:
		return refuse(gatewayv1.RouteReasonNoMatchingParent, "the parent has no listener with the sectionName and port of this parentRef")
	case allowed == 0:
		return refuse(gatewayv1.RouteReasonNotAllowedByListeners, fmt.Sprintf("no listener allows %ss of namespace %s: see allowedRoutes and protocol of the listeners", r.kind, r.GetNamespace()))
	case matching == 0:
		return refuse(gatewayv1.RouteReasonNoMatchingListenerHostname, "no listener serves any of the route's hostnames")
	case attached == 0:
		return refuse(gatewayv1.RouteReasonUnsupportedValue, taken)
	case len(c.rules) == 0 && len(c.invalid) > 0:
		return refuse(gatewayv1.RouteReasonUnsupportedValue, strings.Join(c.invalid, "; "))
	}
	return condition(string(gatewayv1.RouteConditionAccepted), string(gatewayv1.RouteReasonAccepted), true, r.GetGeneration(), "")
}

// takenBy says which other kind of requests' routes has one of the hosts here.
func (l *listener) takenBy(kind string, hosts []string) (other, host string) {
	for other, theirs := range l.hosts {
		if other == kind {
			continue
		}
		for _, h := range hosts {
			if theirs.overlaps(h) {
				return other, h
			}
		}
	}
	return "", ""
}

func (l *listener) hostsOf(kind string) *hostSet {
	if l.hosts[kind] == nil {
		l.hosts[kind] = &hostSet{precise: map[string]int{}, wide: map[string]int{}}
	}
	return l.hosts[kind]
}

// hostSet counts how many routes serve a host, the precise ones and those with a
// wildcard or for all apart: a precise name can only overlap with itself and with
// the few others.
type hostSet struct{ precise, wide map[string]int }

func (s *hostSet) of(host string) map[string]int {
	if host == route.AnyHost || strings.HasPrefix(host, "*.") {
		return s.wide
	}
	return s.precise
}

func (s *hostSet) add(hosts []string, n int) {
	for _, h := range hosts {
		m := s.of(h)
		if m[h] += n; m[h] <= 0 {
			delete(m, h)
		}
	}
}

func (s *hostSet) empty() bool { return len(s.precise)+len(s.wide) == 0 }

func (s *hostSet) overlaps(host string) bool {
	if s.precise[host] > 0 || s.wide[host] > 0 {
		return true
	}
	lists := []map[string]int{s.wide}
	if host == route.AnyHost || strings.HasPrefix(host, "*.") {
		lists = append(lists, s.precise)
	}
	for _, list := range lists {
		for their := range list {
			if _, ok := route.Intersect(their, host); ok {
				return true
			}
		}
	}
	return false
}

func (t *translation) addRules(l *listener, hosts []string, rules []compiledRule) {
	for _, b := range t.builders(l) {
		for _, r := range rules {
			rule := t.protect(l, t.withClientCertificate(r.rule, l.gateway))
			if l.family == rawTCP {
				b.AddRawStream(l.port, rule)
				continue
			}
			for _, host := range hosts {
				if len(r.matches) == 0 {
					b.AddStream(l.port, l.hostname, hostPattern(host), rule)
				}
				for _, match := range r.matches {
					b.AddRule(l.port, l.tls, l.hostname, hostPattern(host), match, rule)
				}
			}
		}
	}
}

// hostsFor returns the host patterns that the route serves on the listener.
func hostsFor(l *listener, r *anyRoute) []string {
	if len(r.hostnames) == 0 {
		return []string{l.hostname}
	}
	var hosts []string
	for _, h := range r.hostnames {
		if host, ok := route.Intersect(l.hostname, strings.ToLower(string(h))); ok {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// conditions returns what the route says about one parent.
func (t *translation) conditions(c *compiledRoute, accepted metav1.Condition, generation int64) []metav1.Condition {
	if accepted.Status == metav1.ConditionTrue && c.refused == nil && len(c.mistakes)+len(c.invalid) == 0 {
		return t.wellConditions(accepted, generation)
	}
	resolved := condition(string(gatewayv1.RouteConditionResolvedRefs), string(gatewayv1.RouteReasonResolvedRefs), true, generation, "")
	if c.refused != nil {
		resolved = condition(string(gatewayv1.RouteConditionResolvedRefs), string(c.refused.reason), false, generation, c.refused.message)
	}
	conditions := []metav1.Condition{accepted, resolved}
	if len(c.mistakes) > 0 && accepted.Status == metav1.ConditionTrue {
		conditions = append(conditions, condition(string(gatewayv1.RouteConditionPartiallyInvalid), string(gatewayv1.RouteReasonUnsupportedValue), true, generation,
			"Fall Back: the last version without mistakes is served instead: "+strings.Join(c.mistakes, "; ")))
	}
	if len(c.invalid) > 0 && accepted.Status == metav1.ConditionTrue {
		conditions = append(conditions, condition(string(gatewayv1.RouteConditionPartiallyInvalid), string(gatewayv1.RouteReasonUnsupportedValue), true, generation,
			"Dropped Rule: "+strings.Join(c.invalid, "; ")))
	}
	return conditions
}

// wellConditions are those of a route with which nothing is wrong. Thousands have the same,
// which nobody changes.
func (t *translation) wellConditions(accepted metav1.Condition, generation int64) []metav1.Condition {
	if t.well[generation] == nil {
		if len(t.well) > maxShared {
			clear(t.well)
		}
		t.well[generation] = []metav1.Condition{accepted,
			condition(string(gatewayv1.RouteConditionResolvedRefs), string(gatewayv1.RouteReasonResolvedRefs), true, generation, "")}
	}
	return t.well[generation]
}

// maxShared bounds the conditions that routes share.
const maxShared = 1000

// addBackend resolves a weighted reference and notes what is wrong with it.
func (t *translation) addBackend(c *compiledRoute, r *anyRoute, ref gatewayv1.BackendRef) route.Backend {
	backend, refused := t.backendRef(r, ref.BackendObjectReference)
	backend.Weight = deref(ref.Weight, 1)
	if c.refused == nil {
		c.refused = refused
	}
	c.services = append(c.services, types.NamespacedName{Namespace: backend.Service.Namespace, Name: backend.Service.Name})
	return backend
}

// compileStream translates rules that only say where connections go.
func (t *translation) compileStream(r *anyRoute, rules [][]gatewayv1.BackendRef) *compiledRoute {
	c := &compiledRoute{}
	for _, refs := range rules {
		rule := &route.Rule{Route: r.String()}
		for _, ref := range refs {
			rule.Backends = append(rule.Backends, t.addBackend(c, r, ref))
		}
		c.rules = append(c.rules, compiledRule{rule: rule})
	}
	return c
}

// sharedAddress is where the ports are of those who ask for no address.
var sharedAddress netip.Addr
