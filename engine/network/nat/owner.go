package nat

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
)

// ownersName is the set of who may send with which address.
const ownersName = "owners"

// Own admits packets from the addresses, if they come from the hardware address of each.
// Before the first Replace it changes the table that an earlier process left.
func (t *Table) Own(owners map[netip.Addr]net.HardwareAddr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var elements []nftables.SetElement
	for ip, mac := range owners {
		if t.owners[ip] == nil {
			elements = append(elements, ownerElement(ip, mac))
		}
		t.owners[ip] = mac
	}
	if len(elements) == 0 {
		return nil
	}
	if !t.live {
		// That table may be of a version without owners. The first Replace brings them.
		_ = t.conn.SetAddElements(t.earlierOwners(), elements)
		_ = t.conn.Flush()
		return nil
	}
	tx := t.begin()
	tx.add[t.layout.owners] = elements
	if err := tx.commit(); err != nil {
		return t.heal(fmt.Errorf("admit addresses: %w", err))
	}
	return nil
}

// Disown drops packets from the addresses from now on.
func (t *Table) Disown(ips ...netip.Addr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var elements []nftables.SetElement
	for _, ip := range ips {
		if mac, ok := t.owners[ip]; ok {
			elements = append(elements, ownerElement(ip, mac))
			delete(t.owners, ip)
		}
	}
	if len(elements) == 0 || !t.live {
		return nil
	}
	tx := t.begin()
	tx.del[t.layout.owners] = elements
	if err := tx.commit(); err != nil {
		return t.heal(fmt.Errorf("withdraw addresses: %w", err))
	}
	return nil
}

// earlierOwners is the set in a table that this process has not laid out.
func (t *Table) earlierOwners() *nftables.Set {
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: t.cfg.Name}
	return &nftables.Set{Name: ownersName, Table: table, Concatenation: true, KeyType: concat(nftables.TypeEtherAddr, nftables.TypeIPAddr)}
}

// ownerElement has a key in which every part takes a whole number of registers.
func ownerElement(ip netip.Addr, mac net.HardwareAddr) nftables.SetElement {
	key := make([]byte, 8, 12)
	copy(key, mac)
	return nftables.SetElement{Key: append(key, ip.AsSlice()...)}
}
