package dns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"github.com/gantryhq/gantry/engine/network/catalog"
)

// schemaVersion is the version of the DNS specification followed.
const schemaVersion = "1.1.0"

// found is what the cluster knows about a name.
type found struct {
	rcode         int
	answer, extra []dns.RR
	cname         string // the name is an alias of this; then the rest is empty
}

var (
	nxdomain = found{rcode: dns.RcodeNameError}
	nodata   = found{rcode: dns.RcodeSuccess}
)

// authoritative reports whether the cluster alone knows the (lower case) name.
func (s *Server) authoritative(name string) bool {
	if dns.IsSubDomain(s.zone, name) {
		return true
	}
	ip, whole := reverseAddr(name)
	return whole && (s.cfg.PodCIDR.Contains(ip) || s.cfg.ServiceCIDR.Contains(ip))
}

const reverseZone = ".in-addr.arpa."

// reverseAddr parses d.c.b.a.in-addr.arpa.
func reverseAddr(name string) (netip.Addr, bool) {
	labels, ok := strings.CutSuffix(name, reverseZone)
	if !ok {
		return netip.Addr{}, false
	}
	parts := strings.Split(labels, ".")
	if len(parts) != 4 {
		return netip.Addr{}, false
	}
	slices.Reverse(parts)
	ip, err := netip.ParseAddr(strings.Join(parts, "."))
	return ip, err == nil
}

