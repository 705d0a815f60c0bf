package route

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gantryhq/gantry/services/gateway/guard"
)

// Builder collects listeners and rules and compiles them into a Table, a new one
// or one that differs from an earlier one in some rules. It is for one goroutine
// and one Table.
//
// What it changes of an earlier Table it copies first: the ports, listeners and
// virtual hosts on the way to a rule, and nothing else.
type Builder struct {
	*building
	address netip.Addr // where ports are that its methods name
}

// building is what the Builders of a Table share.
type building struct {
	table *Table
	order Order
	owned map[any]bool             // ports, listeners and hosts that no other Table has
	hosts map[*virtualHost]*edited // what was touched of them
}

// edited are the parts of a virtual host that must be sorted again.
type edited struct {
	exact, prefix map[string]bool
	regex         bool
}

// Order is the precedence of rules between which the Gateway API has no other
// choice: the older object first, then the one whose name comes first. Rules of
// one object follow in the order in which they were added.
type Order struct {
	// Class comes before all else: 0 for routes, 1 for Ingresses.
	Class int
	// Age is when the object was created, in seconds since 1970.
	Age  int64
	Name string // namespace/name
	// Index is for the Builder.
	Index int
}

func (o Order) compare(p Order) int {
	return cmp.Or(cmp.Compare(o.Class, p.Class), cmp.Compare(o.Age, p.Age), cmp.Compare(o.Name, p.Name), cmp.Compare(o.Index, p.Index))
}

// NewBuilder returns a Builder without any port, for the shared address.
func NewBuilder() *Builder { return (&Table{}).Edit() }

// Edit returns a Builder of a Table that begins as t, which stays as it is.
func (t *Table) Edit() *Builder {
	next := &Table{ports: maps.Clone(t.ports), guards: maps.Clone(t.guards), edit: &Edited{Added: map[string]bool{}}}
	if next.ports == nil {
		next = &Table{ports: map[netip.AddrPort]*Port{}, guards: map[*guard.Place]*guard.Rules{}}
	}
	return &Builder{building: &building{table: next, owned: map[any]bool{}, hosts: map[*virtualHost]*edited{}}}
}

// SetOrder gives the rules that are added next their precedence.
func (b *Builder) SetOrder(o Order) { b.order = o }

// At returns a Builder of the same Table for the ports of another address.
func (b *Builder) At(address netip.Addr) *Builder {
	return &Builder{building: b.building, address: address}
}

// AddListener makes a port serve a host pattern, with no rules yet. Adding the
// same listener twice is one listener.
func (b *Builder) AddListener(port uint16, tls bool, host string) {
	b.listener(port, tls, host).declared = true
}

// AddSecureListener makes a port serve TLS connections for a host pattern in
// another way than by HTTP without client certificates.
func (b *Builder) AddSecureListener(port uint16, host string, s *Secure) {
	l := b.listener(port, true, host)
	l.secure, l.declared = s, true
	b.port(port, true).Diverts = true
}

// AddRawListener makes a port take connections without looking into them.
func (b *Builder) AddRawListener(port uint16) { b.port(port, false).Raw = true }

// RemoveListener takes back what AddListener or AddSecureListener did. The rules that are
// there keep it until they are removed, too.
func (b *Builder) RemoveListener(port uint16, host string) {
	p := b.table.ports[netip.AddrPortFrom(b.address, port)]
	if p == nil {
		return
	}
	p = b.port(port, p.TLS)
	l := b.listener(port, p.TLS, host)
	l.secure, l.declared = nil, false
	b.tidy(p, l)
	p.Diverts = p.listeners.has(func(l *listener) bool { return l.secure != nil })
}

// RemoveRawListener takes back what AddRawListener did.
func (b *Builder) RemoveRawListener(port uint16) { b.port(port, false).Raw = false }

// tidy removes a listener that nothing is left of.
func (b *Builder) tidy(p *Port, l *listener) {
	if !l.declared && l.hosts.empty() && l.streams.empty() {
		p.listeners.remove(HostPattern{Name: l.hostname})
	}
}

// ClearCertificates takes all key pairs away.
func (b *Builder) ClearCertificates() {
	for at, p := range b.table.ports {
		if !p.certs.empty() {
			b.At(at.Addr()).port(at.Port(), p.TLS).certs = hostMap[[]*Certificate]{}
		}
	}
}

// AddCertificate offers a key pair to TLS clients that ask for host.
func (b *Builder) AddCertificate(port uint16, host HostPattern, c *Certificate) {
	p := b.port(port, true)
	list := p.certs.get(host, func() []*Certificate { return nil })
	p.certs.set(host, append(slices.Clip(list), c))
}

