package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// forbidden are addresses that no step reaches although they may lie outside: those
// of the link, where clouds tell a machine its secrets, and two that clouds use for
// the same purpose.
var forbidden = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("100.100.100.200/32"),
}

// writeTable replaces the instance's table, in one transaction. Steps send to
// uplinks and get answers, and that is all:
//
//	input:    from a step: refused
//	forward:  from a step to a forbidden address: refused; to an uplink: accepted; else refused
//	          to a step: only answers
//	postrouting: from a step's address to an uplink: the machine's own address
func writeTable(name string, steps netip.Prefix, uplinks []string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	defer c.CloseLasting()
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: name}
	c.AddTable(t) // so that deleting it is no error
	c.DelTable(t)
	c.AddTable(t)
	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: all})
	}
	base := func(name string, hook *nftables.ChainHook, kind nftables.ChainType, priority *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: t, Type: kind, Hooknum: hook, Priority: priority})
	}
	fromStep, toStep := linkIs(expr.MetaKeyIIFNAME, linkPrefix(name), true), linkIs(expr.MetaKeyOIFNAME, linkPrefix(name), true)

	input := base("input", nftables.ChainHookInput, nftables.ChainTypeFilter, nftables.ChainPriorityFilter)
	rule(input, fromStep, refuse)

	forward := base("forward", nftables.ChainHookForward, nftables.ChainTypeFilter, nftables.ChainPriorityFilter)
	for _, f := range forbidden {
		rule(forward, fromStep, address(destination, f), refuse)
	}
	for _, u := range uplinks {
		rule(forward, fromStep, linkIs(expr.MetaKeyOIFNAME, u, false), verdict(expr.VerdictAccept))
	}
	rule(forward, fromStep, refuse)
	rule(forward, toStep, answers, verdict(expr.VerdictAccept))
	rule(forward, toStep, verdict(expr.VerdictDrop))

	post := base("postrouting", nftables.ChainHookPostrouting, nftables.ChainTypeNAT, nftables.ChainPriorityNATSource)
	for _, u := range uplinks {
		rule(post, address(source, steps), linkIs(expr.MetaKeyOIFNAME, u, false), []expr.Any{&expr.Masq{}})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", name, err)
	}
	return nil
}

// removeTable deletes the instance's table, if there is one.
func removeTable(name string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	defer c.CloseLasting()
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: name}
	c.DelTable(t)
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	return nil
}

var (
	refuse  = []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 13}} // administratively prohibited
	answers = []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
)

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

// linkIs matches an interface's name, or how it begins.
func linkIs(key expr.MetaKey, name string, prefix bool) []expr.Any {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	if prefix {
		data = data[:len(name)]
	}
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}}
}

// Offsets in the IPv4 header.
const source, destination = 12, 16

func address(offset uint32, p netip.Prefix) []expr.Any {
	addr := p.Masked().Addr().As4()
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr[:]},
	}
}
