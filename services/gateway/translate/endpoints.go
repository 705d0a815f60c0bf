package translate

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// Upstreams returns what stands behind each TCP port of a Service: the
// endpoints of its slices that are ready and not about to end, and the policy for them.
func Upstreams(service *corev1.Service, slicesOfService []*discoveryv1.EndpointSlice, policies *BackendPolicies) []route.Upstream {
	var upstreams []route.Upstream
	for _, port := range service.Spec.Ports {
		if port.Protocol == corev1.ProtocolUDP || port.Protocol == corev1.ProtocolSCTP {
			continue
		}
		protocol, _ := protocolOf(port.AppProtocol)
		u := route.Upstream{
			Service:  route.ServicePort{Namespace: service.Namespace, Name: service.Name, Port: port.Port},
			Protocol: protocol,
			Policy:   policies.Of(nameOf(service), port.Name),
		}
		for _, slice := range slicesOfService {
			u.Endpoints = append(u.Endpoints, endpoints(slice, port.Name)...)
		}
		// The same endpoint may be in two slices while one replaces the other.
		slices.SortFunc(u.Endpoints, netip.AddrPort.Compare)
		u.Endpoints = slices.Compact(u.Endpoints)
		upstreams = append(upstreams, u)
	}
	return upstreams
}

// endpoints lists the usable addresses of a slice for one named port.
func endpoints(slice *discoveryv1.EndpointSlice, portName string) []netip.AddrPort {
	i := slices.IndexFunc(slice.Ports, func(p discoveryv1.EndpointPort) bool {
		return deref(p.Name, "") == portName && p.Port != nil
	})
	if i < 0 {
		return nil
	}
	var list []netip.AddrPort
	for _, e := range slice.Endpoints {
		if !deref(e.Conditions.Ready, true) || deref(e.Conditions.Terminating, false) {
			continue
		}
		for _, a := range e.Addresses {
			if addr, err := netip.ParseAddr(a); err == nil {
				list = append(list, netip.AddrPortFrom(addr, uint16(*slice.Ports[i].Port)))
			}
		}
	}
	return list
}
