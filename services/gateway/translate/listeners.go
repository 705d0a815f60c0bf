package translate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// parentName names what routes attach to: a Gateway or a ListenerSet.
type parentName struct {
	kind string
	types.NamespacedName
}

func parentOf(g *gatewayv1.Gateway, s *gatewayv1.ListenerSet) parentName {
	if s != nil {
		return parentName{"ListenerSet", nameOf(s)}
	}
	return parentName{"Gateway", nameOf(g)}
}

// listener is one listener of one Gateway of ours, and what became of it.
type listener struct {
	gateway  *gatewayv1.Gateway
	set      *gatewayv1.ListenerSet // that it comes from, or nil for the Gateway itself
	spec     *gatewayv1.Listener
	port     uint16
	hostname string
	// family of protocols: only those of one can share a port.
	family family
	tls    bool
	secure *route.Secure // or nil for plain HTTP and HTTPS

	kinds        []gatewayv1.RouteGroupKind
	certificates []*route.Certificate
	stale        bool         // certificates have one that is not in its Secret any more
	addresses    []netip.Addr // where its port is
	attached     int32
	// hosts that routes serve here, by the kind of the route: HTTPRoutes and
	// GRPCRoutes cannot share one. kept are routes that are not here for that reason.
	hosts map[string]*hostSet
	kept  map[RouteName]bool

	accepted, resolved, conflicted metav1.Condition
}

// family is a set of protocols that can share a port.
type family int

const (
	plainHTTP family = iota
	secured          // HTTPS and TLS, told apart by server name
	rawTCP
	unknown
)

// protocols are what listeners can be, and the kinds of routes for each.
var protocols = map[gatewayv1.ProtocolType]struct {
	family family
	kinds  []gatewayv1.Kind
}{
	gatewayv1.HTTPProtocolType:  {plainHTTP, []gatewayv1.Kind{"HTTPRoute", "GRPCRoute"}},
	gatewayv1.HTTPSProtocolType: {secured, []gatewayv1.Kind{"HTTPRoute", "GRPCRoute"}},
	gatewayv1.TLSProtocolType:   {secured, []gatewayv1.Kind{"TLSRoute"}},
	gatewayv1.TCPProtocolType:   {rawTCP, []gatewayv1.Kind{"TCPRoute"}},
}

// serves says whether the data plane should open the listener.
func (l *listener) serves() bool {
	usable := l.stale && len(l.certificates) > 0 || l.resolved.Status == metav1.ConditionTrue || l.resolved.Reason == string(gatewayv1.ListenerReasonInvalidRouteKinds)
	return l.accepted.Status == metav1.ConditionTrue && usable && len(l.kinds) > 0
}

// supported is never nil: the API wants a list.
func (l *listener) supported() []gatewayv1.RouteGroupKind {
	return append([]gatewayv1.RouteGroupKind{}, l.kinds...)
}

// owner is the object that the listener is written in.
func (l *listener) owner() (kind string, o metav1.Object) {
	if l.set != nil {
		return "ListenerSet", l.set
	}
	return "Gateway", l.gateway
}

func (l *listener) String() string {
	kind, o := l.owner()
	return fmt.Sprintf("listener %q of %s %s", l.spec.Name, kind, nameOf(o))
}

func (l *listener) accept(ok bool, reason gatewayv1.ListenerConditionReason, message string) {
	_, o := l.owner()
	l.accepted = condition(string(gatewayv1.ListenerConditionAccepted), string(reason), ok, o.GetGeneration(), message)
}

func (l *listener) resolve(ok bool, reason gatewayv1.ListenerConditionReason, message string) {
	_, o := l.owner()
	l.resolved = condition(string(gatewayv1.ListenerConditionResolvedRefs), string(reason), ok, o.GetGeneration(), message)
}

// addListener adds a listener, which is refused if it conflicts with an earlier one.
func (t *translation) addListener(l *listener) {
	if l.accepted.Status == metav1.ConditionTrue {
		t.conflict(l)
	}
	t.listeners = append(t.listeners, l)
	parent := parentOf(l.gateway, l.set)
	t.byParent[parent] = append(t.byParent[parent], l)
}

// opens says whether the listener is in the table, with the routes that are attached to it.
func (l *listener) opens() bool { return l.serves() && refusedGateway(l.gateway) == nil }

// open adds a listener to the table.
func (t *translation) open(l *listener) {
	if !l.opens() {
		return
	}
	for _, b := range t.builders(l) {
		switch {
		case l.family == rawTCP:
			b.AddRawListener(l.port)
		case l.secure != nil:
			b.AddSecureListener(l.port, l.hostname, l.secure)
		default:
			b.AddListener(l.port, l.tls, l.hostname)
		}
	}
}

