package route

import (
	"maps"
	"slices"
	"strings"
)

// AnyHost is the host pattern that matches every host.
const AnyHost = ""

// HostPattern is a host name, a wildcard, or AnyHost.
//
// A wildcard "*.example.com" stands for one or more labels, as in the Gateway
// API; with OneLabel it stands for exactly one, as in an Ingress.
type HostPattern struct {
	Name     string
	OneLabel bool
}

// hostMap maps host patterns to values and finds the most specific one.
type hostMap[V any] struct {
	exact    map[string]V
	wildcard map[string]V // key ".example.com"
	oneLabel map[string]V // likewise, for patterns with OneLabel
	any      *V
}

// get returns the value stored for exactly this pattern, adding one if there is none.
func (m *hostMap[V]) get(p HostPattern, create func() V) V {
	var in *map[string]V
	key := p.Name
	switch {
	case p.Name == AnyHost:
		if m.any == nil {
			v := create()
			m.any = &v
		}
		return *m.any
	case !strings.HasPrefix(p.Name, "*."):
		in = &m.exact
	case p.OneLabel:
		in, key = &m.oneLabel, p.Name[1:]
	default:
		in, key = &m.wildcard, p.Name[1:]
	}
	if *in == nil {
		*in = map[string]V{}
	}
	v, ok := (*in)[key]
	if !ok {
		v = create()
		(*in)[key] = v
	}
	return v
}

// clone returns a copy that can be changed without the original.
func (m *hostMap[V]) clone() hostMap[V] {
	return hostMap[V]{exact: maps.Clone(m.exact), wildcard: maps.Clone(m.wildcard), oneLabel: maps.Clone(m.oneLabel), any: m.any}
}

// remove takes a pattern out.
func (m *hostMap[V]) remove(p HostPattern) {
	switch {
	case p.Name == AnyHost:
		m.any = nil
	case !strings.HasPrefix(p.Name, "*."):
		delete(m.exact, p.Name)
	case p.OneLabel:
		delete(m.oneLabel, p.Name[1:])
	default:
		delete(m.wildcard, p.Name[1:])
	}
}

func (m *hostMap[V]) empty() bool {
	return len(m.exact)+len(m.wildcard)+len(m.oneLabel) == 0 && m.any == nil
}

// find returns the value of the most specific pattern that matches host.
func (m *hostMap[V]) find(host string) (V, bool) {
	if v, ok := m.exact[host]; ok {
		return v, true
	}
	if len(m.wildcard) > 0 || len(m.oneLabel) > 0 {
		for i, label := strings.IndexByte(host, '.'), 0; i >= 0; label++ {
			if v, ok := m.oneLabel[host[i:]]; ok && label == 0 {
				return v, true
			}
			if v, ok := m.wildcard[host[i:]]; ok {
				return v, true
			}
			next := strings.IndexByte(host[i+1:], '.')
			if next < 0 {
				break
			}
			i += 1 + next
		}
	}
	if m.any != nil {
		return *m.any, true
	}
	var none V
	return none, false
}

// change replaces every value, in a copy.
func (m *hostMap[V]) change(f func(V) V) {
	for _, part := range []map[string]V{m.exact, m.wildcard, m.oneLabel} {
		for k, v := range part {
			part[k] = f(v)
		}
	}
	if m.any != nil {
		v := f(*m.any)
		m.any = &v
	}
}

// has says whether f holds for one of the values.
func (m *hostMap[V]) has(f func(V) bool) bool {
	for _, part := range []map[string]V{m.exact, m.wildcard, m.oneLabel} {
		for _, v := range part {
			if f(v) {
				return true
			}
		}
	}
	return m.any != nil && f(*m.any)
}

// each visits all values, most specific patterns first, in a stable order.
func (m *hostMap[V]) each(visit func(pattern string, v V)) {
	for _, part := range []struct {
		mark   string
		values map[string]V
	}{{"", m.exact}, {"(one label)*", m.oneLabel}, {"*", m.wildcard}} {
		keys := make([]string, 0, len(part.values))
		for k := range part.values {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			visit(part.mark+k, part.values[k])
		}
	}
	if m.any != nil {
		visit("(any)", *m.any)
	}
}

// Intersect returns the more specific of two host patterns of the Gateway API
// that overlap: what a route serves that names one and is attached to a
// listener that names the other.
func Intersect(listener, route string) (string, bool) {
	switch {
	case listener == AnyHost || listener == route:
		return route, true
	case route == AnyHost:
		return listener, true
	case covers(listener, route):
		return route, true
	case covers(route, listener):
		return listener, true
	}
	return "", false
}

// covers says whether the wildcard pattern includes all that other stands for.
func covers(pattern, other string) bool {
	if !strings.HasPrefix(pattern, "*.") {
		return false
	}
	suffix := pattern[1:]
	other = strings.TrimPrefix(other, "*")
	return len(other) > len(suffix) && strings.HasSuffix(other, suffix)
}
