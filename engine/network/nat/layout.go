package nat

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// layout is the fixed part of the table: sets, maps, and the chains that do not
// depend on services.
type layout struct {
	table    *nftables.Table
	services *nftables.Set // daddr . protocol . port : verdict
	slots    *nftables.Set // daddr . protocol . port . slot : backend
	affinity *nftables.Set // saddr . daddr . protocol . port : backend, with timeout
	refused  *nftables.Set // daddr . protocol . port of frontends without backends
	hairpins *nftables.Set // backend . backend
	guarded  *nftables.Set // daddr . protocol . port of frontends with source ranges
	admitted *nftables.Set // daddr . protocol . port . saddr range

	chains map[string]bool // spreading chains that exist
	sticky bool            // one of them remembers clients
}

// Registers of 4 bytes each. A lookup reads its key from consecutive ones.
const (
	reg0 = unix.NFT_REG32_00 + iota
	reg1
	reg2
	reg3
	reg4
	reg5
	reg6
	reg7
)

// Offsets in the IPv4 and in the TCP, UDP and SCTP headers.
const (
	ipSource, ipDest = 12, 16
	portDest         = 2
)

// addLayout queues the creation of the table.
func addLayout(c *nftables.Conn, cfg Config) (*layout, error) {
	l := &layout{table: c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: cfg.Name}), chains: map[string]bool{}}
	addr, proto, port := nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService
	frontend := nftables.MustConcatSetType(addr, proto, port)
	backend := nftables.MustConcatSetType(addr, port)
	sets := []struct {
		field **nftables.Set
		set   nftables.Set
	}{
		{&l.services, nftables.Set{Name: "services", IsMap: true, KeyType: frontend, DataType: nftables.TypeVerdict}},
		{&l.slots, nftables.Set{Name: "slots", IsMap: true, KeyType: nftables.MustConcatSetType(addr, proto, port, nftables.TypeMark), DataType: backend}},
		{&l.affinity, nftables.Set{
			Name: "affinity", IsMap: true, KeyType: nftables.MustConcatSetType(addr, addr, proto, port), DataType: backend,
			Dynamic: true, HasTimeout: true, Size: 1 << 20,
		}},
		{&l.refused, nftables.Set{Name: "refused", KeyType: frontend}},
		{&l.hairpins, nftables.Set{Name: "hairpins", KeyType: nftables.MustConcatSetType(addr, addr)}},
		{&l.guarded, nftables.Set{Name: "guarded", KeyType: frontend}},
		{&l.admitted, nftables.Set{Name: "admitted", Interval: true, KeyType: nftables.MustConcatSetType(addr, proto, port, addr)}},
	}
	for _, s := range sets {
		set := s.set
		set.Table, set.Concatenation = l.table, true
		if err := c.AddSet(&set, nil); err != nil {
			return nil, fmt.Errorf("add set %s: %w", set.Name, err)
		}
		*s.field = &set
	}
	l.addNAT(c, cfg)
	l.addFilters(c, cfg)
	return l, nil
}

func (l *layout) baseChain(c *nftables.Conn, name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) func(...[]expr.Any) {
	chain := c.AddChain(&nftables.Chain{Name: name, Table: l.table, Type: typ, Hooknum: hook, Priority: prio})
	return func(parts ...[]expr.Any) {
		var exprs []expr.Any
		for _, p := range parts {
			exprs = append(exprs, p...)
		}
		c.AddRule(&nftables.Rule{Table: l.table, Chain: chain, Exprs: exprs})
	}
}

