package translate

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// URLAddress is the type of the status addresses that hold a URL: where a
// listener can really be reached, which may be another port than it asked for.
const URLAddress gatewayv1.AddressType = "gantry.dev/url"

// Binding is how the data plane listens for one port of the table.
type Binding struct {
	// Address is what the socket is bound to.
	Address netip.AddrPort
	// Err is why the port is not open, or nil.
	Err error
}

// Reachable says where clients reach the gateway.
type Reachable struct {
	Bindings map[netip.AddrPort]Binding // by port of the table
	// Addresses of the machine, for sockets that are bound to all of them.
	Addresses []netip.Addr
}

// Bind completes the statuses with what the data plane reports: whether
// listeners are programmed, and their addresses.
func (r *Result) Bind(where Reachable) {
	served := map[*gatewayv1.Gateway][]*listener{}
	gateways := map[*gatewayv1.Gateway]bool{}
	sets := map[*gatewayv1.ListenerSet]bool{} // whether one of the listeners is served
	for _, l := range r.listeners {
		programmed := r.programmed(l, where)
		gateways[l.gateway] = true
		if programmed.Status == metav1.ConditionTrue {
			served[l.gateway] = append(served[l.gateway], l)
		}
		if l.set == nil {
			for i, status := range r.Gateways[nameOf(l.gateway)].Listeners {
				if status.Name == l.spec.Name {
					r.Gateways[nameOf(l.gateway)].Listeners[i].Conditions = append(status.Conditions, programmed)
				}
			}
			continue
		}
		sets[l.set] = sets[l.set] || programmed.Status == metav1.ConditionTrue
		for i, status := range r.ListenerSets[nameOf(l.set)].Listeners {
			if status.Name == l.spec.Name {
				r.ListenerSets[nameOf(l.set)].Listeners[i].Conditions = append(status.Conditions, programmed)
			}
		}
	}
	for g := range gateways {
		status := r.Gateways[nameOf(g)]
		status.Addresses = r.statusAddresses(g, served[g], where)
		status.Conditions = append(status.Conditions, r.programmedGateway(g, served[g], where))
		r.Gateways[nameOf(g)] = status
	}
	for s, accepted := range r.sets {
		status := r.ListenerSets[nameOf(s)]
		status.Conditions = append(status.Conditions, programmedSet(s, accepted, sets[s]))
		r.ListenerSets[nameOf(s)] = status
	}
}

// programmedSet follows from Accepted, and from whether a listener is served.
func programmedSet(s *gatewayv1.ListenerSet, accepted metav1.Condition, served bool) metav1.Condition {
	programmed := condition(string(gatewayv1.ListenerSetConditionProgrammed), string(gatewayv1.ListenerSetReasonProgrammed), true, s.Generation, "")
	switch {
	case accepted.Status != metav1.ConditionTrue:
		programmed = accepted
		programmed.Type = string(gatewayv1.ListenerSetConditionProgrammed)
	case !served:
		programmed = condition(programmed.Type, string(gatewayv1.ListenerSetReasonInvalid), false, s.Generation, "no listener is being served; see their conditions")
	}
	return programmed
}

// programmed says whether the listener is open at every address of its Gateway
// that can be used.
func (r *Result) programmed(l *listener, where Reachable) metav1.Condition {
	_, o := l.owner()
	set := func(ok bool, reason gatewayv1.ListenerConditionReason, message string) metav1.Condition {
		return condition(string(gatewayv1.ListenerConditionProgrammed), string(reason), ok, o.GetGeneration(), message)
	}
	switch {
	case l.conflicted.Status == metav1.ConditionTrue:
		return set(false, gatewayv1.ListenerConditionReason(l.conflicted.Reason), l.conflicted.Message)
	case !l.serves():
		return set(false, gatewayv1.ListenerReasonInvalid, "see the other conditions")
	case refusedGateway(l.gateway) != nil:
		return set(false, gatewayv1.ListenerReasonInvalid, "the Gateway is not accepted; see its conditions")
	case len(r.addresses[l.gateway]) == 0:
		return set(false, gatewayv1.ListenerReasonPending, "no address is left in the pool for the Gateway")
	}
	var at []string
	failure := set(false, gatewayv1.ListenerReasonPending, "the port is being opened")
	for _, address := range r.addresses[l.gateway] {
		b, open := where.Bindings[netip.AddrPortFrom(address, l.port)]
		switch {
		case open && b.Err == nil:
			at = append(at, b.Address.String())
		case open:
			failure = set(false, gatewayv1.ListenerReasonPortUnavailable, b.Err.Error())
		}
	}
	if len(at) == 0 {
		return failure
	}
	return set(true, gatewayv1.ListenerReasonProgrammed, "listening on "+strings.Join(at, ", "))
}