// ReplaceCertificate puts the key pair where another one from the same source is.
func (b *Builder) ReplaceCertificate(c *Certificate) {
	is := func(o *Certificate) bool { return o.Source == c.Source }
	for at, p := range b.table.ports {
		used := false
		p.certs.each(func(_ string, list []*Certificate) { used = used || slices.ContainsFunc(list, is) })
		if !used {
			continue
		}
		p = b.At(at.Addr()).port(at.Port(), p.TLS)
		p.certs.change(func(list []*Certificate) []*Certificate {
			list = slices.Clone(list)
			for i := range list {
				if is(list[i]) {
					list[i] = c
				}
			}
			return list
		})
	}
}

// SetGuard says what policies demand at a place, once the Table is in force; nil is
// nothing. Without it that is what is demanded there already.
func (b *Builder) SetGuard(p *guard.Place, r *guard.Rules) { b.table.guards[p] = r }

func (b *Builder) noteGuard(rule *Rule) {
	if _, known := b.table.guards[rule.Guard]; rule.Guard != nil && !known {
		b.SetGuard(rule.Guard, rule.Guard.Rules())
	}
}

// AddRule makes the listener answer requests for host that match with rule.
// Between rules of the same precedence the one added first wins.
func (b *Builder) AddRule(port uint16, tls bool, listenerHost string, host HostPattern, match Match, rule *Rule) {
	v, e := b.host(b.listener(port, tls, listenerHost), host)
	b.order.Index++
	b.noteGuard(rule)
	if b.table.edit != nil {
		b.table.edit.Added[rule.Route] = true
	}
	v.add(entry{match: match, rule: rule, order: b.order}, e)
}

// RemoveRules takes the rules of a route that were added with the same listener,
// host and match out again. A host without rules is gone: it would hide less
// specific ones. So is a listener that only rules had opened.
func (b *Builder) RemoveRules(port uint16, tls bool, listenerHost string, host HostPattern, match Match, routeName string) {
	l := b.listener(port, tls, listenerHost)
	v, e := b.host(l, host)
	keep := func(entries []entry) []entry {
		return slices.DeleteFunc(slices.Clone(entries), func(e entry) bool {
			if e.rule.Route != routeName {
				return false
			}
			if b.table.edit != nil {
				b.table.edit.Dropped = append(b.table.edit.Dropped, e.rule)
			}
			return true
		})
	}
	byPath := func(p *paths, touched map[string]bool, key string) {
		p.set(key, keep(p.get(key)))
		touched[key] = true
	}
	switch match.Kind {
	case Exact:
		byPath(&v.exact, e.exact, match.Path)
	case Regex:
		v.regex, e.regex = keep(v.regex), true
	case Prefix:
		byPath(&v.prefix, e.prefix, strings.TrimSuffix(match.Path, "/"))
	}
	if v.exact.len()+len(v.regex)+v.prefix.len() == 0 {
		l.hosts.remove(host)
		b.tidy(b.port(port, tls), l)
	}
}

// host returns a virtual host that may be changed.
func (b *Builder) host(l *listener, host HostPattern) (*virtualHost, *edited) {
	v := l.hosts.get(host, func() *virtualHost {
		v := &virtualHost{hostname: host.Name}
		b.owned[v] = true
		return v
	})
	if !b.owned[v] {
		v = &virtualHost{hostname: v.hostname, exact: v.exact.clone(), prefix: v.prefix.clone(), regex: v.regex, depth: v.depth}
		b.owned[v] = true
		l.hosts.set(host, v)
	}
	if b.hosts[v] == nil {
		b.hosts[v] = &edited{exact: map[string]bool{}, prefix: map[string]bool{}}
	}
	return v, b.hosts[v]
}

// add appends to lists that no other Table has: they are sorted in the end.
func (v *virtualHost) add(e entry, touched *edited) {
	byPath := func(p *paths, touched map[string]bool, key string) {
		entries := p.get(key)
		if !touched[key] {
			entries = slices.Clip(entries)
		}
		p.set(key, append(entries, e))
		touched[key] = true
	}
	switch e.match.Kind {
	case Exact:
		byPath(&v.exact, touched.exact, e.match.Path)
	case Regex:
		if !touched.regex {
			v.regex = slices.Clip(v.regex)
		}
		v.regex, touched.regex = append(v.regex, e), true
	case Prefix:
		key := strings.TrimSuffix(e.match.Path, "/")
		byPath(&v.prefix, touched.prefix, key)
		v.depth = max(v.depth, strings.Count(key, "/"))
	}
}

