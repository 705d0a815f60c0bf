package translate

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/features"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// listener is one listener of one Gateway of ours, and what became of it.
type listener struct {
	gateway  *gatewayv1.Gateway
	spec     *gatewayv1.Listener
	port     uint16
	tls      bool
	hostname string

	kinds        []gatewayv1.RouteGroupKind
	certificates []*route.Certificate
	attached     int32

	accepted, resolved, conflicted metav1.Condition
}

// serves says whether the data plane should open the listener.
func (l *listener) serves() bool {
	usable := l.resolved.Status == metav1.ConditionTrue || l.resolved.Reason == string(gatewayv1.ListenerReasonInvalidRouteKinds)
	return l.accepted.Status == metav1.ConditionTrue && usable && len(l.kinds) > 0
}

func (t *translation) classes() {
	for _, c := range t.Classes {
		if c.Spec.ControllerName != ControllerName {
			continue
		}
		status := gatewayv1.GatewayClassStatus{Conditions: []metav1.Condition{
			condition(string(gatewayv1.GatewayClassConditionStatusAccepted), string(gatewayv1.GatewayClassReasonAccepted), true, c.Generation, "served by "+ControllerName),
		}}
		if ref := c.Spec.ParametersRef; ref != nil {
			status.Conditions[0] = condition(string(gatewayv1.GatewayClassConditionStatusAccepted), string(gatewayv1.GatewayClassReasonInvalidParameters), false, c.Generation,
				fmt.Sprintf("parametersRef %s %q is not supported: remove spec.parametersRef", ref.Kind, ref.Name))
		}
		for _, f := range supported {
			status.SupportedFeatures = append(status.SupportedFeatures, gatewayv1.SupportedFeature{Name: gatewayv1.FeatureName(f)})
		}
		t.result.Classes[c.Name] = status
	}
}

// supported features of the Gateway API, in alphabetical order as the API wants them.
var supported = func() []string {
	list := []features.FeatureName{
		features.SupportGateway,
		features.SupportGatewayPort8080,
		features.SupportGatewayHTTPListenerIsolation,
		features.SupportReferenceGrant,
		features.SupportHTTPRoute,
		features.SupportHTTPRouteBackendProtocolH2C,
		features.SupportHTTPRouteBackendProtocolWebSocket,
		features.SupportHTTPRouteBackendRequestHeaderModification,
		features.SupportHTTPRouteBackendTimeout,
		features.SupportHTTPRouteCORS,
		features.SupportHTTPRouteDestinationPortMatching,
		features.SupportHTTPRouteHostRewrite,
		features.SupportHTTPRouteMethodMatching,
		features.SupportHTTPRouteNamedRouteRule,
		features.SupportHTTPRouteParentRefPort,
		features.SupportHTTPRoutePathRedirect,
		features.SupportHTTPRoutePathRewrite,
		features.SupportHTTPRoutePortRedirect,
		features.SupportHTTPRouteQueryParamMatching,
		features.SupportHTTPRouteRequestMirror,
		features.SupportHTTPRouteRequestMultipleMirrors,
		features.SupportHTTPRouteRequestPercentageMirror,
		features.SupportHTTPRouteRequestTimeout,
		features.SupportHTTPRouteResponseHeaderModification,
		features.SupportHTTPRouteSchemeRedirect,
		features.SupportHTTPRoute303RedirectStatusCode,
		features.SupportHTTPRoute307RedirectStatusCode,
		features.SupportHTTPRoute308RedirectStatusCode,
	}
	names := make([]string, len(list))
	for i, f := range list {
		names[i] = string(f)
	}
	slices.Sort(names)
	return names
}()

// gateways collects the listeners of our Gateways, oldest Gateway first, so
// that of two that conflict the older keeps its port.
func (t *translation) gateways() {
	for _, g := range oldestFirst(t.Gateways) {
		if _, ours := t.result.Classes[string(g.Spec.GatewayClassName)]; !ours {
			continue
		}
		for i := range g.Spec.Listeners {
			l := t.listener(g, &g.Spec.Listeners[i])
			if l.accepted.Status == metav1.ConditionTrue {
				t.conflict(l)
			}
			t.listeners = append(t.listeners, l)
			if !l.serves() {
				continue
			}
			t.builder.AddListener(l.port, l.tls, l.hostname)
			for _, cert := range l.certificates {
				t.builder.AddCertificate(l.port, hostPattern(l.hostname), cert)
			}
		}
	}
}

func (t *translation) listener(g *gatewayv1.Gateway, spec *gatewayv1.Listener) *listener {
	l := &listener{
		gateway:  g,
		spec:     spec,
		port:     uint16(spec.Port),
		tls:      spec.Protocol == gatewayv1.HTTPSProtocolType,
		hostname: strings.ToLower(string(deref(spec.Hostname, ""))),
	}
	l.accept(true, gatewayv1.ListenerReasonAccepted, "")
	l.resolve(true, gatewayv1.ListenerReasonResolvedRefs, "")
	l.conflicted = condition(string(gatewayv1.ListenerConditionConflicted), string(gatewayv1.ListenerReasonNoConflicts), false, g.Generation, "")
	if spec.Protocol != gatewayv1.HTTPProtocolType && spec.Protocol != gatewayv1.HTTPSProtocolType {
		l.accept(false, gatewayv1.ListenerReasonUnsupportedProtocol,
			fmt.Sprintf("protocol %s is not supported: use HTTP or HTTPS", spec.Protocol))
		return l
	}
	l.supportedKinds()
	if l.tls {
		t.listenerCertificates(l)
	}
	return l
}

func (l *listener) accept(ok bool, reason gatewayv1.ListenerConditionReason, message string) {
	l.accepted = condition(string(gatewayv1.ListenerConditionAccepted), string(reason), ok, l.gateway.Generation, message)
}