func (r *Result) programmedGateway(g *gatewayv1.Gateway, served []*listener, where Reachable) metav1.Condition {
	set := func(ok bool, reason gatewayv1.GatewayConditionReason, message string) metav1.Condition {
		return condition(string(gatewayv1.GatewayConditionProgrammed), string(reason), ok, g.Generation, message)
	}
	if refusedGateway(g) != nil {
		return set(false, gatewayv1.GatewayReasonInvalid, "it is not accepted; see that condition")
	}
	if len(r.addresses[g]) == 0 {
		return set(false, gatewayv1.GatewayReasonAddressNotAssigned, "no address is left in the pool")
	}
	for _, address := range r.addresses[g] {
		for at, b := range where.Bindings {
			if address.IsValid() && at.Addr() == address && errors.Is(b.Err, syscall.EADDRNOTAVAIL) {
				return set(false, gatewayv1.GatewayReasonAddressNotUsable, fmt.Sprintf("address %s is not one of this machine", address))
			}
		}
	}
	for _, a := range g.Spec.Addresses {
		if _, err := netip.ParseAddr(a.Value); a.Value != "" && err != nil {
			return set(false, gatewayv1.GatewayReasonAddressNotUsable, fmt.Sprintf("address %q is not an IP address", a.Value))
		}
	}
	if len(served) == 0 {
		return set(false, gatewayv1.GatewayReasonInvalid, "no listener is being served; see their conditions")
	}
	return set(true, gatewayv1.GatewayReasonProgrammed, "")
}

// statusAddresses lists the addresses of the served listeners, then, for those
// of the shared address, one URL for each port: it may be another than the
// listener's.
func (r *Result) statusAddresses(g *gatewayv1.Gateway, served []*listener, where Reachable) []gatewayv1.GatewayStatusAddress {
	var ips, urls []gatewayv1.GatewayStatusAddress
	add := func(list *[]gatewayv1.GatewayStatusAddress, kind gatewayv1.AddressType, value string) {
		if !slices.ContainsFunc(*list, func(a gatewayv1.GatewayStatusAddress) bool { return a.Value == value }) {
			*list = append(*list, gatewayv1.GatewayStatusAddress{Type: &kind, Value: value})
		}
	}
	for _, l := range served {
		for _, address := range r.addresses[g] {
			b, open := where.Bindings[netip.AddrPortFrom(address, l.port)]
			if !open || b.Err != nil {
				continue
			}
			hosts := where.hosts(b.Address.Addr())
			for _, ip := range hosts {
				add(&ips, gatewayv1.IPAddressType, ip.String())
			}
			if len(hosts) > 0 && !address.IsValid() && (l.family == plainHTTP || l.family == secured) {
				add(&urls, URLAddress, url(l.tls, netip.AddrPortFrom(hosts[0], b.Address.Port())))
			}
		}
	}
	if len(ips) == 0 { // so that it is kept until there is a listener that works
		for _, address := range r.addresses[g] {
			if address.IsValid() && r.pool.Contains(address) {
				add(&ips, gatewayv1.IPAddressType, address.String())
			}
		}
	}
	return append(ips, urls...)
}

// hosts are the addresses that a socket bound to ip is reached at.
func (w Reachable) hosts(ip netip.Addr) []netip.Addr {
	if ip.IsUnspecified() {
		return w.Addresses
	}
	return []netip.Addr{ip.Unmap()}
}

// url leaves out the port that the scheme implies.
func url(tls bool, at netip.AddrPort) string {
	scheme, usual := "http://", ":80"
	if tls {
		scheme, usual = "https://", ":443"
	}
	return scheme + strings.TrimSuffix(at.String(), usual)
}

// IngressStatus is the load balancer that serves Ingresses.
func (w Reachable) IngressStatus() networkingv1.IngressLoadBalancerStatus {
	var status networkingv1.IngressLoadBalancerStatus
	for _, port := range []uint16{HTTPPort, HTTPSPort} {
		b, open := w.Bindings[netip.AddrPortFrom(sharedAddress, port)]
		if !open || b.Err != nil {
			continue
		}
		for _, ip := range w.hosts(b.Address.Addr()) {
			i := slices.IndexFunc(status.Ingress, func(l networkingv1.IngressLoadBalancerIngress) bool { return l.IP == ip.String() })
			if i < 0 {
				status.Ingress = append(status.Ingress, networkingv1.IngressLoadBalancerIngress{IP: ip.String()})
				i = len(status.Ingress) - 1
			}
			status.Ingress[i].Ports = append(status.Ingress[i].Ports, networkingv1.IngressPortStatus{Port: int32(b.Address.Port()), Protocol: "TCP"})
		}
	}
	return status
}
