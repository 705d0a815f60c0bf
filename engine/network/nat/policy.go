package nat

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/gantryhq/gantry/engine/network/policy"
)

// direction is one half of network policy. Its map leads the address of an isolated
// pod to the chain of the group of rules that applies to it. Chains are named after
// their contents and never changed: a change makes a new chain, moves the pods' map
// elements to it and deletes the old one, all in one transaction.
type direction struct {
	chain  *nftables.Chain
	groups *nftables.Set // address : verdict
	self   uint32        // offset of the isolated pod's address in the IP header
	peer   uint32        // of the other end's
	allow  *expr.Verdict
}

// addPolicies adds what every packet passes: first the egress of its source, then the
// ingress of its destination. Both end without a verdict for who is not isolated.
func (l *layout) addPolicies(c *nftables.Conn) error {
	l.ingress = direction{self: ipDest, peer: ipSource, allow: &expr.Verdict{Kind: expr.VerdictAccept}}
	l.egress = direction{self: ipSource, peer: ipDest, allow: &expr.Verdict{Kind: expr.VerdictGoto, Chain: "policy-ingress"}}
	for _, d := range []struct {
		*direction
		name string
	}{{&l.ingress, "policy-ingress"}, {&l.egress, "policy-egress"}} {
		d.groups = &nftables.Set{Table: l.table, Name: d.name + "-groups", IsMap: true, KeyType: nftables.TypeIPAddr, DataType: nftables.TypeVerdict}
		if err := c.AddSet(d.groups, nil); err != nil {
			return fmt.Errorf("add map %s: %w", d.groups.Name, err)
		}
		d.chain = c.AddChain(&nftables.Chain{Name: d.name, Table: l.table})
		rule := func(parts ...[]expr.Any) {
			c.AddRule(&nftables.Rule{Table: l.table, Chain: d.chain, Exprs: slices.Concat(parts...)})
		}
		rule(load(keyReg, ipSource, 4), load(keyReg+1, ipDest, 4), inSet(l.hairpins), []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}})
		rule(load(keyReg, d.self, 4), vmap(d.groups))
	}
	c.AddRule(&nftables.Rule{Table: l.table, Chain: l.egress.chain, Exprs: []expr.Any{l.egress.allow}})
	return nil
}

// enforce is the part of a base chain that applies policies to new connections.
func (l *layout) enforce() []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: l.egress.chain.Name}}
}

// established lets packets of connections through that were let through before.
func established() []expr.Any {
	return append(answered(expr.CmpOpNeq), &expr.Verdict{Kind: expr.VerdictAccept})
}

// notAnswered matches packets of connections that got no answer yet.
func notAnswered() []expr.Any { return answered(expr.CmpOpEq) }

func answered(op expr.CmpOp) []expr.Any {
	mask := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: tmpReg},
		&expr.Bitwise{SourceRegister: tmpReg, DestRegister: tmpReg, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: tmpReg, Data: make([]byte, 4)},
	}
}

// SetPolicy enforces the rules, and no others, from now on.
func (t *Table) SetPolicy(rules policy.Ruleset) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.policy = rules
	if !t.live {
		return nil // the first Replace brings it along
	}
	tx := t.begin()
	if err := tx.setPolicy(rules); err != nil {
		return t.heal(err)
	}
	if err := tx.commit(); err != nil {
		return t.heal(err)
	}
	return nil
}

func (x *tx) setPolicy(want policy.Ruleset) error {
	have := x.t.enforced
	l := x.t.layout
	for _, d := range []struct {
		*direction
		have, want map[netip.Addr]string
	}{{&l.ingress, have.Ingress, want.Ingress}, {&l.egress, have.Egress, want.Egress}} {
		for ip, group := range d.want {
			if _, exists := have.Groups[group]; !exists && !x.chains[group] {
				if err := d.addGroup(x.t.conn, l.table, group, want.Groups[group]); err != nil {
					return err
				}
				x.chains[group] = true
			}
			if old, isolated := d.have[ip]; !isolated || old != group {
				x.insert(d.groups, groupElement(ip, group))
			}
		}
		for ip, group := range d.have {
			if d.want[ip] != group {
				x.remove(d.groups, groupElement(ip, group))
			}
		}
	}
	for group := range have.Groups {
		if _, keep := want.Groups[group]; !keep {
			x.unused = append(x.unused, &nftables.Chain{Name: group, Table: l.table})
		}
	}
	x.t.enforced = want
	return nil
}

