package nat

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// tx collects the element changes of one transaction. Deletions are sent before
// additions, so an element can be replaced.
type tx struct {
	t    *Table
	del  map[*nftables.Set][]nftables.SetElement
	add  map[*nftables.Set][]nftables.SetElement
	gone map[netip.AddrPort]bool // backends that left a frontend with affinity

	chains map[string]bool   // policy chains created
	unused []*nftables.Chain // to delete at the end, when nothing leads to them
}

func (t *Table) begin() *tx {
	return &tx{
		t:   t,
		del: map[*nftables.Set][]nftables.SetElement{}, add: map[*nftables.Set][]nftables.SetElement{},
		gone: map[netip.AddrPort]bool{}, chains: map[string]bool{},
	}
}

// set brings one frontend from its installed to the wanted state.
func (x *tx) set(f Frontend, want *Target) error {
	if f.Addr.IsValid() && !f.Addr.Is4() {
		return fmt.Errorf("frontend %s: only IPv4 addresses can be translated", f)
	}
	fam, have := x.t.layout.of(f), x.t.installed[f]
	existed := have != nil
	if !existed {
		have = &installed{}
	}
	var backends []netip.AddrPort
	var sources []netip.Prefix
	chain := ""
	if want != nil {
		backends, sources = keepSlots(have.backends, want.Backends), want.Sources
		if len(backends) > 0 {
			chain = x.t.layout.spread(x.t.conn, fam, len(backends), want.Affinity)
		}
	}
	x.moveSlots(f, have.backends, backends)
	x.moveSources(f, have.sources, sources)
	wasRefused, isRefused := existed && have.chain == "", want != nil && chain == ""
	if wasRefused && !isRefused {
		x.remove(fam.refused, nftables.SetElement{Key: f.key()})
	}
	if isRefused && !wasRefused {
		x.insert(fam.refused, nftables.SetElement{Key: f.key()})
	}
	if have.chain != chain {
		if have.chain != "" {
			x.remove(fam.services, f.verdict(have.chain))
		}
		if chain != "" {
			x.insert(fam.services, f.verdict(chain))
		}
	}
	if want == nil {
		delete(x.t.installed, f)
	} else {
		x.t.installed[f] = &installed{backends: backends, chain: chain, sources: slices.Clone(sources)}
	}
	return nil
}

// keepSlots orders the wanted backends so that as many as possible stay in the slot
// they have.
func keepSlots(have, want []netip.AddrPort) []netip.AddrPort {
	missing := make(map[netip.AddrPort]bool, len(want))
	for _, b := range want {
		missing[b] = true
	}
	out := make([]netip.AddrPort, len(missing))
	free := []int{}
	for i := range out {
		if i < len(have) && missing[have[i]] {
			out[i] = have[i]
			delete(missing, have[i])
		} else {
			free = append(free, i)
		}
	}
	for _, b := range want {
		if missing[b] {
			out[free[0]], free = b, free[1:]
			delete(missing, b)
		}
	}
	return out
}

func (x *tx) moveSlots(f Frontend, have, want []netip.AddrPort) {
	fam := x.t.layout.of(f)
	for i := range max(len(have), len(want)) {
		if i < len(have) && i < len(want) && have[i] == want[i] {
			continue
		}
		if i < len(have) {
			x.remove(fam.slots, f.slot(i, have[i]))
			x.hairpin(have[i].Addr(), -1)
			if !slices.Contains(want, have[i]) {
				x.gone[have[i]] = true
			}
		}
		if i < len(want) {
			x.insert(fam.slots, f.slot(i, want[i]))
			x.hairpin(want[i].Addr(), +1)
		}
	}
}

// hairpin counts the slots that lead to an address.
func (x *tx) hairpin(addr netip.Addr, delta int) {
	counts := x.t.hairpins
	before := counts[addr]
	counts[addr] += delta
	el := nftables.SetElement{Key: append(addr.AsSlice(), addr.AsSlice()...)}
	switch {
	case before == 0:
		x.insert(x.t.layout.hairpins, el)
	case counts[addr] == 0:
		delete(counts, addr)
		x.remove(x.t.layout.hairpins, el)
	}
}

