package translate

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/guard"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// target is what a policy applies to. section is a listener of a Gateway or a rule
// of a route, or empty.
type target struct{ kind, namespace, name, section string }

func (t target) String() string {
	text := t.kind + " " + t.namespace + "/" + t.name
	if t.section != "" {
		text += " section " + t.section
	}
	return text
}

// levels is how many places a rule can inherit policies of one kind from: Gateway,
// listener, Namespace, route and rule, the more specific ones last.
const levels = 5

// inheritance is what policies one rule inherits. It is a key: policies that did not
// change are compiled once.
type inheritance struct {
	access  [levels]*accessParts
	traffic [levels]*trafficParts
}

// sparePlaces is how much may come up between two whole translations beyond twice what there was.
const sparePlaces = 1000

// policyCache remembers what policies were compiled to between translations.
type policyCache struct {
	access  map[types.NamespacedName]*accessParts
	traffic map[types.NamespacedName]*trafficParts
	merged  map[inheritance]*guard.Rules
}

// lineage is what a rule may inherit policies from. Those who cannot have a policy of
// their own, being a listener or a route that none is for, are left out, so that the rules of
// a thousand routes share one.
type lineage [levels]target

// policies is the state of one run.
type policies struct {
	access  map[target]*accessParts
	traffic map[target]*trafficParts
	merged  map[inheritance]*guard.Rules // those in use
	places  map[lineage]*guard.Place     // of the rules in the table
	copies  map[protectedRule]*route.Rule
	// annotated are the policies that annotations of Ingresses stand for.
	annotated []annotated
	// precise are the listeners that a policy is for, or was.
	precise map[target]bool
}

type protectedRule struct {
	rule  *route.Rule
	place *guard.Place
}

// readPolicies compiles the policies and finds out which of them apply where.
func (t *translation) readPolicies() {
	p := &t.policies
	p.places, p.copies, p.precise = map[lineage]*guard.Place{}, map[protectedRule]*route.Rule{}, map[target]bool{}
	p.annotated = t.annotatedIngresses()
	t.attachPolicies()
	for at := range p.all() {
		if at.kind == "Gateway" && at.section != "" {
			p.precise[at] = true
		}
	}
}

// attachPolicies attaches the policies to their targets.
func (t *translation) attachPolicies() {
	p := &t.policies
	p.merged = map[inheritance]*guard.Rules{}
	access, traffic := map[types.NamespacedName]*accessParts{}, map[types.NamespacedName]*trafficParts{}
	p.access = attach(t, "AccessPolicy", t.AccessPolicies, t.result.AccessPolicies,
		func(o *v1alpha1.AccessPolicy) (refs, *accessParts, error) {
			parts := t.compileAccess(o)
			access[nameOf(o)] = parts
			return o.Spec.TargetRefs, parts, parts.problem()
		})
	p.traffic = attach(t, "TrafficPolicy", t.TrafficPolicies, t.result.TrafficPolicies,
		func(o *v1alpha1.TrafficPolicy) (refs, *trafficParts, error) {
			parts := t.compileTraffic(o)
			traffic[nameOf(o)] = parts
			return o.Spec.TargetRefs, parts, parts.problem()
		})
	t.guardIngresses(access, traffic)
	t.cache.access, t.cache.traffic = access, traffic
	t.result.keySets = t.keySets()
}

// has says whether a policy applies to a target in particular.
func (p *policies) has(at target) bool { return p.access[at] != nil || p.traffic[at] != nil }

// all visits what policies apply to; some of it twice.
func (p *policies) all() iter.Seq[target] {
	return func(yield func(target) bool) {
		for at := range p.access {
			if !yield(at) {
				return
			}
		}
		for at := range p.traffic {
			if !yield(at) {
				return
			}
		}
	}
}

type refs = []gatewayv1.LocalPolicyTargetReferenceWithSectionName

