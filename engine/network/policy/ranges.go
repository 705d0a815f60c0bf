package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// rangeOf is the first and last address of an IPv4 prefix.
func rangeOf(p netip.Prefix) Range {
	first := p.Masked().Addr().As4()
	last := first
	for i := p.Bits(); i < 32; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	return Range{netip.AddrFrom4(first), netip.AddrFrom4(last)}
}

// merge sorts ranges and joins those that overlap or touch.
func merge(ranges []Range) []Range {
	slices.SortFunc(ranges, func(a, b Range) int { return a.First.Compare(b.First) })
	var out []Range
	for _, r := range ranges {
		if n := len(out); n > 0 {
			// Next is invalid, and so smaller, after the very last address.
			if end := out[n-1].Last.Next(); !end.IsValid() || r.First.Compare(end) <= 0 {
				if r.Last.Compare(out[n-1].Last) > 0 {
					out[n-1].Last = r.Last
				}
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// subtract removes ordered, disjoint ranges from one.
func subtract(from Range, except []Range) []Range {
	var out []Range
	next := from.First
	for _, e := range except {
		if e.Last.Compare(next) < 0 || e.First.Compare(from.Last) > 0 {
			continue
		}
		if e.First.Compare(next) > 0 {
			out = append(out, Range{next, e.First.Prev()})
		}
		if next = e.Last.Next(); !next.IsValid() || next.Compare(from.Last) > 0 {
			return out
		}
	}
	return append(out, Range{next, from.Last})
}

// mergePorts sorts port ranges and joins those of one protocol that overlap or touch.
func mergePorts(ports []Ports) []Ports {
	slices.SortFunc(ports, func(a, b Ports) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First))
	})
	var out []Ports
	for _, p := range ports {
		if n := len(out); n > 0 && out[n-1].Protocol == p.Protocol && int(p.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, p.Last)
			continue
		}
		out = append(out, p)
	}
	return out
}
