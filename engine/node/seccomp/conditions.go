package seccomp

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// section is the program for one ABI. It begins with the architecture in the
// accumulator and goes on at next when it is another.
func (a *assembler) section(m abi, spans []span, next label) label {
	parts := make([]part, len(spans))
	for i := len(spans) - 1; i >= 0; i-- {
		parts[i] = part{spans[i].first, a.call(m, spans[i].rules)}
	}
	entry := a.load(offsetNumber, a.search(parts))
	return a.jump(unix.BPF_JEQ, m.audit, entry, next)
}

// call decides one call.
func (a *assembler) call(m abi, r *rules) label {
	if r.unconditional != nil {
		return a.ret(r.unconditional.action)
	}
	decided := a.ret(r.otherwise)
	rest := r.byStrictness()
	for len(rest) > 0 {
		first := slices.IndexFunc(rest, func(x rule) bool { return x.action == rest[len(rest)-1].action })
		decided = a.anyOf(m, rest[first:], decided)
		rest = rest[:first]
	}
	return decided
}

// anyOf decides a call by rules with the same action, in whatever order is best.
func (a *assembler) anyOf(m abi, alike []rule, otherwise label) label {
	accept := a.ret(alike[0].action)
	sets := map[uint][]interval{} // single conditions on an argument's value
	for _, r := range alike {
		if c := r.conditions[0]; len(r.conditions) == 1 && c.op != specs.OpMaskedEqual {
			sets[c.index] = append(sets[c.index], m.intervals(c)...)
			continue
		}
		target := accept
		for i := len(r.conditions) - 1; i >= 0; i-- {
			target = a.compare(m, r.conditions[i], target, otherwise)
		}
		otherwise = target
	}
	for _, index := range slices.Sorted(maps.Keys(sets)) {
		otherwise = a.member(m, index, sets[index], accept, otherwise)
	}
	return otherwise
}

// compare goes to yes when the condition holds and to no otherwise.
func (a *assembler) compare(m abi, c condition, yes, no label) label {
	if c.op != specs.OpMaskedEqual {
		return a.member(m, c.index, m.intervals(c), yes, no)
	}
	if mask := uint32(c.mask); mask != 0 {
		yes = a.load(lowOffset(c.index), a.and(mask, a.jump(unix.BPF_JEQ, uint32(c.value), yes, no)))
	}
	if mask := uint32(c.mask >> 32); mask != 0 {
		yes = a.load(highOffset(c.index), a.and(mask, a.jump(unix.BPF_JEQ, uint32(c.value>>32), yes, no)))
	}
	return yes
}

// interval is a range of argument values, both ends included.
type interval struct{ first, last uint64 }

// largest is the largest value of an argument.
func (m abi) largest() uint64 {
	if m.wide {
		return math.MaxUint64
	}
	return math.MaxUint32
}

// intervals are the values that satisfy a condition.
func (m abi) intervals(c condition) []interval {
	var below, above []interval
	if c.value > 0 {
		below = []interval{{0, c.value - 1}}
	}
	if c.value < m.largest() {
		above = []interval{{c.value + 1, m.largest()}}
	}
	equal := interval{c.value, c.value}
	switch c.op {
	case specs.OpEqualTo:
		return []interval{equal}
	case specs.OpNotEqual:
		return append(below, above...)
	case specs.OpLessThan:
		return below
	case specs.OpLessEqual:
		return append(below, equal)
	case specs.OpGreaterThan:
		return above
	default: // parsing knows no other
		return append(above, equal)
	}
}

// edge is where values begin to be in a set, or out of it.
type edge struct {
	at uint64
	to label
}

// edges describe a union of intervals. The first edge is at 0.
func edges(set []interval, in, out label) []edge {
	slices.SortFunc(set, func(a, b interval) int { return cmp.Compare(a.first, b.first) })
	list := []edge{{0, out}}
	for i := 0; i < len(set); {
		last := set[i].last
		j := i + 1
		for ; j < len(set) && (last == math.MaxUint64 || set[j].first <= last+1); j++ {
			last = max(last, set[j].last)
		}
		if set[i].first == 0 {
			list = nil
		}
		list = append(list, edge{set[i].first, in})
		if last < math.MaxUint64 {
			list = append(list, edge{last + 1, out})
		}
		i = j
	}
	return list
}

// member goes to in when the argument is in one of the intervals, else to out.
func (a *assembler) member(m abi, index uint, set []interval, in, out label) label {
	list := edges(set, in, out)
	if !m.wide {
		list = slices.DeleteFunc(list, func(e edge) bool { return e.at > math.MaxUint32 })
		return a.word(lowOffset(index), parts(list))
	}
	// One part for each upper half in which something changes.
	var upper []part
	put := func(first uint32, to label) {
		if last := len(upper) - 1; last >= 0 && upper[last].first == first {
			upper = upper[:last]
		}
		if last := len(upper) - 1; last < 0 || upper[last].to != to {
			upper = append(upper, part{first, to})
		}
	}
	before := out
	for i := 0; i < len(list); {
		half := uint32(list[i].at >> 32)
		j := i
		for j < len(list) && uint32(list[j].at>>32) == half {
			j++
		}
		lower := parts(list[i:j])
		if lower[0].first != 0 {
			lower = append([]part{{0, before}}, lower...)
		}
		before = list[j-1].to
		put(half, a.word(lowOffset(index), lower))
		if half < math.MaxUint32 {
			put(half+1, before)
		}
		i = j
	}
	return a.word(highOffset(index), upper)
}

// parts are the lower halves of edges.
func parts(list []edge) []part {
	out := make([]part, len(list))
	for i, e := range list {
		out[i] = part{uint32(e.at), e.to}
	}
	return out
}

// word decides by one half of an argument.
func (a *assembler) word(offset uint32, parts []part) label {
	if len(parts) == 1 {
		return parts[0].to
	}
	return a.load(offset, a.search(parts))
}