// attach returns which policy of a kind each target has, and writes the statuses. Of
// two policies for the same target the older one applies.
func attach[P metav1.Object, C any](t *translation, kind string, list []P, statuses map[types.NamespacedName]gatewayv1.PolicyStatus, compile func(P) (refs, C, error)) map[target]C {
	attached, owners := map[target]C{}, map[target]types.NamespacedName{}
	for _, o := range oldestFirst(list) {
		targets, compiled, err := compile(o)
		var status gatewayv1.PolicyStatus
		for _, ref := range targets {
			at, found, ours := t.target(o.GetNamespace(), ref)
			if !ours {
				continue
			}
			say := func(ok bool, reason gatewayv1.PolicyConditionReason, message string) {
				status.Ancestors = append(status.Ancestors, gatewayv1.PolicyAncestorStatus{
					AncestorRef: ancestor(ref, at), ControllerName: ControllerName,
					Conditions: []metav1.Condition{condition(string(gatewayv1.PolicyConditionAccepted), string(reason), ok, o.GetGeneration(), message)},
				})
			}
			owner, taken := owners[at]
			switch {
			case !found:
				say(false, gatewayv1.PolicyReasonTargetNotFound, fmt.Sprintf("%s does not exist here", at))
				continue
			case taken && owner != nameOf(o):
				say(false, gatewayv1.PolicyReasonConflicted, fmt.Sprintf("%s %s is older and applies to %s: merge them or remove one", kind, owner, at))
				continue
			case err != nil:
				say(false, gatewayv1.PolicyReasonInvalid, err.Error()+"; what the policy protects is refused until it is right")
			default:
				say(true, gatewayv1.PolicyReasonAccepted, "")
			}
			attached[at], owners[at] = compiled, nameOf(o)
		}
		statuses[nameOf(o)] = status
	}
	return attached
}

func ancestor(ref gatewayv1.LocalPolicyTargetReferenceWithSectionName, at target) gatewayv1.ParentReference {
	a := gatewayv1.ParentReference{Group: &ref.Group, Kind: &ref.Kind, Name: ref.Name, SectionName: ref.SectionName}
	if at.kind != "Namespace" {
		namespace := gatewayv1.Namespace(at.namespace)
		a.Namespace = &namespace
	}
	return a
}

// target finds what a policy refers to, and says whether it is this gateway's.
func (t *translation) target(namespace string, ref gatewayv1.LocalPolicyTargetReferenceWithSectionName) (at target, found, ours bool) {
	at = target{string(ref.Kind), namespace, string(ref.Name), string(deref(ref.SectionName, ""))}
	switch string(ref.Group) + "/" + at.kind {
	case "/Namespace":
		return at, at.name == namespace && at.section == "", true
	case gatewayv1.GroupName + "/Gateway":
		g := named(t.Gateways, at)
		if g == nil {
			return at, false, true
		}
		_, ours = t.result.Classes[string(g.Spec.GatewayClassName)]
		return at, at.section == "" || slices.ContainsFunc(g.Spec.Listeners, func(l gatewayv1.Listener) bool { return string(l.Name) == at.section }), ours
	case gatewayv1.GroupName + "/HTTPRoute":
		r := t.HTTPRoute(types.NamespacedName{Namespace: namespace, Name: at.name})
		return at, r != nil && (at.section == "" || slices.ContainsFunc(r.Spec.Rules, func(r gatewayv1.HTTPRouteRule) bool {
			return string(deref(r.Name, "")) == at.section
		})), true
	case gatewayv1.GroupName + "/GRPCRoute":
		r := t.GRPCRoute(types.NamespacedName{Namespace: namespace, Name: at.name})
		return at, r != nil && (at.section == "" || slices.ContainsFunc(r.Spec.Rules, func(r gatewayv1.GRPCRouteRule) bool {
			return string(deref(r.Name, "")) == at.section
		})), true
	case gatewayv1.GroupName + "/TLSRoute":
		return at, t.TLSRoute(types.NamespacedName{Namespace: namespace, Name: at.name}) != nil && at.section == "", true
	case gatewayv1.GroupName + "/TCPRoute":
		return at, t.TCPRoute(types.NamespacedName{Namespace: namespace, Name: at.name}) != nil && at.section == "", true
	case "networking.k8s.io/Ingress":
		i := t.Ingress(types.NamespacedName{Namespace: namespace, Name: at.name})
		return at, i != nil && at.section == "", i == nil || t.ownsIngress(i)
	}
	return at, false, true
}

// named finds an object by the target's name.
func named[T metav1.Object](list []T, at target) (none T) {
	for _, o := range list {
		if o.GetName() == at.name && o.GetNamespace() == at.namespace {
			return o
		}
	}
	return none
}

// protect returns the rule with the place where policies say what they demand of it. l is
// the listener that it is reached by, or nil for an Ingress, which belongs to no Gateway.
func (t *translation) protect(l *listener, r *route.Rule) *route.Rule {
	p := &t.policies
	line := p.lineage(l, r)
	place := p.places[line]
	if place == nil {
		place = &guard.Place{}
		p.places[line] = place
		t.builder.SetGuard(place, t.demanded(line))
	}
	switch r.Guard {
	case nil:
		r.Guard = place // nobody else has it yet
		return r
	case place:
		return r
	}
	key := protectedRule{r, place}
	if p.copies[key] == nil {
		other := *r
		other.Guard = place
		p.copies[key] = &other
	}
	return p.copies[key]
}