// addNAT adds the translation of destinations, for traffic that arrives and for the
// host's own, and of sources.
func (l *layout) addNAT(c *nftables.Conn, cfg Config) {
	for name, hook := range map[string]*nftables.ChainHook{
		"prerouting": nftables.ChainHookPrerouting, "output": nftables.ChainHookOutput,
	} {
		rule := l.baseChain(c, name, nftables.ChainTypeNAT, hook, nftables.ChainPriorityNATDest)
		rule(loadFrontend(reg0, false), vmap(l.services, reg0))
		// Cluster DNS is this host's own address too, but no node port.
		rule(addrIs(ipDest, expr.CmpOpNeq, cfg.DNS), toHost(), loadFrontend(reg0, true), vmap(l.services, reg0))
	}

	rule := l.baseChain(c, "postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	// A pod that reaches itself through a service must see the answer come back
	// through the host, or it would discard it.
	rule(ifname(expr.MetaKeyOIFNAME, expr.CmpOpEq, cfg.Bridge), load(reg0, ipSource, 4), load(reg1, ipDest, 4), inSet(l.hairpins, reg0), masquerade())
	// A node port on 127.0.0.1: nobody can answer to that address from outside.
	rule(ifname(expr.MetaKeyOIFNAME, expr.CmpOpEq, cfg.Bridge), inRange(ipSource, expr.CmpOpEq, loopback), masquerade())
	rule(ifname(expr.MetaKeyOIFNAME, expr.CmpOpNeq, cfg.Bridge), inRange(ipSource, expr.CmpOpEq, cfg.PodCIDR), masquerade())
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// addFilters adds what is refused or dropped.
func (l *layout) addFilters(c *nftables.Conn, cfg Config) {
	raw := l.baseChain(c, "guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	// route_localnet lets node ports work on 127.0.0.1; it must not open the host's
	// loopback to pods. Answers pass: they are translated only after this point.
	raw(ifname(expr.MetaKeyIIFNAME, expr.CmpOpEq, cfg.Bridge), inRange(ipDest, expr.CmpOpEq, loopback), drop())
	raw(ifname(expr.MetaKeyIIFNAME, expr.CmpOpEq, cfg.Bridge), inRange(ipSource, expr.CmpOpNeq, cfg.PodCIDR), drop())
	// Not an open resolver for the neighbours of this machine.
	raw(ifname(expr.MetaKeyIIFNAME, expr.CmpOpNeq, cfg.Bridge), ifname(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), addrIs(ipDest, expr.CmpOpEq, cfg.DNS), drop())
	raw(loadFrontend(reg0, true), inSet(l.guarded, reg0), toHost(), loadFrontend(reg0, true), load(reg3, ipSource, 4), notInSet(l.admitted, reg0), drop())
	raw(loadFrontend(reg0, false), inSet(l.guarded, reg0), load(reg3, ipSource, 4), notInSet(l.admitted, reg0), drop())

	refuse := c.AddChain(&nftables.Chain{Name: "refuse", Table: l.table})
	c.AddRule(&nftables.Rule{Table: l.table, Chain: refuse, Exprs: append(protocolIs(unix.IPPROTO_TCP), &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})})
	c.AddRule(&nftables.Rule{Table: l.table, Chain: refuse, Exprs: []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable}}})
	jump := []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: refuse.Name}}
	for name, hook := range map[string]*nftables.ChainHook{
		"filter-input": nftables.ChainHookInput, "filter-forward": nftables.ChainHookForward, "filter-output": nftables.ChainHookOutput,
	} {
		rule := l.baseChain(c, name, nftables.ChainTypeFilter, hook, nftables.ChainPriorityFilter)
		if hook == nftables.ChainHookOutput {
			// Pods reach each other through this host although they are neighbours,
			// on purpose: it must not tell them of the shorter way.
			rule(ifname(expr.MetaKeyOIFNAME, expr.CmpOpEq, cfg.Bridge), icmpType(icmpRedirect), drop())
			// While DNS restarts, silence makes resolvers ask again; a refusal makes
			// them give up.
			rule(ifname(expr.MetaKeyOIFNAME, expr.CmpOpEq, cfg.Bridge), addrIs(ipSource, expr.CmpOpEq, cfg.DNS), icmpType(icmpUnreachable), drop())
		}
		// What still bears a service address here had no backend to go to.
		rule(inRange(ipDest, expr.CmpOpEq, cfg.ServiceCIDR), addrIs(ipDest, expr.CmpOpNeq, cfg.DNS), jump)
		rule(loadFrontend(reg0, false), inSet(l.refused, reg0), jump)
		if hook != nftables.ChainHookForward {
			rule(loadFrontend(reg0, true), inSet(l.refused, reg0), toHost(), jump)
		}
	}
}

