package route

import (
	"hash/maphash"
	"maps"
	"slices"
)

// byHost maps names to values. With many of them it is divided into parts, which copies share:
// a table that differs from another one in one host copies only the part with that host. To
// copy ten thousand hosts for each changed route would keep the garbage collector busy. The zero
// value is empty.
type byHost[V any] struct {
	few   map[string]V
	parts []map[string]V // instead of few, once there are more than fewHosts
	owned []bool         // which parts no other copy has
}

const (
	fewHosts  = 200
	hostParts = 256
)

// hostSeed is the same for all tables of the process, which share parts.
var hostSeed = maphash.MakeSeed()

func partOf(name string) int { return int(maphash.String(hostSeed, name) % hostParts) }

func (m *byHost[V]) get(name string) (V, bool) {
	if m.parts != nil {
		v, ok := m.parts[partOf(name)][name]
		return v, ok
	}
	v, ok := m.few[name]
	return v, ok
}

func (m *byHost[V]) set(name string, v V) {
	if m.parts != nil {
		m.part(name)[name] = v
		return
	}
	if m.few == nil {
		m.few = map[string]V{}
	}
	m.few[name] = v
	if len(m.few) > fewHosts {
		few := m.few
		m.few, m.parts, m.owned = nil, make([]map[string]V, hostParts), make([]bool, hostParts)
		for name, v := range few {
			m.part(name)[name] = v
		}
	}
}

func (m *byHost[V]) remove(name string) {
	if m.parts != nil {
		delete(m.part(name), name)
		return
	}
	delete(m.few, name)
}

// part is the one of a name, which may be changed.
func (m *byHost[V]) part(name string) map[string]V {
	i := partOf(name)
	if !m.owned[i] {
		m.owned[i], m.parts[i] = true, maps.Clone(m.parts[i])
		if m.parts[i] == nil {
			m.parts[i] = map[string]V{}
		}
	}
	return m.parts[i]
}

// clone returns a copy that can be changed without the original, which must not be changed
// any more.
func (m *byHost[V]) clone() byHost[V] {
	if m.parts == nil {
		return byHost[V]{few: maps.Clone(m.few)}
	}
	return byHost[V]{parts: slices.Clone(m.parts), owned: make([]bool, hostParts)}
}

func (m *byHost[V]) all(yield func(string, V) bool) {
	for name, v := range m.few {
		if !yield(name, v) {
			return
		}
	}
	for _, part := range m.parts {
		for name, v := range part {
			if !yield(name, v) {
				return
			}
		}
	}
}

func (m *byHost[V]) empty() bool {
	return len(m.few) == 0 && !slices.ContainsFunc(m.parts, func(part map[string]V) bool { return len(part) > 0 })
}