func (p *policies) lineage(l *listener, r *route.Rule) (line lineage) {
	kind, rest, _ := strings.Cut(r.Route, "/")
	namespace, name, _ := strings.Cut(rest, "/")
	line[2] = target{"Namespace", namespace, namespace, ""}
	precise := func(level int, at target) {
		if p.has(at) {
			line[level] = at
		}
	}
	if l != nil {
		line[0] = target{"Gateway", l.gateway.Namespace, l.gateway.Name, ""}
		if at := (target{"Gateway", l.gateway.Namespace, l.gateway.Name, string(l.spec.Name)}); p.precise[at] {
			line[1] = at
		}
	}
	precise(3, target{kind, namespace, name, ""})
	if r.Name != "" {
		precise(4, target{kind, namespace, name, r.Name})
	}
	return line
}

// demanded is what the policies demand of those who inherit from line, or nil.
func (t *translation) demanded(line lineage) *guard.Rules {
	p := &t.policies
	var from inheritance
	for i, at := range line {
		from.access[i], from.traffic[i] = p.access[at], p.traffic[at]
	}
	if from == (inheritance{}) {
		return nil
	}
	rules := p.merged[from]
	if rules == nil {
		if rules = t.cache.merged[from]; rules == nil {
			rules = from.merge()
		}
		p.merged[from] = rules
	}
	return rules
}

// merge lets every field of a more specific policy take the place of the less
// specific ones', and then every field of a less specific policy that overrides that of
// the more specific ones (GEP-713, inherited policies, with the fields of spec as parts).
func (from *inheritance) merge() *guard.Rules {
	r := &guard.Rules{}
	broken := map[string]string{}
	use := func(field, policy string, err error) {
		delete(broken, field)
		if err != nil {
			broken[field] = policy
		}
	}
	for i := range levels {
		if a := from.access[i]; a != nil && !a.spec.Override {
			a.merge(r, use)
		}
		if a := from.traffic[i]; a != nil && !a.spec.Override {
			a.merge(r, use)
		}
	}
	for i := levels - 1; i >= 0; i-- {
		if a := from.access[i]; a != nil && a.spec.Override {
			a.merge(r, use)
		}
		if a := from.traffic[i]; a != nil && a.spec.Override {
			a.merge(r, use)
		}
	}
	for _, policy := range broken {
		if r.Broken == "" || policy < r.Broken {
			r.Broken = policy
		}
	}
	return r
}

// credential finds a Secret that holds credentials for policies.
func (t *translation) credential(namespace, name string) (*corev1.Secret, error) {
	var secret *corev1.Secret
	if t.Credential != nil {
		secret = t.Credential(types.NamespacedName{Namespace: namespace, Name: name})
	}
	if secret == nil {
		return nil, fmt.Errorf("Secret %s/%s of type %s does not exist: make it with kubectl create secret generic --type=%s", namespace, name, CredentialsType, CredentialsType)
	}
	return secret, nil
}

// CredentialsType is the type of the Secrets that policies may name: the gateway
// follows no others, but for certificates.
const CredentialsType = "gantry.dev/credentials"

// versionOf changes whenever a Secret or ConfigMap does.
func versionOf(o metav1.Object) string {
	return string(o.GetUID()) + "/" + o.GetNamespace() + "/" + o.GetName() + "/" + o.GetResourceVersion()
}

// sortedKeys makes the order of a map's entries the same each time.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, cmp.Compare[string])
	return keys
}

// keySets are those that AccessPolicies have read from somewhere.
func (t *translation) keySets() map[types.NamespacedName][]*guard.KeySet {
	sets := map[types.NamespacedName][]*guard.KeySet{}
	for name, a := range t.cache.access {
		if a.authentication.value != nil {
			sets[name] = a.authentication.value.KeySets()
		}
	}
	return sets
}

// AccessPolicyStatus is the status of a policy at this moment: the keys of tokens may
// have been read, or not, since the translation.
func (r *Result) AccessPolicyStatus(name types.NamespacedName) (gatewayv1.PolicyStatus, bool) {
	status, known := r.AccessPolicies[name]
	sets := r.keySets[name]
	if len(sets) == 0 {
		return status, known
	}
	status = *status.DeepCopy()
	for i := range status.Ancestors {
		a := &status.Ancestors[i]
		generation := a.Conditions[0].ObservedGeneration
		resolved := condition(string(gatewayv1.RouteConditionResolvedRefs), string(gatewayv1.RouteReasonResolvedRefs), true, generation, "")
		for _, set := range sets {
			if err := set.Problem(); err != nil {
				resolved = condition(string(gatewayv1.RouteConditionResolvedRefs), "KeysUnavailable", false, generation, fmt.Sprintf("read keys at %s: %v", set.URL, err))
			}
		}
		a.Conditions = append(a.Conditions, resolved)
	}
	return status, known
}
