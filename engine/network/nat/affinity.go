package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/google/nftables"
)

const affinityName = "affinity"

// affinities reads the clients remembered by a table of an earlier process, so that
// they survive the replacement of the table.
func (t *Table) affinities() ([]nftables.SetElement, error) {
	exists, err := t.exists()
	if err != nil || !exists {
		return nil, err
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: t.cfg.Name}
	var all []nftables.SetElement
	for _, f := range []family{{host: false}, {host: true}} {
		els, err := t.conn.GetSetElements(&nftables.Set{Table: table, Name: f.name(affinityName)})
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			return nil, fmt.Errorf("list remembered clients: %w", err)
		}
		all = append(all, els...)
	}
	return all, nil
}

// keep re-enters remembered clients whose backend is still one of their frontend.
func (x *tx) keep(els []nftables.SetElement) {
	for _, el := range els {
		f, b, ok := decodeAffinity(el)
		if !ok || el.Expires <= 0 {
			continue
		}
		have := x.t.installed[f]
		if have == nil || !slices.Contains(have.backends, b) {
			continue
		}
		x.insert(x.t.layout.of(f).affinity, nftables.SetElement{Key: el.Key, Val: el.Val, Timeout: el.Expires})
	}
}

// decodeAffinity takes apart "frontend . saddr : backend".
func decodeAffinity(el nftables.SetElement) (Frontend, netip.AddrPort, bool) {
	const hostKey, addrKey = 12, 16
	var f Frontend
	key := el.Key
	switch len(key) {
	case hostKey:
	case addrKey:
		f.Addr, key = netip.AddrFrom4([4]byte(key)), key[4:]
	default:
		return Frontend{}, netip.AddrPort{}, false
	}
	if len(el.Val) < 6 {
		return Frontend{}, netip.AddrPort{}, false
	}
	f.Protocol, f.Port = Protocol(key[0]), binary.BigEndian.Uint16(key[4:])
	return f, netip.AddrPortFrom(netip.AddrFrom4([4]byte(el.Val)), binary.BigEndian.Uint16(el.Val[4:])), true
}

// forget removes the clients whose backend is gone from their frontend. A packet
// that was being translated meanwhile may have refreshed an entry, so it looks again
// until nothing is found.
func (t *Table) forget(gone map[netip.AddrPort]bool) error {
	if !t.layout.sticky {
		return nil
	}
	const attempts = 5
	for _, fam := range []*family{&t.layout.byAddr, &t.layout.byHost} {
		for range attempts {
			n, err := t.forgetOnce(fam, gone)
			if err != nil {
				return fmt.Errorf("forget clients: %w", err)
			}
			if n == 0 {
				break
			}
		}
	}
	return nil
}

// forgetOnce returns how many it found.
func (t *Table) forgetOnce(fam *family, gone map[netip.AddrPort]bool) (int, error) {
	els, err := t.conn.GetSetElements(fam.affinity)
	if err != nil {
		return 0, err
	}
	found := 0
	for _, el := range els {
		f, b, ok := decodeAffinity(el)
		if !ok || !gone[b] {
			continue
		}
		if have := t.installed[f]; have != nil && slices.Contains(have.backends, b) {
			continue
		}
		found++
		if err := t.conn.SetDeleteElements(fam.affinity, []nftables.SetElement{{Key: el.Key, Val: el.Val}}); err != nil {
			return 0, err
		}
		// One transaction each: an entry may expire in between, which fails it.
		if err := t.conn.Flush(); err != nil && !errors.Is(err, syscall.ENOENT) {
			return 0, err
		}
	}
	return found, nil
}
