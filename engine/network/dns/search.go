package dns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/gantryhq/gantry/engine/network/catalog"
)

// expandSearch walks the rest of the client's search path on its behalf. It is called
// for a name of the zone that does not exist. When the name is an outside (or another
// namespace's) name with the client's first search element behind it, and a later
// element, or the name alone, exists, it answers with an alias to that and reports
// true. Otherwise it reports false, and the client finds out by itself.
func (s *Server) expandSearch(resp *dns.Msg, q dns.Question, name string, client netip.Addr) bool {
	if q.Qtype != dns.TypeA && q.Qtype != dns.TypeAAAA {
		return false
	}
	namespace := s.cfg.NamespaceOf(client)
	if namespace == "" {
		return false
	}
	base, ok := strings.CutSuffix(name, "."+namespace+".svc."+s.zone)
	if !ok || !s.expandable(base, namespace) {
		return false
	}
	for _, candidate := range s.candidates(base) {
		rcode, answer, ns := s.resolve(dns.Question{Name: candidate, Qtype: q.Qtype, Qclass: q.Qclass})
		switch rcode {
		case dns.RcodeNameError:
			continue
		case dns.RcodeSuccess:
			resp.Rcode = rcode
			resp.Answer = append([]dns.RR{&dns.CNAME{Hdr: header(q.Name, dns.TypeCNAME), Target: candidate}}, answer...)
			if len(answer) == 0 {
				resp.Ns = ns
			}
			return true
		}
		return false // do not guess beyond a resolver that failed
	}
	return false
}

// expandable reports whether a missing name can be nothing but an unqualified name
// with a search element behind it. It cannot when it has the form of something that
// the namespace may contain and does not right now: a service (one label), or an
// endpoint of a service that exists.
func (s *Server) expandable(base, namespace string) bool {
	labels := strings.Split(base, ".")
	if len(labels) < 2 || strings.HasPrefix(labels[0], "_") {
		return false
	}
	service := labels[len(labels)-1]
	return s.cfg.Catalog.Get(catalog.Key{Namespace: namespace, Name: service}) == nil
}

// candidates are the names a pod's resolver would ask for next, in its order.
func (s *Server) candidates(base string) []string {
	out := []string{base + ".svc." + s.zone, base + "." + s.zone}
	for _, domain := range s.forward.search() {
		out = append(out, base+"."+domain)
	}
	return append(out, base+".")
}
