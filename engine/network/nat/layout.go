package nat

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// layout is the fixed part of the table: sets, maps, and the chains that do not
// depend on services.
type layout struct {
	table    *nftables.Table
	byAddr   family        // frontends with an address
	byHost   family        // frontends at every address of the host
	hairpins *nftables.Set // backend . backend
	owners   *nftables.Set // hardware address . address of every pod
	ingress  direction     // network policy
	egress   direction
	traffic  counters
	turn     int32 // added to the priority of every base chain, see nextTurn

	chains map[string]bool // spreading chains that exist
}

// family is the sets and maps of one kind of frontend. Their keys begin with
// "daddr . protocol . port", or without daddr for those at every address.
type family struct {
	host     bool
	services *nftables.Set // frontend : verdict
	slots    *nftables.Set // frontend . slot : backend
	refused  *nftables.Set // frontends without backends
	guarded  *nftables.Set // frontends with source ranges
	admitted *nftables.Set // frontend . saddr range
}

func (l *layout) of(f Frontend) *family {
	if f.Addr.IsValid() {
		return &l.byAddr
	}
	return &l.byHost
}

// Registers of 4 bytes each. A lookup reads its key from consecutive ones.
const (
	keyReg = unix.NFT_REG32_00 // a frontend and what follows it
	tmpReg = unix.NFT_REG32_15 // one value
)

// Offsets in the IPv4 and in the TCP, UDP and SCTP headers.
const (
	ipSource, ipDest = 12, 16
	portDest         = 2
)

// addLayout queues the creation of the table.
func addLayout(c *nftables.Conn, cfg Config, turn int32) (*layout, error) {
	l := &layout{
		turn:   turn,
		table:  c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: cfg.Name}),
		byAddr: family{host: false}, byHost: family{host: true}, chains: map[string]bool{},
	}
	for _, f := range []*family{&l.byAddr, &l.byHost} {
		if err := f.add(c, l.table); err != nil {
			return nil, err
		}
	}
	l.hairpins = &nftables.Set{Name: "hairpins", Table: l.table, Concatenation: true, KeyType: concat(nftables.TypeIPAddr, nftables.TypeIPAddr)}
	if err := c.AddSet(l.hairpins, nil); err != nil {
		return nil, fmt.Errorf("add set hairpins: %w", err)
	}
	l.owners = &nftables.Set{Name: ownersName, Table: l.table, Concatenation: true, KeyType: concat(nftables.TypeEtherAddr, nftables.TypeIPAddr)}
	if err := c.AddSet(l.owners, nil); err != nil {
		return nil, fmt.Errorf("add set %s: %w", ownersName, err)
	}
	if err := l.addPolicies(c); err != nil {
		return nil, err
	}
	if err := l.addCounters(c); err != nil {
		return nil, err
	}
	l.addNAT(c, cfg)
	l.addFilters(c, cfg)
	l.addTrafficChains(c)
	return l, nil
}

func concat(types ...nftables.SetDatatype) nftables.SetDatatype {
	return nftables.MustConcatSetType(types...)
}

// frontendTypes are the parts of a frontend's key.
func (f *family) frontendTypes(more ...nftables.SetDatatype) nftables.SetDatatype {
	parts := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
	if !f.host {
		parts = append([]nftables.SetDatatype{nftables.TypeIPAddr}, parts...)
	}
	return concat(append(parts, more...)...)
}

func (f *family) name(base string) string {
	if f.host {
		return "host-" + base
	}
	return base
}

func (f *family) add(c *nftables.Conn, table *nftables.Table) error {
	addr, backend := nftables.TypeIPAddr, concat(nftables.TypeIPAddr, nftables.TypeInetService)
	for _, s := range []struct {
		field **nftables.Set
		set   nftables.Set
	}{
		{&f.services, nftables.Set{Name: "services", IsMap: true, KeyType: f.frontendTypes(), DataType: nftables.TypeVerdict}},
		{&f.slots, nftables.Set{Name: "slots", IsMap: true, KeyType: f.frontendTypes(nftables.TypeMark), DataType: backend}},
		{&f.refused, nftables.Set{Name: "refused", KeyType: f.frontendTypes()}},
		{&f.guarded, nftables.Set{Name: "guarded", KeyType: f.frontendTypes()}},
		{&f.admitted, nftables.Set{Name: "admitted", Interval: true, KeyType: f.frontendTypes(addr)}},
	} {
		set := s.set
		set.Name, set.Table, set.Concatenation = f.name(set.Name), table, true
		if err := c.AddSet(&set, nil); err != nil {
			return fmt.Errorf("add set %s: %w", set.Name, err)
		}
		*s.field = &set
	}
	return nil
}

func (l *layout) baseChain(c *nftables.Conn, name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) func(...[]expr.Any) {
	prio = nftables.ChainPriorityRef(*prio + nftables.ChainPriority(l.turn))
	chain := c.AddChain(&nftables.Chain{Name: name, Table: l.table, Type: typ, Hooknum: hook, Priority: prio})
	return func(parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: l.table, Chain: chain, Exprs: slices.Concat(parts...)})
	}
}

