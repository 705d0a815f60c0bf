package translate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/features"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// platformGateway is the Gateway that stands for the machine itself. It shares
// the machine's address with Ingresses also where other Gateways have their own.
const platformGateway = "gantry-system/default"

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
		features.SupportGatewayAddressEmpty,
		features.SupportGatewayBackendClientCertificate,
		features.SupportGatewayFrontendClientCertificateValidation,
		features.SupportGatewayFrontendClientCertificateValidationInsecureFallback,
		features.SupportGatewayHTTPListenerIsolation,
		features.SupportGatewayHTTPSListenerDetectMisdirectedRequests,
		features.SupportGatewayStaticAddresses,
		features.SupportBackendTLSPolicy,
		features.SupportBackendTLSPolicySANValidation,
		features.SupportGRPCRoute,
		features.SupportGRPCRouteNamedRouteRule,
		features.SupportListenerSet,
		features.SupportTCPRoute,
		features.SupportTLSRoute,
		features.SupportTLSRouteModeTerminate,
		features.SupportTLSRouteModeMixed,
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
		features.SupportHTTPRouteRetry,
		features.SupportHTTPRouteRetryBackendTimeout,
		features.SupportHTTPRouteRetryConnectionError,
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

// ours says whether a Gateway is of a class of this controller.
func (t *translation) ours(g *gatewayv1.Gateway) bool {
	_, ok := t.result.Classes[string(g.Spec.GatewayClassName)]
	return ok
}

// assignAddresses decides where the ports of each of our Gateways are: at the
// addresses it asks for, at one from the pool, or at the shared one. A Gateway
// keeps the address of the pool that it has been given, or that its status names: what it
// has been given may not be in its status yet when the next Gateway wants one.
func (t *translation) assignAddresses() {
	taken := map[netip.Addr]bool{}
	var wanting []*gatewayv1.Gateway
	for _, g := range oldestFirst(t.Gateways) {
		if !t.ours(g) {
			continue
		}
		for _, a := range g.Spec.Addresses {
			if ip, err := netip.ParseAddr(a.Value); err == nil && !slices.Contains(t.addresses[g], ip.Unmap()) {
				t.addresses[g] = append(t.addresses[g], ip.Unmap())
				taken[ip.Unmap()] = true
			}
		}
		switch {
		case len(t.addresses[g]) > 0 || refusedGateway(g) != nil:
		case !t.Pool.IsValid() || nameOf(g).String() == platformGateway:
			t.addresses[g] = []netip.Addr{sharedAddress}
		default:
			wanting = append(wanting, g)
		}
	}
	keep := func(g *gatewayv1.Gateway, ip netip.Addr) bool {
		if !t.Pool.Contains(ip) || taken[ip] {
			return false
		}
		t.addresses[g], taken[ip] = []netip.Addr{ip}, true
		return true
	}
	wanting = slices.DeleteFunc(wanting, func(g *gatewayv1.Gateway) bool { return keep(g, t.given[g.UID]) })
	wanting = slices.DeleteFunc(wanting, func(g *gatewayv1.Gateway) bool {
		return slices.ContainsFunc(g.Status.Addresses, func(a gatewayv1.GatewayStatusAddress) bool {
			ip, err := netip.ParseAddr(a.Value)
			return err == nil && keep(g, ip)
		})
	})
	next := t.Pool.Masked().Addr().Next() // the first is the network's own
	for _, g := range wanting {
		for taken[next] {
			next = next.Next()
		}
		keep(g, next)
	}
	clear(t.given)
	for g, list := range t.addresses {
		if len(list) == 1 && t.Pool.Contains(list[0]) {
			t.given[g.UID] = list[0]
		}
	}
}

// gateways collects the listeners of our Gateways and of their ListenerSets,
// oldest first, so that of two that conflict the older keeps its place.
func (t *translation) gateways() {
	t.setsOf = map[types.NamespacedName][]*gatewayv1.ListenerSet{}
	for _, s := range oldestFirst(t.ListenerSets) {
		if g, ok := gatewayOf(s); ok {
			t.setsOf[g] = append(t.setsOf[g], s)
		}
	}
	for _, g := range oldestFirst(t.Gateways) {
		if !t.ours(g) {
			continue
		}
		t.clients[g] = t.clientCertificate(g)
		for i := range g.Spec.Listeners {
			t.addListener(t.listener(g, nil, &g.Spec.Listeners[i]))
		}
		for _, s := range t.setsOf[nameOf(g)] {
			t.attached[s] = t.attachSet(g, s)
		}
	}
}

// refusedGateway is why nothing of a Gateway is served, or nil.
func refusedGateway(g *gatewayv1.Gateway) *metav1.Condition {
	refuse := func(reason gatewayv1.GatewayConditionReason, message string) *metav1.Condition {
		c := condition(string(gatewayv1.GatewayConditionAccepted), string(reason), false, g.Generation, message)
		return &c
	}
	for _, a := range g.Spec.Addresses {
		if kind := deref(a.Type, gatewayv1.IPAddressType); kind != gatewayv1.IPAddressType {
			return refuse(gatewayv1.GatewayReasonUnsupportedAddress, fmt.Sprintf("addresses of type %s are not supported: use IPAddress", kind))
		}
	}
	if i := g.Spec.Infrastructure; i != nil && i.ParametersRef != nil {
		return refuse(gatewayv1.GatewayReasonInvalidParameters,
			fmt.Sprintf("infrastructure.parametersRef %s %q is not supported: remove it", i.ParametersRef.Kind, i.ParametersRef.Name))
	}
	return nil
}

// gatewayStatuses writes what became of the listeners, once all routes have
// been attached. Programmed is settled by Result.Bind.
func (t *translation) gatewayStatuses() {
	for _, g := range t.Gateways {
		if !t.ours(g) {
			continue
		}
		var status gatewayv1.GatewayStatus
		var bad []string
		usable := 0
		for _, l := range t.byParent[parentOf(g, nil)] {
			if l.serves() {
				usable++
			} else {
				bad = append(bad, string(l.spec.Name))
			}
			status.Listeners = append(status.Listeners, gatewayv1.ListenerStatus{
				Name:           l.spec.Name,
				SupportedKinds: l.supported(),
				AttachedRoutes: l.attached,
				Conditions:     []metav1.Condition{l.accepted, l.resolved, l.conflicted},
			})
		}
		accepted := condition(string(gatewayv1.GatewayConditionAccepted), string(gatewayv1.GatewayReasonAccepted), true, g.Generation, "")
		if len(bad) > 0 {
			accepted = condition(string(gatewayv1.GatewayConditionAccepted), string(gatewayv1.GatewayReasonListenersNotValid), usable > 0, g.Generation,
				"listeners not valid: "+strings.Join(bad, ", ")+"; see their conditions")
		}
		if refused := refusedGateway(g); refused != nil {
			accepted = *refused
		}
		status.Conditions = append([]metav1.Condition{accepted}, t.secureConditions(g)...)
		sets := int32(0)
		for _, s := range t.setsOf[nameOf(g)] {
			if t.attached[s].Status == metav1.ConditionTrue {
				sets++
			}
		}
		if g.Spec.AllowedListeners != nil || sets > 0 {
			status.AttachedListenerSets = &sets
		}
		t.result.Gateways[nameOf(g)] = status
	}
}

// builders are where the port of a listener is added.
func (t *translation) builders(l *listener) []*route.Builder {
	list := make([]*route.Builder, len(l.addresses))
	for i, a := range l.addresses {
		list[i] = t.builder.At(a)
	}
	return list
}
