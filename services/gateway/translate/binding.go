package translate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

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
	Bindings map[uint16]Binding
	// Addresses of the machine, for sockets that are bound to all of them.
	Addresses []netip.Addr
}

// Bind completes the statuses with what the data plane reports: whether
// listeners are programmed, and their addresses.
func (r *Result) Bind(where Reachable) {
	for _, l := range r.listeners {
		name := nameOf(l.gateway)
		status := r.Gateways[name]
		for i := range status.Listeners {
			if status.Listeners[i].Name == l.spec.Name {
				status.Listeners[i].Conditions = append(status.Listeners[i].Conditions, l.programmed(where))
			}
		}
	}
	for name, status := range r.Gateways {
		var gateway *gatewayv1.Gateway
		var served []*listener
		for _, l := range r.listeners {
			if nameOf(l.gateway) != name {
				continue
			}
			gateway = l.gateway
			if l.programmed(where).Status == metav1.ConditionTrue {
				served = append(served, l)
			}
		}
		if gateway == nil {
			continue
		}
		status.Addresses = where.statusAddresses(served)
		status.Conditions = append(status.Conditions, programmedGateway(gateway, served, where))
		r.Gateways[name] = status
	}
}

func (l *listener) programmed(where Reachable) metav1.Condition {
	set := func(ok bool, reason gatewayv1.ListenerConditionReason, message string) metav1.Condition {
		return condition(string(gatewayv1.ListenerConditionProgrammed), string(reason), ok, l.gateway.Generation, message)
	}
	b, open := where.Bindings[l.port]
	switch {
	case !l.serves():
		return set(false, gatewayv1.ListenerReasonInvalid, "see the other conditions")
	case !open:
		return set(false, gatewayv1.ListenerReasonPending, "the port is being opened")
	case b.Err != nil:
		return set(false, gatewayv1.ListenerReasonPortUnavailable, b.Err.Error())
	}
	return set(true, gatewayv1.ListenerReasonProgrammed, "listening on "+b.Address.String())
}

func programmedGateway(g *gatewayv1.Gateway, served []*listener, where Reachable) metav1.Condition {
	set := func(ok bool, reason gatewayv1.GatewayConditionReason, message string) metav1.Condition {
		return condition(string(gatewayv1.GatewayConditionProgrammed), string(reason), ok, g.Generation, message)
	}
	for _, a := range g.Spec.Addresses {
		wanted, err := netip.ParseAddr(a.Value)
		if a.Value != "" && (err != nil || !slices.Contains(where.Addresses, wanted)) {
			return set(false, gatewayv1.GatewayReasonAddressNotUsable, fmt.Sprintf("address %q is not one of this machine", a.Value))
		}
	}
	if len(served) == 0 {
		return set(false, gatewayv1.GatewayReasonInvalid, "no listener is being served; see their conditions")
	}
	return set(true, gatewayv1.GatewayReasonProgrammed, "")
}

// statusAddresses lists the addresses of the served listeners, then one URL
// for each port of theirs.
func (w Reachable) statusAddresses(served []*listener) []gatewayv1.GatewayStatusAddress {
	var ips, urls []gatewayv1.GatewayStatusAddress
	add := func(list *[]gatewayv1.GatewayStatusAddress, kind gatewayv1.AddressType, value string) {
		if !slices.ContainsFunc(*list, func(a gatewayv1.GatewayStatusAddress) bool { return a.Value == value }) {
			*list = append(*list, gatewayv1.GatewayStatusAddress{Type: &kind, Value: value})
		}
	}
	for _, l := range served {
		bound := w.Bindings[l.port].Address
		hosts := w.hosts(bound.Addr())
		for _, ip := range hosts {
			add(&ips, gatewayv1.IPAddressType, ip.String())
		}
		if len(hosts) > 0 {
			add(&urls, URLAddress, url(l.tls, netip.AddrPortFrom(hosts[0], bound.Port())))
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
		b, open := w.Bindings[port]
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