// addNAT adds the translation of destinations, for traffic that arrives and for the
// host's own, and of sources.
func (l *layout) addNAT(c *nftables.Conn, cfg Config) {
	for name, hook := range map[string]*nftables.ChainHook{
		"prerouting": nftables.ChainHookPrerouting, "output": nftables.ChainHookOutput,
	} {
		rule := l.baseChain(c, name, nftables.ChainTypeNAT, hook, nftables.ChainPriorityNATDest)
		rule(l.byAddr.load(keyReg), vmap(l.byAddr.services))
		// Cluster DNS is this host's own address too, but no node port.
		rule(addrIs(ipDest, expr.CmpOpNeq, cfg.DNS), toHost(), l.byHost.load(keyReg), vmap(l.byHost.services))
	}

	rule := l.baseChain(c, "postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	// A pod that reaches itself through a service must see the answer come back
	// through the host, or it would discard it.
	rule(ifname(expr.MetaKeyOIFNAME, expr.CmpOpEq, cfg.Bridge), load(keyReg, ipSource, 4), load(keyReg+1, ipDest, 4), inSet(l.hairpins), masquerade())
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
	// Nobody sends in another's name: the bridge holds each port to its hardware
	// address, and this holds that to its address.
	raw(ifname(expr.MetaKeyIIFNAME, expr.CmpOpEq, cfg.Bridge), loadHardwareSource(keyReg), load(keyReg+2, ipSource, 4), notInSet(l.owners), drop())
	// Not an open resolver for the neighbours of this machine.
	raw(ifname(expr.MetaKeyIIFNAME, expr.CmpOpNeq, cfg.Bridge), ifname(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), addrIs(ipDest, expr.CmpOpEq, cfg.DNS), drop())
	for _, f := range []*family{&l.byAddr, &l.byHost} {
		raw(f.match(), f.load(keyReg), inSet(f.guarded), load(keyReg+f.keyRegs(), ipSource, 4), notInSet(f.admitted), drop())
	}

	refuse := c.AddChain(&nftables.Chain{Name: "refuse", Table: l.table})
	c.AddRule(&nftables.Rule{Table: l.table, Chain: refuse, Exprs: l.countRefused(cfg)})
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
		rule(l.byAddr.load(keyReg), inSet(l.byAddr.refused), jump)
		if hook != nftables.ChainHookForward {
			rule(toHost(), l.byHost.load(keyReg), inSet(l.byHost.refused), jump)
		}
		// Policies bind pods, not the host: what it sends itself, such as probes, passes.
		switch hook {
		case nftables.ChainHookForward:
			rule(established())
			rule(l.enforce())
		case nftables.ChainHookInput:
			rule(established())
			rule(ifname(expr.MetaKeyIIFNAME, expr.CmpOpEq, cfg.Bridge), l.enforce())
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
func (l *layout) spread(c *nftables.Conn, f *family, n int) string {
	name := fmt.Sprintf("%s-%d", f.name("spread"), n)
	if l.chains[name] {
		return name
	}
	l.chains[name] = true
	chain := c.AddChain(&nftables.Chain{Name: name, Table: l.table})
	c.AddRule(&nftables.Rule{Table: l.table, Chain: chain, Exprs: append(f.load(keyReg),
		&expr.Numgen{Register: keyReg + f.keyRegs(), Modulus: uint32(n), Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: keyReg, DestRegister: keyReg, IsDestRegSet: true, SetName: f.slots.Name, SetID: f.slots.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: keyReg, RegProtoMin: keyReg + 1})})
	return name
}

// load puts a packet's frontend into consecutive registers.
func (f *family) load(reg uint32) []expr.Any {
	var out []expr.Any
	if !f.host {
		out, reg = load(reg, ipDest, 4), reg+1
	}
	return append(out,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Payload{DestRegister: reg + 1, Base: expr.PayloadBaseTransportHeader, Offset: portDest, Len: 2})
}

// keyRegs is the number of registers a frontend takes.
func (f *family) keyRegs() uint32 {
	if f.host {
		return 2
	}
	return 3
}

// match restricts a rule to packets that can be for such a frontend.
func (f *family) match() []expr.Any {
	if f.host {
		return toHost()
	}
	return nil
}

// load reads n bytes of the IPv4 header.
func load(reg uint32, offset, n uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n}}
}

// loadHardwareSource reads the source of the Ethernet header into two registers. That
// it is Ethernet is said for nft, which shows the address as a number otherwise.
func loadHardwareSource(reg uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: tmpReg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: tmpReg, Data: binaryutil.NativeEndian.PutUint16(unix.ARPHRD_ETHER)},
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
	}
}

func vmap(set *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: keyReg, DestRegister: 0, IsDestRegSet: true, SetName: set.Name, SetID: set.ID}}
}

func inSet(set *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: keyReg, SetName: set.Name, SetID: set.ID}}
}

func notInSet(set *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: keyReg, SetName: set.Name, SetID: set.ID, Invert: true}}
}

// toHost matches packets for an address of this host.
func toHost() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: tmpReg, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: tmpReg, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func ifname(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return []expr.Any{&expr.Meta{Key: key, Register: unix.NFT_REG_1}, &expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: data}}
}

func addrIs(offset uint32, op expr.CmpOp, addr netip.Addr) []expr.Any {
	return append(load(tmpReg, offset, 4), &expr.Cmp{Op: op, Register: tmpReg, Data: addr.AsSlice()})
}

func inRange(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	return append(load(tmpReg, offset, 4), masked(tmpReg, op, p)...)
}

// masked compares the address in a register, which it leaves as it is unless that is tmpReg.
func masked(reg uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	mask := make([]byte, 4)
	for i := 0; i < p.Bits(); i++ {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Bitwise{SourceRegister: reg, DestRegister: tmpReg, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: tmpReg, Data: p.Masked().Addr().AsSlice()},
	}
}

func protocolIs(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: tmpReg}, &expr.Cmp{Op: expr.CmpOpEq, Register: tmpReg, Data: []byte{proto}}}
}

func icmpType(typ byte) []expr.Any {
	return append(protocolIs(unix.IPPROTO_ICMP),
		&expr.Payload{DestRegister: tmpReg, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: tmpReg, Data: []byte{typ}})
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{FullyRandom: true}} }
func drop() []expr.Any       { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
