package route

import (
	"cmp"
	"slices"
	"strings"
)

// Builder collects listeners and rules and compiles them into a Table. It is
// for one goroutine and one Table.
type Builder struct {
	table *Table
	seq   int
}

// NewBuilder returns a Builder without any port.
func NewBuilder() *Builder {
	return &Builder{table: &Table{ports: map[uint16]*Port{}}}
}

// AddListener makes a port serve a host pattern, with no rules yet. Adding the
// same listener twice is one listener.
func (b *Builder) AddListener(port uint16, tls bool, host string) {
	b.listener(port, tls, host)
}

// AddCertificate offers a key pair to TLS clients that ask for host.
func (b *Builder) AddCertificate(port uint16, host HostPattern, c *Certificate) {
	p := b.port(port, true)
	list := p.certs.get(host, func() []*Certificate { return nil })
	p.certs.set(host, append(slices.Clip(list), c))
}

// AddRule makes the listener answer requests for host that match with rule.
// Between rules of the same precedence the one added first wins.
func (b *Builder) AddRule(port uint16, tls bool, listenerHost string, host HostPattern, match Match, rule *Rule) {
	l := b.listener(port, tls, listenerHost)
	v := l.hosts.get(host, func() *virtualHost {
		return &virtualHost{hostname: host.Name, exact: map[string][]entry{}, prefix: map[string][]entry{}}
	})
	b.seq++
	e := entry{match: match, rule: rule, seq: b.seq}
	switch match.Kind {
	case Exact:
		v.exact[match.Path] = append(v.exact[match.Path], e)
	case Regex:
		v.regex = append(v.regex, e)
	case Prefix:
		key := strings.TrimSuffix(match.Path, "/")
		v.prefix[key] = append(v.prefix[key], e)
		v.depth = max(v.depth, strings.Count(key, "/"))
	}
}

// Build sorts the rules and returns the finished Table. The Builder must not be
// used afterwards.
func (b *Builder) Build() *Table {
	for _, p := range b.table.ports {
		p.listeners.each(func(_ string, l *listener) {
			l.hosts.each(func(_ string, v *virtualHost) { v.sort() })
		})
	}
	return b.table
}

func (b *Builder) port(number uint16, tls bool) *Port {
	p := b.table.ports[number]
	if p == nil {
		p = &Port{Number: number, TLS: tls}
		b.table.ports[number] = p
	}
	return p
}

func (b *Builder) listener(port uint16, tls bool, host string) *listener {
	return b.port(port, tls).listeners.get(HostPattern{Name: host}, func() *listener {
		return &listener{hostname: host}
	})
}

// set replaces the value of a pattern that get has created.
func (m *hostMap[V]) set(p HostPattern, v V) {
	switch {
	case p.Name == AnyHost:
		m.any = &v
	case !strings.HasPrefix(p.Name, "*."):
		m.exact[p.Name] = v
	case p.OneLabel:
		m.oneLabel[p.Name[1:]] = v
	default:
		m.wildcard[p.Name[1:]] = v
	}
}

func (v *virtualHost) sort() {
	for _, entries := range v.exact {
		slices.SortFunc(entries, byPrecedence)
	}
	for _, entries := range v.prefix {
		slices.SortFunc(entries, byPrecedence)
	}
	slices.SortFunc(v.regex, func(a, b entry) int {
		return cmp.Or(cmp.Compare(len(b.match.Path), len(a.match.Path)), byPrecedence(a, b))
	})
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
		cmp.Compare(a.seq, b.seq),
	)
}
