package nat

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The kernel counts what pods send to each other, by the ends of the connection: who opened it,
// and the address it was opened to, which is a service's as a rule. So a reading costs what there are
// pairs, not connections or packets, and nothing that ends between two readings is missed. Only what got
// an answer makes a pair: who tries every address fills nothing.

// Flow is a pair of ends. The zero address is everything outside the cluster.
type Flow struct{ From, To netip.Addr }

// Counts are totals of a flow. They begin anew when the flow was idle for trafficMemory or
// when the table was replaced.
type Counts struct {
	Bytes    uint64 // IP packets with their headers, both ways
	Accepted uint64 // TCP connections opened
	Refused  uint64 // attempts that a pod refused, and those to services without endpoints
}

const (
	trafficMemory = 10 * time.Minute
	trafficPairs  = 65_535 // the most that are counted at a time
	refusedPairs  = 4_096
)

// counters are the sets behind [Counts], each of pairs of addresses.
type counters struct{ bytes, accepted, refused *nftables.Set }

func (l *layout) addCounters(c *nftables.Conn) error {
	for _, s := range []struct {
		field **nftables.Set
		name  string
		size  uint32
	}{
		{&l.traffic.bytes, "traffic", trafficPairs}, {&l.traffic.accepted, "traffic-accepted", trafficPairs}, {&l.traffic.refused, "traffic-refused", refusedPairs},
	} {
		set := &nftables.Set{
			Table: l.table, Name: s.name, Concatenation: true, KeyType: concat(nftables.TypeIPAddr, nftables.TypeIPAddr),
			Dynamic: true, HasTimeout: true, Size: s.size,
		}
		if err := c.AddSet(set, nil); err != nil {
			return fmt.Errorf("add set %s: %w", set.Name, err)
		}
		*s.field = set
	}
	return nil
}

// trafficChain is the base chain that counts what was let through.
const trafficChain = "traffic"

// addTrafficChains adds the chains, still without rules.
func (l *layout) addTrafficChains(c *nftables.Conn) {
	l.baseChain(c, trafficChain, nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPrioritySecurity)
	for _, name := range []string{"inside", "out", "in", "in-answers"} {
		c.AddChain(&nftables.Chain{Name: trafficChain + "-" + name, Table: l.table})
	}
}

// trafficRules are the rules of those chains. A packet that is an answer counts for the ends of its connection.
func (l *layout) trafficRules(cfg Config) []rawRule {
	var rules []rawRule
	rule := func(chain string, parts ...[]rawExpr) {
		rules = append(rules, rawRule{chain, slices.Concat(parts...)})
	}
	// count adds the rules of a chain for the pair that key puts into the registers, and returns what leads there.
	count := func(name string, key ...[]rawExpr) []rawExpr {
		chain, pair := trafficChain+"-"+name, slices.Concat(key...)
		rule(chain, pair, raw(countIn(l.traffic.bytes)))
		rule(chain, raw(protocolIs(unix.IPPROTO_TCP), tcpFlags(tcpSYN|tcpACK, tcpSYN|tcpACK)), pair, raw(countIn(l.traffic.accepted)))
		// A refusal of what was never open has no place in a sequence (RFC 9293, 3.10.7.1).
		rule(chain, raw(protocolIs(unix.IPPROTO_TCP), tcpFlags(tcpRST, tcpRST), tcpSequenceIs0()), pair, raw(countIn(l.traffic.refused)))
		return raw([]expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}})
	}
	nowhere := func(reg uint32) []rawExpr {
		return raw([]expr.Any{&expr.Immediate{Register: reg, Data: make([]byte, 4)}})
	}
	address := func(reg, offset uint32) []rawExpr { return raw(load(reg, offset, 4)) }
	bridge := func(key expr.MetaKey) []rawExpr { return raw(ifname(key, expr.CmpOpEq, cfg.Bridge)) }
	from, to := []rawExpr{ctSource(keyReg)}, []rawExpr{ctDest(keyReg + 1)}
	fromPod := slices.Concat(from, raw(masked(keyReg, expr.CmpOpEq, cfg.PodCIDR)))
	toRange := func(p netip.Prefix) []rawExpr { return slices.Concat(to, raw(masked(keyReg+1, expr.CmpOpEq, p))) }

	rule(trafficChain, raw(notAnswered(), []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}))
	inside := count("inside", from, to)
	rule(trafficChain, fromPod, toRange(cfg.ServiceCIDR), inside)
	rule(trafficChain, fromPod, toRange(cfg.PodCIDR), inside)
	rule(trafficChain, fromPod, count("out", from, nowhere(keyReg+1)))
	// From outside, by a node's port or a load balancer: what matters is the pod.
	rule(trafficChain, bridge(expr.MetaKeyOIFNAME), count("in", nowhere(keyReg), address(keyReg+1, ipDest)))
	rule(trafficChain, bridge(expr.MetaKeyIIFNAME), count("in-answers", nowhere(keyReg), address(keyReg+1, ipSource)))
	return rules
}