func (x *tx) moveSources(f Frontend, have, want []netip.Prefix) {
	if slices.Equal(have, want) {
		return
	}
	fam := x.t.layout.of(f)
	for _, p := range have {
		x.remove(fam.admitted, f.source(p))
	}
	for _, p := range want {
		x.insert(fam.admitted, f.source(p))
	}
	if len(have) > 0 && len(want) == 0 {
		x.remove(fam.guarded, nftables.SetElement{Key: f.key()})
	}
	if len(have) == 0 && len(want) > 0 {
		x.insert(fam.guarded, nftables.SetElement{Key: f.key()})
	}
}

// insert and remove cancel each other within a transaction: an address that leaves one
// frontend and joins another needs no change.
func (x *tx) insert(s *nftables.Set, el nftables.SetElement) { exchange(x.add, x.del, s, el) }
func (x *tx) remove(s *nftables.Set, el nftables.SetElement) { exchange(x.del, x.add, s, el) }

func exchange(into, from map[*nftables.Set][]nftables.SetElement, s *nftables.Set, el nftables.SetElement) {
	if len(el.Val) == 0 && el.VerdictData == nil {
		for i, other := range from[s] {
			if slices.Equal(other.Key, el.Key) && slices.Equal(other.KeyEnd, el.KeyEnd) {
				from[s] = slices.Delete(from[s], i, i+1)
				return
			}
		}
	}
	into[s] = append(into[s], el)
}

// commit sends the transaction and then makes clients forget backends that left.
func (x *tx) commit() error {
	// The length of a netlink attribute has 16 bits.
	const chunk = 400
	for s, els := range x.del {
		for part := range slices.Chunk(els, chunk) {
			if err := x.t.conn.SetDeleteElements(s, part); err != nil {
				return fmt.Errorf("delete from %s: %w", s.Name, err)
			}
		}
	}
	for s, els := range x.add {
		for part := range slices.Chunk(els, chunk) {
			if err := x.t.conn.SetAddElements(s, part); err != nil {
				return fmt.Errorf("add to %s: %w", s.Name, err)
			}
		}
	}
	for _, c := range x.unused {
		x.t.conn.FlushChain(c)
		x.t.conn.DelChain(c)
	}
	if err := x.t.conn.Flush(); err != nil {
		return err
	}
	if len(x.gone) == 0 {
		return nil
	}
	return x.t.forget(x.gone)
}

// key is the frontend as the maps of its family have it: every part takes a whole
// number of registers.
func (f Frontend) key() []byte {
	var k []byte
	if f.Addr.IsValid() {
		k = f.Addr.AsSlice()
	}
	k = append(k, byte(f.Protocol), 0, 0, 0)
	k = binary.BigEndian.AppendUint16(k, f.Port)
	return append(k, 0, 0)
}

func (f Frontend) verdict(chain string) nftables.SetElement {
	return nftables.SetElement{Key: f.key(), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

func (f Frontend) slot(i int, b netip.AddrPort) nftables.SetElement {
	return nftables.SetElement{Key: append(f.key(), binaryutil.NativeEndian.PutUint32(uint32(i))...), Val: backendValue(b)}
}

func (f Frontend) source(p netip.Prefix) nftables.SetElement {
	first := p.Masked().Addr().As4()
	last := first
	for i := p.Bits(); i < 32; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	return nftables.SetElement{Key: append(f.key(), first[:]...), KeyEnd: append(f.key(), last[:]...)}
}

func backendValue(b netip.AddrPort) []byte {
	v := make([]byte, 8)
	copy(v, b.Addr().AsSlice())
	binary.BigEndian.PutUint16(v[4:], b.Port())
	return v
}