func (t *translation) listener(g *gatewayv1.Gateway, set *gatewayv1.ListenerSet, spec *gatewayv1.Listener) *listener {
	l := &listener{
		gateway:  g,
		set:      set,
		spec:     spec,
		port:     uint16(spec.Port),
		hostname: strings.ToLower(string(deref(spec.Hostname, ""))),
		family:   unknown,
		hosts:    map[string]*hostSet{},
		kept:     map[RouteName]bool{},

		addresses: t.addresses[g],
	}
	l.accept(true, gatewayv1.ListenerReasonAccepted, "")
	l.resolve(true, gatewayv1.ListenerReasonResolvedRefs, "")
	_, o := l.owner()
	l.conflicted = condition(string(gatewayv1.ListenerConditionConflicted), string(gatewayv1.ListenerReasonNoConflicts), false, o.GetGeneration(), "")
	p, known := protocols[spec.Protocol]
	if !known {
		l.accept(false, gatewayv1.ListenerReasonUnsupportedProtocol,
			fmt.Sprintf("protocol %s is not supported: use HTTP, HTTPS, TLS or TCP", spec.Protocol))
		return l
	}
	l.family, l.tls = p.family, p.family == secured
	if l.family == rawTCP {
		l.hostname = "" // means nothing without a protocol that names hosts
	}
	l.supportedKinds(p.kinds)
	if l.tls {
		t.secureListener(l)
	}
	return l
}

// supportedKinds keeps those of the listener's allowed kinds that its protocol has.
func (l *listener) supportedKinds(kinds []gatewayv1.Kind) {
	group := gatewayv1.Group(gatewayv1.GroupName)
	if l.spec.AllowedRoutes == nil || len(l.spec.AllowedRoutes.Kinds) == 0 {
		for _, k := range kinds {
			l.kinds = append(l.kinds, gatewayv1.RouteGroupKind{Group: &group, Kind: k})
		}
		return
	}
	for _, k := range l.spec.AllowedRoutes.Kinds {
		if deref(k.Group, group) == group && slices.Contains(kinds, k.Kind) {
			l.kinds = append(l.kinds, gatewayv1.RouteGroupKind{Group: &group, Kind: k.Kind})
			continue
		}
		l.resolve(false, gatewayv1.ListenerReasonInvalidRouteKinds,
			fmt.Sprintf("routes of kind %s cannot be on a listener of protocol %s: allow %s", k.Kind, l.spec.Protocol, joinKinds(kinds)))
	}
}

func joinKinds(kinds []gatewayv1.Kind) string { return strings.Join(texts(kinds), " or ") }

// conflict refuses l if an earlier listener already has its place.
func (t *translation) conflict(l *listener) {
	_, o := l.owner()
	refuse := func(other *listener, reason gatewayv1.ListenerConditionReason, what string) {
		message := fmt.Sprintf("%s of port %d is already taken by %s", what, l.port, other)
		l.conflicted = condition(string(gatewayv1.ListenerConditionConflicted), string(reason), true, o.GetGeneration(), message)
		l.accept(false, reason, message)
	}
	for _, other := range t.listeners {
		if other.port != l.port || other.accepted.Status != metav1.ConditionTrue || !t.sameAddress(l.gateway, other.gateway) {
			continue
		}
		if other.family != l.family {
			refuse(other, gatewayv1.ListenerReasonProtocolConflict, "the protocol")
			return
		}
		// Listeners of different Gateways at the same address are merged if they
		// are equal; within one Gateway they are a mistake.
		if other.hostname == l.hostname && (other.gateway == l.gateway || l.family == rawTCP || !other.secure.Equal(l.secure)) {
			refuse(other, gatewayv1.ListenerReasonHostnameConflict, fmt.Sprintf("host name %q", l.hostname))
			return
		}
	}
}

func (t *translation) sameAddress(a, b *gatewayv1.Gateway) bool {
	for _, address := range t.addresses[a] {
		if slices.Contains(t.addresses[b], address) {
			return true
		}
	}
	return false
}

// allows says whether a route of the given kind and namespace may attach.
func (t *translation) allows(l *listener, kind, namespace string) bool {
	if !slices.ContainsFunc(l.kinds, func(k gatewayv1.RouteGroupKind) bool { return string(k.Kind) == kind }) {
		return false
	}
	var from gatewayv1.RouteNamespaces
	if l.spec.AllowedRoutes != nil && l.spec.AllowedRoutes.Namespaces != nil {
		from = *l.spec.AllowedRoutes.Namespaces
	}
	_, o := l.owner()
	return t.selects(deref(from.From, gatewayv1.NamespacesFromSame), from.Selector, o.GetNamespace(), namespace)
}

// selects says whether a choice of namespaces, written in namespace home, has namespace.
func (t *translation) selects(from gatewayv1.FromNamespaces, selector *metav1.LabelSelector, home, namespace string) bool {
	switch from {
	case gatewayv1.NamespacesFromAll:
		return true
	case gatewayv1.NamespacesFromSame:
		return namespace == home
	case gatewayv1.NamespacesFromSelector:
		s, err := metav1.LabelSelectorAsSelector(selector)
		n := t.Namespace(namespace)
		return err == nil && n != nil && s.Matches(labels.Set(n.Labels))
	}
	return false
}
