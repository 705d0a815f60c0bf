package translate

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// gatewayOf is the Gateway that a ListenerSet names as its parent, if that is one.
func gatewayOf(s *gatewayv1.ListenerSet) (name types.NamespacedName, ok bool) {
	p := s.Spec.ParentRef
	return types.NamespacedName{Namespace: string(deref(p.Namespace, gatewayv1.Namespace(s.Namespace))), Name: string(p.Name)},
		deref(p.Group, gatewayv1.GroupName) == gatewayv1.GroupName && deref(p.Kind, "Gateway") == "Gateway"
}

// attachSet adds the listeners of a ListenerSet to its Gateway, and returns its
// Accepted condition.
func (t *translation) attachSet(g *gatewayv1.Gateway, s *gatewayv1.ListenerSet) metav1.Condition {
	accepted := func(ok bool, reason gatewayv1.ListenerSetConditionReason, message string) metav1.Condition {
		return condition(string(gatewayv1.ListenerSetConditionAccepted), string(reason), ok, s.Generation, message)
	}
	from, selector := gatewayv1.NamespacesFromNone, (*metav1.LabelSelector)(nil)
	if a := g.Spec.AllowedListeners; a != nil && a.Namespaces != nil {
		from, selector = deref(a.Namespaces.From, gatewayv1.NamespacesFromNone), a.Namespaces.Selector
	}
	if !t.selects(from, selector, g.Namespace, s.Namespace) {
		return accepted(false, gatewayv1.ListenerSetReasonNotAllowed,
			fmt.Sprintf("Gateway %s allows no ListenerSets of namespace %s: see its allowedListeners", nameOf(g), s.Namespace))
	}
	if refusedGateway(g) != nil {
		return accepted(false, gatewayv1.ListenerSetReasonParentNotAccepted, fmt.Sprintf("Gateway %s is not accepted; see its conditions", nameOf(g)))
	}
	var bad []string
	usable := 0
	for _, e := range s.Spec.Listeners {
		l := t.listener(g, s, &gatewayv1.Listener{Name: e.Name, Hostname: e.Hostname, Port: e.Port, Protocol: e.Protocol, TLS: e.TLS, AllowedRoutes: e.AllowedRoutes})
		t.addListener(l)
		if l.serves() {
			usable++
		} else {
			bad = append(bad, string(l.spec.Name))
		}
	}
	if len(bad) > 0 {
		return accepted(usable > 0, gatewayv1.ListenerSetReasonListenersNotValid, "listeners not valid: "+strings.Join(bad, ", ")+"; see their conditions")
	}
	return accepted(true, gatewayv1.ListenerSetReasonAccepted, "")
}

// listenerSetStatuses writes what became of the listeners of ListenerSets, once
// all routes have been attached. Programmed is settled by Result.Bind.
func (t *translation) listenerSetStatuses() {
	for s, accepted := range t.attached {
		status := gatewayv1.ListenerSetStatus{Conditions: []metav1.Condition{accepted}}
		for _, l := range t.byParent[parentOf(nil, s)] {
			status.Listeners = append(status.Listeners, gatewayv1.ListenerEntryStatus{
				Name:           l.spec.Name,
				SupportedKinds: l.supported(),
				AttachedRoutes: l.attached,
				Conditions:     []metav1.Condition{l.accepted, l.resolved, l.conflicted},
			})
		}
		t.result.ListenerSets[nameOf(s)] = status
	}
}