func (s *Server) soa() dns.RR {
	return &dns.SOA{
		Hdr: header(s.zone, dns.TypeSOA), Ns: "ns.dns." + s.zone, Mbox: "hostmaster." + s.zone,
		// The serial has no meaning: there are no secondaries.
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

// lookup answers for a lower-case name for which the cluster is authoritative.
func (s *Server) lookup(name string, qtype uint16) found {
	if ip, ok := reverseAddr(name); ok {
		return s.lookupReverse(name, ip, qtype)
	}
	rest := strings.TrimSuffix(name, s.zone)
	if rest == "" {
		return s.lookupApex(qtype)
	}
	labels := strings.Split(strings.TrimSuffix(rest, "."), ".")
	slices.Reverse(labels) // svc, namespace, service, ...
	switch labels[0] {
	case "svc":
		return s.lookupService(name, labels[1:], qtype)
	case "pod":
		return s.lookupPod(name, labels[1:], qtype)
	case "dns-version":
		return only(len(labels) == 1, qtype, dns.TypeTXT, &dns.TXT{Hdr: header(name, dns.TypeTXT), Txt: []string{schemaVersion}})
	case "dns":
		if len(labels) == 1 {
			return nodata
		}
		return only(len(labels) == 2 && labels[1] == "ns", qtype, dns.TypeA, s.a(name, s.cfg.Listen.Addr()))
	}
	return nxdomain
}

// only is the answer of a name with a single record.
func only(exists bool, qtype, typ uint16, rr dns.RR) found {
	switch {
	case !exists:
		return nxdomain
	case qtype == typ || qtype == dns.TypeANY:
		return found{answer: []dns.RR{rr}}
	}
	return nodata
}

func (s *Server) lookupApex(qtype uint16) found {
	ns := "ns.dns." + s.zone
	switch qtype {
	case dns.TypeSOA:
		return found{answer: []dns.RR{s.soa()}}
	case dns.TypeNS:
		return found{
			answer: []dns.RR{&dns.NS{Hdr: header(s.zone, dns.TypeNS), Ns: ns}},
			extra:  []dns.RR{s.a(ns, s.cfg.Listen.Addr())},
		}
	}
	return nodata
}

func (s *Server) a(name string, ip netip.Addr) dns.RR {
	return &dns.A{Hdr: header(name, dns.TypeA), A: ip.AsSlice()}
}

// lookupService answers below svc.<zone>. The labels are namespace, service, and
// either an endpoint's hostname or _protocol and _port.
func (s *Server) lookupService(name string, labels []string, qtype uint16) found {
	switch {
	case len(labels) == 0:
		return nodata
	case len(labels) == 1:
		return existing(s.cfg.Catalog.HasNamespace(labels[0]))
	case len(labels) > 4:
		return nxdomain
	}
	svc := s.cfg.Catalog.Get(catalog.Key{Namespace: labels[0], Name: labels[1]})
	if svc == nil {
		return nxdomain
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		if len(labels) > 2 || svc.Spec.ExternalName == "" {
			return nxdomain
		}
		return found{cname: dns.Fqdn(svc.Spec.ExternalName)}
	}
	switch len(labels) {
	case 2:
		return s.serviceRecords(name, svc, qtype)
	case 3:
		if strings.HasPrefix(labels[2], "_") {
			return existing(len(ports(svc, labels[2], "")) > 0)
		}
		return s.endpointRecords(name, svc, labels[2], qtype)
	}
	if !strings.HasPrefix(labels[2], "_") {
		return nxdomain
	}
	return s.portRecords(name, svc, labels[2], labels[3], qtype)
}

func existing(ok bool) found {
	if ok {
		return nodata
	}
	return nxdomain
}

// serviceRecords answers for the service itself.
func (s *Server) serviceRecords(name string, svc *catalog.Service, qtype uint16) found {
	addrs := serviceAddrs(svc)
	if len(addrs) == 0 {
		return nxdomain // specification 2.4.1: a headless service without ready endpoints
	}
	switch qtype {
	case dns.TypeA, dns.TypeANY:
		return found{answer: s.addresses(name, addrs)}
	case dns.TypeSRV:
		// Beyond the specification, and customary: all named ports.
		return s.srv(name, svc, ports(svc, "", ""))
	}
	return nodata
}

func (s *Server) addresses(name string, addrs []netip.Addr) []dns.RR {
	out := make([]dns.RR, len(addrs))
	for i, ip := range addrs {
		out[i] = s.a(name, ip)
	}
	return out
}

// serviceAddrs returns the cluster address, or the ready endpoints' of a headless
// service.
func serviceAddrs(svc *catalog.Service) []netip.Addr {
	if !svc.Headless() {
		if ip, err := netip.ParseAddr(svc.Spec.ClusterIP); err == nil && ip.Is4() {
			return []netip.Addr{ip}
		}
		return nil
	}
	return readyAddrs(svc, "")
}

// readyAddrs returns each ready address once, of one hostname or of all.
func readyAddrs(svc *catalog.Service, hostname string) []netip.Addr {
	seen := map[netip.Addr]bool{}
	var out []netip.Addr
	for _, e := range svc.Endpoints {
		if e.Ready && (hostname == "" || e.Hostname == hostname) && !seen[e.Addr] {
			seen[e.Addr] = true
			out = append(out, e.Addr)
		}
	}
	return out
}

// endpointRecords answers for one endpoint of a headless service.
func (s *Server) endpointRecords(name string, svc *catalog.Service, hostname string, qtype uint16) found {
	if !svc.Headless() {
		return nxdomain
	}
	addrs := readyAddrs(svc, hostname)
	switch {
	case len(addrs) == 0:
		return nxdomain
	case qtype == dns.TypeA || qtype == dns.TypeANY:
		return found{answer: s.addresses(name, addrs)}
	}
	return nodata
}

// portRecords answers for _port._protocol.
func (s *Server) portRecords(name string, svc *catalog.Service, proto, port string, qtype uint16) found {
	match := ports(svc, proto, port)
	if len(match) == 0 || len(serviceAddrs(svc)) == 0 {
		return nxdomain
	}
	if qtype != dns.TypeSRV && qtype != dns.TypeANY {
		return nodata
	}
	return s.srv(name, svc, match)
}

// ports returns the named ports of a service that match the labels, "" matching all.
func ports(svc *catalog.Service, proto, port string) []corev1.ServicePort {
	var out []corev1.ServicePort
	for _, p := range svc.Spec.Ports {
		if p.Name == "" ||
			proto != "" && proto != "_"+protocolLabel(p.Protocol) ||
			port != "" && port != "_"+strings.ToLower(p.Name) {
			continue
		}
		out = append(out, p)
	}
	return out
}

func protocolLabel(p corev1.Protocol) string {
	if p == "" {
		p = corev1.ProtocolTCP
	}
	return strings.ToLower(string(p))
}

// srv makes one record per port, or per port and ready endpoint of a headless service.
func (s *Server) srv(name string, svc *catalog.Service, match []corev1.ServicePort) found {
	base := svc.Name + "." + svc.Namespace + ".svc." + s.zone
	var f found
	known := map[string]bool{} // targets with address records already
	add := func(target string, ip netip.Addr, port uint16) {
		f.answer = append(f.answer, &dns.SRV{Hdr: header(name, dns.TypeSRV), Priority: 0, Weight: 100, Port: port, Target: target})
		if key := target + ip.String(); !known[key] {
			known[key] = true
			f.extra = append(f.extra, s.a(target, ip))
		}
	}
	for _, p := range match {
		if !svc.Headless() {
			for _, ip := range serviceAddrs(svc) {
				add(base, ip, uint16(p.Port))
			}
			continue
		}
		for _, e := range svc.Endpoints {
			if !e.Ready {
				continue
			}
			for _, ep := range e.Ports {
				if ep.Port != nil && ep.Name != nil && *ep.Name == p.Name {
					add(e.Hostname+"."+base, e.Addr, uint16(*ep.Port))
				}
			}
		}
	}
	return f
}

// lookupPod answers a-b-c-d.<namespace>.pod.<zone>, deprecated but part of the
// specification (2.6) for every address.
func (s *Server) lookupPod(name string, labels []string, qtype uint16) found {
	switch len(labels) {
	case 0, 1:
		return nodata
	case 2:
		ip, err := netip.ParseAddr(strings.ReplaceAll(labels[1], "-", "."))
		if err != nil || !ip.Is4() {
			return nxdomain
		}
		return only(true, qtype, dns.TypeA, s.a(name, ip))
	}
	return nxdomain
}

// lookupReverse answers for the addresses of services and of headless services'
// endpoints.
func (s *Server) lookupReverse(name string, ip netip.Addr, qtype uint16) found {
	var f found
	add := func(target string) {
		f.answer = append(f.answer, &dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: target})
	}
	for _, svc := range s.cfg.Catalog.ByIP(ip) {
		base := svc.Name + "." + svc.Namespace + ".svc." + s.zone
		if svc.Spec.ClusterIP == ip.String() {
			add(base)
			continue
		}
		if !svc.Headless() {
			continue
		}
		seen := map[string]bool{}
		for _, e := range svc.Endpoints {
			if e.Ready && e.Addr == ip && !seen[e.Hostname] {
				seen[e.Hostname] = true
				add(e.Hostname + "." + base)
			}
		}
	}
	if ip == s.cfg.Listen.Addr() {
		add("ns.dns." + s.zone)
	}
	switch {
	case len(f.answer) == 0:
		return nxdomain
	case qtype != dns.TypePTR && qtype != dns.TypeANY:
		return nodata
	}
	return f
}