func groupElement(ip netip.Addr, group string) nftables.SetElement {
	return nftables.SetElement{Key: ip.AsSlice(), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: group}}
}

// addGroup queues a chain that allows what any of the rules allows, and drops the
// rest.
func (d *direction) addGroup(c *nftables.Conn, table *nftables.Table, name string, rules []policy.Rule) error {
	chain := c.AddChain(&nftables.Chain{Name: name, Table: table})
	add := func(parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: slices.Concat(parts...)})
	}
	for _, r := range rules {
		// The length of a netlink attribute has 16 bits: many peers are several rules.
		const chunk = 500
		peers := slices.Collect(slices.Chunk(r.Peers, chunk))
		if r.AnyPeer {
			peers = [][]policy.Range{nil}
		}
		for _, part := range peers {
			if r.AnyPort {
				match, err := d.matchPeers(c, table, part)
				if err != nil {
					return err
				}
				add(match, []expr.Any{d.allow})
			}
			for _, matchPort := range []func() ([]expr.Any, error){
				func() ([]expr.Any, error) { return matchPorts(c, table, r.Ports) },
				func() ([]expr.Any, error) { return matchNamed(c, table, r.Named) },
			} {
				ports, err := matchPort()
				if err != nil {
					return err
				}
				if ports == nil {
					continue
				}
				match, err := d.matchPeers(c, table, part)
				if err != nil {
					return err
				}
				add(match, ports, []expr.Any{d.allow})
			}
		}
	}
	add(drop())
	return nil
}

// matchPeers matches the other end; no ranges match everyone.
func (d *direction) matchPeers(c *nftables.Conn, table *nftables.Table, ranges []policy.Range) ([]expr.Any, error) {
	if len(ranges) == 0 {
		return nil, nil
	}
	var els []nftables.SetElement
	for _, r := range ranges {
		els = append(els, nftables.SetElement{Key: r.First.AsSlice()})
		if end := r.Last.Next(); end.IsValid() {
			els = append(els, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	set := &nftables.Set{Table: table, Anonymous: true, Constant: true, Interval: true, KeyType: nftables.TypeIPAddr}
	if err := c.AddSet(set, els); err != nil {
		return nil, fmt.Errorf("add policy peers: %w", err)
	}
	return append(load(keyReg, d.peer, 4), inSet(set)...), nil
}

// matchPorts matches ranges of destination ports; nil when there are none.
func matchPorts(c *nftables.Conn, table *nftables.Table, ports []policy.Ports) ([]expr.Any, error) {
	var els []nftables.SetElement
	for _, p := range ports {
		proto, err := ProtocolOf(p.Protocol)
		if err != nil {
			return nil, err
		}
		els = append(els, nftables.SetElement{Key: protoPort(proto, p.First), KeyEnd: protoPort(proto, p.Last)})
	}
	if len(els) == 0 {
		return nil, nil
	}
	set := &nftables.Set{
		Table: table, Anonymous: true, Constant: true, Interval: true, Concatenation: true,
		KeyType: concat(nftables.TypeInetProto, nftables.TypeInetService),
	}
	if err := c.AddSet(set, els); err != nil {
		return nil, fmt.Errorf("add policy ports: %w", err)
	}
	return append((&family{host: true}).load(keyReg), inSet(set)...), nil
}

// matchNamed matches ports of particular pods; nil when there are none.
func matchNamed(c *nftables.Conn, table *nftables.Table, ports []policy.Port) ([]expr.Any, error) {
	var els []nftables.SetElement
	for _, p := range ports {
		proto, err := ProtocolOf(p.Protocol)
		if err != nil {
			return nil, err
		}
		el := nftables.SetElement{Key: append(p.Addr.AsSlice(), protoPort(proto, p.Port)...)}
		if !slices.ContainsFunc(els, func(e nftables.SetElement) bool { return slices.Equal(e.Key, el.Key) }) {
			els = append(els, el)
		}
	}
	if len(els) == 0 {
		return nil, nil
	}
	set := &nftables.Set{
		Table: table, Anonymous: true, Constant: true, Concatenation: true,
		KeyType: concat(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
	}
	if err := c.AddSet(set, els); err != nil {
		return nil, fmt.Errorf("add policy ports: %w", err)
	}
	return append((&family{host: false}).load(keyReg), inSet(set)...), nil
}

func protoPort(p Protocol, port uint16) []byte {
	k := []byte{byte(p), 0, 0, 0}
	k = binary.BigEndian.AppendUint16(k, port)
	return append(k, 0, 0)
}