const (
	icmpUnreachable     = 3
	icmpRedirect        = 5
	icmpPortUnreachable = 3 // code of icmpUnreachable
)

// spread returns the name of the chain that spreads over n backends, queueing its
// creation when it does not exist yet.
func (l *layout) spread(c *nftables.Conn, n int, everyAddress bool, affinity time.Duration) string {
	kind := "spread"
	if everyAddress {
		kind = "spread-host"
	}
	name := fmt.Sprintf("%s-%d", kind, n)
	if affinity > 0 {
		name += fmt.Sprintf("-sticky-%d", int(affinity/time.Second))
	}
	if l.chains[name] {
		return name
	}
	l.chains[name] = true
	chain := c.AddChain(&nftables.Chain{Name: name, Table: l.table})
	add := func(parts ...[]expr.Any) {
		var exprs []expr.Any
		for _, p := range parts {
			exprs = append(exprs, p...)
		}
		c.AddRule(&nftables.Rule{Table: l.table, Chain: chain, Exprs: exprs})
	}
	toBackend := []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg0, RegProtoMin: reg1}}
	choose := append(loadFrontend(reg0, everyAddress),
		&expr.Numgen{Register: reg3, Modulus: uint32(n), Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetName: l.slots.Name, SetID: l.slots.ID})
	if affinity > 0 {
		l.sticky = true
		client := append(load(reg4, ipSource, 4), loadFrontend(reg5, everyAddress)...)
		// Sees the client again: its time starts anew.
		remember := []expr.Any{&expr.Dynset{
			SrcRegKey: reg4, SrcRegData: reg0, SetName: l.affinity.Name, SetID: l.affinity.ID,
			Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: affinity,
		}}
		recall := []expr.Any{&expr.Lookup{SourceRegister: reg4, DestRegister: reg0, IsDestRegSet: true, SetName: l.affinity.Name, SetID: l.affinity.ID}}
		add(client, recall, remember, toBackend)
		add(client, choose, remember, toBackend)
		// Only when the memory of clients is full.
	}
	add(choose, toBackend)
	return name
}

// load reads n bytes of the IPv4 header.
func load(reg uint32, offset, n uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n}}
}

// loadFrontend puts destination address, protocol and port into three registers. With
// everyAddress the address is zero, as in the key of such a frontend.
func loadFrontend(reg uint32, everyAddress bool) []expr.Any {
	dest := load(reg, ipDest, 4)
	if everyAddress {
		dest = []expr.Any{&expr.Immediate{Register: reg, Data: make([]byte, 4)}}
	}
	return append(dest,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg + 1},
		&expr.Payload{DestRegister: reg + 2, Base: expr.PayloadBaseTransportHeader, Offset: portDest, Len: 2})
}

func vmap(set *nftables.Set, key uint32) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: key, DestRegister: 0, IsDestRegSet: true, SetName: set.Name, SetID: set.ID}}
}

func inSet(set *nftables.Set, key uint32) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: key, SetName: set.Name, SetID: set.ID}}
}

func notInSet(set *nftables.Set, key uint32) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: key, SetName: set.Name, SetID: set.ID, Invert: true}}
}

// toHost matches packets for an address of this host.
func toHost() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg7, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg7, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func ifname(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return []expr.Any{&expr.Meta{Key: key, Register: unix.NFT_REG_1}, &expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: data}}
}

func addrIs(offset uint32, op expr.CmpOp, addr netip.Addr) []expr.Any {
	return append(load(reg7, offset, 4), &expr.Cmp{Op: op, Register: reg7, Data: addr.AsSlice()})
}

func inRange(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	mask := make([]byte, 4)
	for i := 0; i < p.Bits(); i++ {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return append(load(reg7, offset, 4),
		&expr.Bitwise{SourceRegister: reg7, DestRegister: reg7, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: reg7, Data: p.Masked().Addr().AsSlice()})
}

func protocolIs(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg7}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg7, Data: []byte{proto}}}
}

func icmpType(typ byte) []expr.Any {
	return append(protocolIs(unix.IPPROTO_ICMP),
		&expr.Payload{DestRegister: reg7, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg7, Data: []byte{typ}})
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{FullyRandom: true}} }
func drop() []expr.Any       { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
