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

// affinities reads the clients remembered by a table of an earlier process, so that
// they survive the replacement of the table.
func (t *Table) affinities() ([]nftables.SetElement, error) {
	exists, err := t.exists()
	if err != nil || !exists {
		return nil, err
	}
	set := affinitySet(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: t.cfg.Name})
	els, err := t.conn.GetSetElements(set)
	if errors.Is(err, syscall.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list remembered clients: %w", err)
	}
	return els, nil
}

// affinitySet names the set for reading.
func affinitySet(table *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: table, Name: "affinity", IsMap: true, HasTimeout: true}
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
		x.insert(x.t.layout.affinity, nftables.SetElement{Key: el.Key, Val: el.Val, Timeout: el.Expires})
	}
}

func decodeAffinity(el nftables.SetElement) (Frontend, netip.AddrPort, bool) {
	if len(el.Key) != 16 || len(el.Val) < 6 {
		return Frontend{}, netip.AddrPort{}, false
	}
	f := Frontend{Protocol: Protocol(el.Key[8]), Port: binary.BigEndian.Uint16(el.Key[12:])}
	if a := netip.AddrFrom4([4]byte(el.Key[4:8])); !a.IsUnspecified() {
		f.Addr = a
	}
	return f, netip.AddrPortFrom(netip.AddrFrom4([4]byte(el.Val[:4])), binary.BigEndian.Uint16(el.Val[4:])), true
}

// forget removes the clients whose backend is gone from their frontend. A packet
// that was being translated meanwhile may have refreshed an entry, so it looks again
// until nothing is found.
func (t *Table) forget(gone map[netip.AddrPort]bool) error {
	if !t.layout.sticky {
		return nil
	}
	for range 5 {
		els, err := t.conn.GetSetElements(t.layout.affinity)
		if err != nil {
			return fmt.Errorf("list remembered clients: %w", err)
		}
		found := false
		for _, el := range els {
			f, b, ok := decodeAffinity(el)
			if !ok || !gone[b] {
				continue
			}
			if have := t.installed[f]; have != nil && slices.Contains(have.backends, b) {
				continue
			}
			found = true
			if err := t.conn.SetDeleteElements(t.layout.affinity, []nftables.SetElement{{Key: el.Key, Val: el.Val}}); err != nil {
				return fmt.Errorf("forget client: %w", err)
			}
			// One transaction each: an entry may expire in between, which fails it.
			if err := t.conn.Flush(); err != nil && !errors.Is(err, syscall.ENOENT) {
				return fmt.Errorf("forget client: %w", err)
			}
		}
		if !found {
			return nil
		}
	}
	return nil
}