func (l *listener) resolve(ok bool, reason gatewayv1.ListenerConditionReason, message string) {
	l.resolved = condition(string(gatewayv1.ListenerConditionResolvedRefs), string(reason), ok, l.gateway.Generation, message)
}

// supportedKinds keeps those of the listener's allowed kinds that exist here.
func (l *listener) supportedKinds() {
	group := gatewayv1.Group(gatewayv1.GroupName)
	httpRoute := gatewayv1.RouteGroupKind{Group: &group, Kind: "HTTPRoute"}
	if l.spec.AllowedRoutes == nil || len(l.spec.AllowedRoutes.Kinds) == 0 {
		l.kinds = []gatewayv1.RouteGroupKind{httpRoute}
		return
	}
	for _, k := range l.spec.AllowedRoutes.Kinds {
		if deref(k.Group, group) == group && k.Kind == httpRoute.Kind {
			l.kinds = []gatewayv1.RouteGroupKind{httpRoute}
			continue
		}
		l.resolve(false, gatewayv1.ListenerReasonInvalidRouteKinds,
			fmt.Sprintf("routes of kind %s are not supported: allow HTTPRoute", k.Kind))
	}
}

// listenerCertificates resolves the certificates of an HTTPS listener.
func (t *translation) listenerCertificates(l *listener) {
	tls := l.spec.TLS
	switch {
	case tls == nil || len(tls.CertificateRefs) == 0:
		l.resolve(false, gatewayv1.ListenerReasonInvalidCertificateRef, "an HTTPS listener needs tls.certificateRefs")
		return
	case deref(tls.Mode, gatewayv1.TLSModeTerminate) != gatewayv1.TLSModeTerminate:
		l.accept(false, gatewayv1.ListenerReasonUnsupportedValue, "tls.mode Passthrough needs protocol TLS, which is not supported: use Terminate")
		return
	}
	for _, ref := range tls.CertificateRefs {
		cert, reason, err := t.certificateRef(l.gateway, ref)
		if err != nil {
			l.resolve(false, reason, err.Error())
			return
		}
		l.certificates = append(l.certificates, cert)
	}
}

// conflict refuses l if an earlier listener already has its place.
func (t *translation) conflict(l *listener) {
	refuse := func(other *listener, reason gatewayv1.ListenerConditionReason, what string) {
		message := fmt.Sprintf("%s of port %d is already taken by listener %q of Gateway %s", what, l.port, other.spec.Name, nameOf(other.gateway))
		l.conflicted = condition(string(gatewayv1.ListenerConditionConflicted), string(reason), true, l.gateway.Generation, message)
		l.accept(false, reason, message)
	}
	for _, other := range t.listeners {
		if other.port != l.port || other.accepted.Status != metav1.ConditionTrue {
			continue
		}
		if other.tls != l.tls {
			refuse(other, gatewayv1.ListenerReasonProtocolConflict, "the protocol")
			return
		}
		// Listeners of different Gateways share the machine's one address, so
		// equal ones are merged; within one Gateway they are a mistake.
		if other.hostname == l.hostname && other.gateway == l.gateway {
			refuse(other, gatewayv1.ListenerReasonHostnameConflict, fmt.Sprintf("host name %q", l.hostname))
			return
		}
	}
}

// allows says whether a route of the given namespace may attach.
func (t *translation) allows(l *listener, namespace string) bool {
	var from gatewayv1.RouteNamespaces
	if l.spec.AllowedRoutes != nil && l.spec.AllowedRoutes.Namespaces != nil {
		from = *l.spec.AllowedRoutes.Namespaces
	}
	switch deref(from.From, gatewayv1.NamespacesFromSame) {
	case gatewayv1.NamespacesFromAll:
		return true
	case gatewayv1.NamespacesFromSame:
		return namespace == l.gateway.Namespace
	case gatewayv1.NamespacesFromSelector:
		selector, err := metav1.LabelSelectorAsSelector(from.Selector)
		n := t.Namespace(namespace)
		return err == nil && n != nil && selector.Matches(labels.Set(n.Labels))
	}
	return false
}

// gatewayStatuses writes what became of the listeners, once all routes have
// been attached. Programmed is settled by Result.Bind.
func (t *translation) gatewayStatuses() {
	for _, g := range t.Gateways {
		if _, ours := t.result.Classes[string(g.Spec.GatewayClassName)]; !ours {
			continue
		}
		var status gatewayv1.GatewayStatus
		var bad []string
		usable := 0
		for _, l := range t.listeners {
			if l.gateway != g {
				continue
			}
			if l.serves() {
				usable++
			} else {
				bad = append(bad, string(l.spec.Name))
			}
			kinds := l.kinds
			if kinds == nil {
				kinds = []gatewayv1.RouteGroupKind{}
			}
			status.Listeners = append(status.Listeners, gatewayv1.ListenerStatus{
				Name:           l.spec.Name,
				SupportedKinds: kinds,
				AttachedRoutes: l.attached,
				Conditions:     []metav1.Condition{l.accepted, l.resolved, l.conflicted},
			})
		}
		accepted := condition(string(gatewayv1.GatewayConditionAccepted), string(gatewayv1.GatewayReasonAccepted), true, g.Generation, "")
		if len(bad) > 0 {
			accepted = condition(string(gatewayv1.GatewayConditionAccepted), string(gatewayv1.GatewayReasonListenersNotValid), usable > 0, g.Generation,
				"listeners not valid: "+strings.Join(bad, ", ")+"; see their conditions")
		}
		status.Conditions = []metav1.Condition{accepted}
		t.result.Gateways[nameOf(g)] = status
	}
}
