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
	t   *Table
	del map[*nftables.Set][]nftables.SetElement
	add map[*nftables.Set][]nftables.SetElement

	chains     map[string]bool   // policy chains created
	unused     []*nftables.Chain // to delete at the end, when nothing leads to them
	unusedSets []*nftables.Set   // after them
}

func (t *Table) begin() *tx {
	return &tx{
		t:   t,
		del: map[*nftables.Set][]nftables.SetElement{}, add: map[*nftables.Set][]nftables.SetElement{},
		chains: map[string]bool{},
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
	now := &installed{}
	if want != nil {
		now.backends, now.sources = keepSlots(have.backends, want.Backends), slices.Clone(want.Sources)
	}
	switch {
	case len(now.backends) == 0:
	case want.Affinity > 0:
		now.affinity, now.chain = want.Affinity, f.stickyName()
	default:
		now.chain = x.t.layout.spread(x.t.conn, fam, len(now.backends))
	}
	if err := x.stick(f, have, now); err != nil {
		return err
	}
	x.moveBackends(f, have, now)
	x.moveSources(f, have.sources, now.sources)
	wasRefused, isRefused := existed && have.chain == "", want != nil && now.chain == ""
	if wasRefused && !isRefused {
		x.remove(fam.refused, nftables.SetElement{Key: f.key()})
	}
	if isRefused && !wasRefused {
		x.insert(fam.refused, nftables.SetElement{Key: f.key()})
	}
	if have.chain != now.chain {
		if have.chain != "" {
			x.remove(fam.services, f.verdict(have.chain))
		}
		if now.chain != "" {
			x.insert(fam.services, f.verdict(now.chain))
		}
	}
	if want == nil {
		delete(x.t.installed, f)
	} else {
		x.t.installed[f] = now
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

// moveBackends changes the slots, which frontends with affinity do not use, and the
// hairpins.
func (x *tx) moveBackends(f Frontend, have, want *installed) {
	slots := x.t.layout.of(f).slots
	eachMove(have.slots(), want.slots(),
		func(i int, b netip.AddrPort) { x.remove(slots, f.slot(i, b)) },
		func(i int, b netip.AddrPort) { x.insert(slots, f.slot(i, b)) })
	eachMove(have.backends, want.backends,
		func(_ int, b netip.AddrPort) { x.hairpin(b.Addr(), -1) },
		func(_ int, b netip.AddrPort) { x.hairpin(b.Addr(), +1) })
}

func (s *installed) slots() []netip.AddrPort {
	if s.affinity > 0 {
		return nil
	}
	return s.backends
}

// eachMove tells of every backend that leaves an index, and of the one that takes it.
func eachMove(have, want []netip.AddrPort, leaves, takes func(int, netip.AddrPort)) {
	for i := range max(len(have), len(want)) {
		if i < len(have) && i < len(want) && have[i] == want[i] {
			continue
		}
		if i < len(have) {
			leaves(i, have[i])
		}
		if i < len(want) {
			takes(i, want[i])
		}
	}
}

// hairpin counts the backends of frontends at an address.
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

// commit sends the transaction.
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
	for _, s := range x.unusedSets {
		x.t.conn.DelSet(s)
	}
	return x.t.conn.Flush()
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
