package route

import (
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
	exact    byHost[V]
	wildcard byHost[V] // key ".example.com"
	oneLabel byHost[V] // likewise, for patterns with OneLabel
	any      *V
}

// in is where a pattern is that is not AnyHost, and its key there.
func (m *hostMap[V]) in(p HostPattern) (*byHost[V], string) {
	switch {
	case !strings.HasPrefix(p.Name, "*."):
		return &m.exact, p.Name
	case p.OneLabel:
		return &m.oneLabel, p.Name[1:]
	}
	return &m.wildcard, p.Name[1:]
}

// get returns the value stored for exactly this pattern, adding one if there is none.
func (m *hostMap[V]) get(p HostPattern, create func() V) V {
	if p.Name == AnyHost {
		if m.any == nil {
			v := create()
			m.any = &v
		}
		return *m.any
	}
	in, key := m.in(p)
	v, ok := in.get(key)
	if !ok {
		v = create()
		in.set(key, v)
	}
	return v
}

// set replaces the value of a pattern.
func (m *hostMap[V]) set(p HostPattern, v V) {
	if p.Name == AnyHost {
		m.any = &v
		return
	}
	in, key := m.in(p)
	in.set(key, v)
}

// clone returns a copy that can be changed without the original, which must not be changed
// any more.
func (m *hostMap[V]) clone() hostMap[V] {
	return hostMap[V]{exact: m.exact.clone(), wildcard: m.wildcard.clone(), oneLabel: m.oneLabel.clone(), any: m.any}
}

// remove takes a pattern out.
func (m *hostMap[V]) remove(p HostPattern) {
	if p.Name == AnyHost {
		m.any = nil
		return
	}
	in, key := m.in(p)
	in.remove(key)
}

func (m *hostMap[V]) empty() bool {
	return m.any == nil && m.exact.empty() && m.wildcard.empty() && m.oneLabel.empty()
}

// find returns the value of the most specific pattern that matches host.
func (m *hostMap[V]) find(host string) (V, bool) {
	if v, ok := m.exact.get(host); ok {
		return v, true
	}
	if !m.wildcard.empty() || !m.oneLabel.empty() {
		for i, label := strings.IndexByte(host, '.'), 0; i >= 0; label++ {
			if v, ok := m.oneLabel.get(host[i:]); ok && label == 0 {
				return v, true
			}
			if v, ok := m.wildcard.get(host[i:]); ok {
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
	for _, part := range []*byHost[V]{&m.exact, &m.wildcard, &m.oneLabel} {
		changed := byHost[V]{}
		for k, v := range part.all {
			changed.set(k, f(v))
		}
		*part = changed
	}
	if m.any != nil {
		v := f(*m.any)
		m.any = &v
	}
}

// has says whether f holds for one of the values.
func (m *hostMap[V]) has(f func(V) bool) bool {
	for _, part := range []*byHost[V]{&m.exact, &m.wildcard, &m.oneLabel} {
		for _, v := range part.all {
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
		values *byHost[V]
	}{{"", &m.exact}, {"(one label)*", &m.oneLabel}, {"*", &m.wildcard}} {
		var keys []string
		for k := range part.values.all {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			v, _ := part.values.get(k)
			visit(part.mark+k, v)
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
