package nat

import (
	"net/netip"
	"slices"
	"testing"
)

func TestBackendsKeepTheirSlots(t *testing.T) {
	b := func(n byte) netip.AddrPort { return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 80) }
	list := func(ns ...byte) []netip.AddrPort {
		var out []netip.AddrPort
		for _, n := range ns {
			out = append(out, b(n))
		}
		return out
	}
	for _, tc := range []struct {
		name             string
		have, want, slot []netip.AddrPort
	}{
		{"first", nil, list(1, 2), list(1, 2)},
		{"same in another order", list(2, 1), list(1, 2), list(2, 1)},
		{"one more goes to the end", list(2, 1), list(1, 2, 3), list(2, 1, 3)},
		{"one replaced takes the slot", list(1, 2, 3), list(1, 3, 4), list(1, 4, 3)},
		{"one less moves only the last", list(1, 2, 3), list(2, 3), list(3, 2)},
		{"none left", list(1, 2), nil, nil},
		{"duplicates count once", nil, list(1, 1), list(1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := keepSlots(tc.have, tc.want); !slices.Equal(got, tc.slot) {
				t.Errorf("got %v, want %v", got, tc.slot)
			}
		})
	}
}
