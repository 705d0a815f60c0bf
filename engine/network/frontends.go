package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/gantryhq/gantry/engine/network/catalog"
	"github.com/gantryhq/gantry/engine/network/nat"
)

// frontends translates a service into what the kernel must do.
func frontends(s *catalog.Service, dns netip.Addr) (map[nat.Frontend]nat.Target, error) {
	if s == nil || s.Spec.Type == corev1.ServiceTypeExternalName || s.Headless() {
		return nil, nil
	}
	out := map[nat.Frontend]nat.Target{}
	var errs []error
	for _, port := range s.Spec.Ports {
		proto, err := nat.ProtocolOf(port.Protocol)
		if err != nil {
			errs = append(errs, fmt.Errorf("service %s port %q: %w", s.Key, port.Name, err))
			continue
		}
		target := nat.Target{Backends: backends(s, port), Affinity: affinity(s.Spec)}
		for _, ip := range serviceAddrs(s) {
			if ip != dns {
				out[nat.Frontend{Addr: ip, Protocol: proto, Port: uint16(port.Port)}] = target
			}
		}
		if port.NodePort != 0 {
			out[nat.Frontend{Protocol: proto, Port: uint16(port.NodePort)}] = target
		}
		if ownsLoadBalancer(s.Spec) {
			target.Sources = sourceRanges(s.Spec)
			out[nat.Frontend{Protocol: proto, Port: uint16(port.Port)}] = target
		}
	}
	return out, errors.Join(errs...)
}

// ownsLoadBalancer reports whether the host's addresses are this service's load
// balancer.
func ownsLoadBalancer(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeLoadBalancer && spec.LoadBalancerClass == nil
}

// serviceAddrs returns the IPv4 addresses that belong to the service alone.
func serviceAddrs(s *catalog.Service) []netip.Addr {
	all := append([]string{s.Spec.ClusterIP}, s.Spec.ExternalIPs...)
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && !ownsLoadBalancer(s.Spec) {
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
				all = append(all, in.IP)
			}
		}
	}
	var out []netip.Addr
	for _, a := range all {
		if ip, err := netip.ParseAddr(a); err == nil && ip.Is4() {
			out = append(out, ip)
		}
	}
	return out
}

func sourceRanges(spec *corev1.ServiceSpec) []netip.Prefix {
	var out []netip.Prefix
	for _, r := range spec.LoadBalancerSourceRanges {
		if p, err := netip.ParsePrefix(r); err == nil && p.Addr().Is4() {
			out = append(out, p.Masked())
		}
	}
	return out
}

func affinity(spec *corev1.ServiceSpec) time.Duration {
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	}
	return time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
}

// backends returns where a service port leads: the ready endpoints, or when there
// are none those that still serve while they terminate.
func backends(s *catalog.Service, port corev1.ServicePort) []netip.AddrPort {
	var ready, terminating []netip.AddrPort
	for _, e := range s.Endpoints {
		num, ok := endpointPort(e, port)
		if !ok {
			continue
		}
		switch b := netip.AddrPortFrom(e.Addr, num); {
		case e.Ready:
			ready = append(ready, b)
		case e.Serving && e.Terminating:
			terminating = append(terminating, b)
		}
	}
	if len(ready) == 0 {
		ready = terminating
	}
	slices.SortFunc(ready, netip.AddrPort.Compare)
	return slices.Compact(ready)
}

func endpointPort(e catalog.Endpoint, port corev1.ServicePort) (uint16, bool) {
	for _, p := range e.Ports {
		if p.Port == nil || deref(p.Name) != port.Name || !sameProtocol(p, port) {
			continue
		}
		return uint16(*p.Port), true
	}
	return 0, false
}

func sameProtocol(p discoveryv1.EndpointPort, port corev1.ServicePort) bool {
	a, errA := nat.ProtocolOf(deref(p.Protocol))
	b, errB := nat.ProtocolOf(port.Protocol)
	return errA == nil && errB == nil && a == b
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