// AddStream makes the listener send TLS connections for host to the backends of
// rule. Of several rules for the same host the one of the first route has them all.
func (b *Builder) AddStream(port uint16, listenerHost string, host HostPattern, rule *Rule) {
	l := b.listener(port, true, listenerHost)
	l.streams.set(host, b.addStream(l.streams.get(host, func() []stream { return nil }), rule))
}

// AddRawStream sends the connections of a raw port to the backends of rule. Of
// several rules the one of the first route has them all.
func (b *Builder) AddRawStream(port uint16, rule *Rule) {
	p := b.port(port, false)
	p.Raw = true
	p.streams = b.addStream(p.streams, rule)
}

func (b *Builder) addStream(list []stream, rule *Rule) []stream {
	b.noteGuard(rule)
	b.order.Index++
	if b.table.edit != nil {
		b.table.edit.Added[rule.Route] = true
	}
	s := stream{rule, b.order}
	i, _ := slices.BinarySearchFunc(list, s, func(a, b stream) int { return a.order.compare(b.order) })
	return slices.Insert(slices.Clone(list), i, s)
}

// RemoveStreams takes the rules of a route that were added with the same listener and host
// out again.
func (b *Builder) RemoveStreams(port uint16, listenerHost string, host HostPattern, routeName string) {
	l := b.listener(port, true, listenerHost)
	left := b.removeStreams(l.streams.get(host, func() []stream { return nil }), routeName)
	l.streams.set(host, left)
	if len(left) == 0 {
		l.streams.remove(host)
		b.tidy(b.port(port, true), l)
	}
}

// RemoveRawStreams takes the rules of a route out of a raw port again.
func (b *Builder) RemoveRawStreams(port uint16, routeName string) {
	p := b.port(port, false)
	p.streams = b.removeStreams(p.streams, routeName)
}

func (b *Builder) removeStreams(list []stream, routeName string) []stream {
	return slices.DeleteFunc(slices.Clone(list), func(s stream) bool {
		if s.rule.Route != routeName {
			return false
		}
		if b.table.edit != nil {
			b.table.edit.Dropped = append(b.table.edit.Dropped, s.rule)
		}
		return true
	})
}

// Build sorts the rules, closes ports for which there is no listener any more, and returns
// the finished Table. The Builder must not be used afterwards.
func (b *Builder) Build() *Table {
	maps.DeleteFunc(b.table.ports, func(_ netip.AddrPort, p *Port) bool { return p.bare() })
	for v, e := range b.hosts {
		for key := range e.exact {
			slices.SortFunc(v.exact.get(key), byPrecedence)
		}
		for key := range e.prefix {
			slices.SortFunc(v.prefix.get(key), byPrecedence)
		}
		if e.regex {
			slices.SortFunc(v.regex, func(a, b entry) int {
				return cmp.Or(cmp.Compare(len(b.match.Path), len(a.match.Path)), byPrecedence(a, b))
			})
		}
	}
	return b.table
}

// port returns a port that may be changed.
func (b *Builder) port(number uint16, tls bool) *Port {
	at := netip.AddrPortFrom(b.address, number)
	p := b.table.ports[at]
	switch {
	case p == nil || p.TLS != tls && p.bare():
		p = &Port{Address: b.address, Number: number, TLS: tls}
	case b.owned[p]:
		return p
	default:
		copied := *p
		p = &copied
		p.listeners, p.certs = p.listeners.clone(), p.certs.clone()
	}
	b.table.ports[at], b.owned[p] = p, true
	return p
}

// listener returns a listener that may be changed.
func (b *Builder) listener(port uint16, tls bool, host string) *listener {
	pattern := HostPattern{Name: host}
	p := b.port(port, tls)
	l := p.listeners.get(pattern, func() *listener {
		l := &listener{hostname: host}
		b.owned[l] = true
		return l
	})
	if !b.owned[l] {
		copied := *l
		l = &copied
		l.hosts, l.streams = l.hosts.clone(), l.streams.clone()
		b.owned[l] = true
		p.listeners.set(pattern, l)
	}
	return l
}

// byPrecedence orders rules for the same path as the Gateway API demands.
func byPrecedence(a, b entry) int {
	methods := func(e entry) int {
		if e.match.Method != "" {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(methods(b), methods(a)),
		cmp.Compare(len(b.match.Headers), len(a.match.Headers)),
		cmp.Compare(len(b.match.Query), len(a.match.Query)),
		a.order.compare(b.order),
	)
}