// countRefused counts a packet that is about to be refused, for want of an endpoint.
func (l *layout) countRefused(cfg Config) []expr.Any {
	return slices.Concat(ifname(expr.MetaKeyIIFNAME, expr.CmpOpEq, cfg.Bridge), load(keyReg, ipSource, 4), load(keyReg+1, ipDest, 4), countIn(l.traffic.refused))
}

// Traffic reads what was counted. Before the first Replace there is nothing. A flow may be missing
// that is counted all the same, when the table changes at that moment.
func (t *Table) Traffic() (map[Flow]Counts, error) {
	t.mu.Lock()
	live, layout := t.live, t.layout
	t.mu.Unlock()
	if !live {
		return nil, nil
	}
	conn, err := nftables.New() // of its own: no change waits for a reading
	if err != nil {
		return nil, fmt.Errorf("connect to nftables: %w", err)
	}
	out := map[Flow]Counts{}
	for _, s := range []struct {
		set *nftables.Set
		add func(*Counts, *expr.Counter)
	}{
		{layout.traffic.bytes, func(c *Counts, n *expr.Counter) { c.Bytes = n.Bytes }},
		{layout.traffic.accepted, func(c *Counts, n *expr.Counter) { c.Accepted = n.Packets }},
		{layout.traffic.refused, func(c *Counts, n *expr.Counter) { c.Refused = n.Packets }},
	} {
		elements, err := conn.GetSetElements(s.set)
		if err != nil {
			return nil, fmt.Errorf("read nftables set %s of table %s: %w", s.set.Name, t.cfg.Name, err)
		}
		for _, e := range elements {
			if len(e.Key) < 8 || e.Counter == nil {
				continue
			}
			f := Flow{From: addrOf(e.Key[:4]), To: addrOf(e.Key[4:8])}
			c := out[f]
			s.add(&c, e.Counter)
			out[f] = c
		}
	}
	return out, nil
}

// addrOf is the address of a key's part; that of nowhere is the zero one.
func addrOf(b []byte) netip.Addr {
	if a := netip.AddrFrom4([4]byte(b)); !a.IsUnspecified() {
		return a
	}
	return netip.Addr{}
}

func countIn(set *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Dynset{
		SrcRegKey: keyReg, SetName: set.Name, SetID: set.ID, Operation: unix.NFT_DYNSET_OP_UPDATE,
		Timeout: trafficMemory, Exprs: []expr.Any{&expr.Counter{}},
	}}
}

const (
	tcpSYN, tcpRST, tcpACK       = 0x02, 0x04, 0x10
	tcpSequence, tcpFlagsAndMore = 4, 13 // offsets in the header
)

func tcpFlags(mask, value byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: tmpReg, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlagsAndMore, Len: 1},
		&expr.Bitwise{SourceRegister: tmpReg, DestRegister: tmpReg, Len: 1, Mask: []byte{mask}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: tmpReg, Data: []byte{value}},
	}
}

func tcpSequenceIs0() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: tmpReg, Base: expr.PayloadBaseTransportHeader, Offset: tcpSequence, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: tmpReg, Data: make([]byte, 4)},
	}
}
