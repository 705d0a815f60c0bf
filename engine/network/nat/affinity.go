package nat

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A frontend whose clients keep their backend is the only kind with chains and sets of
// its own: per backend a set of its clients and a chain that enters the client there
// and translates, and before them one chain that looks for the client in every set and
// else draws a backend. One map of clients to backends would be less, but nft 1.0.6
// aborts where a packet enters in a map what it found in another; here every rule has
// a constant backend. Deleting a backend's set forgets its clients with it, in the
// transaction that takes the backend away.

const stickyPrefix = "sticky-"

// stickyName names the chain that looks for the client.
func (f Frontend) stickyName() string {
	addr := "host"
	if f.Addr.IsValid() {
		addr = f.Addr.String()
	}
	return fmt.Sprintf("%s%s-%s-%d", stickyPrefix, addr, f.Protocol, f.Port)
}

// stickyBackendName names the chain and the set of one backend.
func (f Frontend) stickyBackendName(b netip.AddrPort) string {
	return fmt.Sprintf("%s-%s-%d", f.stickyName(), b.Addr(), b.Port())
}

// clients is the set of those who keep a backend. Without a size the kernel starts it
// small and lets it hold 65,535; who comes then is not remembered.
func (l *layout) clients(f Frontend, b netip.AddrPort) *nftables.Set {
	return &nftables.Set{
		Table: l.table, Name: f.stickyBackendName(b), KeyType: nftables.TypeIPAddr, Dynamic: true, HasTimeout: true,
	}
}

// stick queues what brings the frontend's own chains and sets from one state to the
// other. What is left over is deleted last, when nothing leads to it.
func (x *tx) stick(f Frontend, have, want *installed) error {
	c, l := x.t.conn, x.t.layout
	keeps := func(s *installed, b netip.AddrPort) bool { return s.affinity > 0 && slices.Contains(s.backends, b) }
	if want.affinity > 0 {
		for _, b := range want.backends {
			known := keeps(have, b)
			if known && have.affinity == want.affinity {
				continue
			}
			if !known {
				if err := c.AddSet(l.clients(f, b), nil); err != nil {
					return fmt.Errorf("add set %s: %w", f.stickyBackendName(b), err)
				}
			}
			l.rewrite(c, f.stickyBackendName(b), known, l.rememberRules(f, b, want.affinity))
		}
		if have.affinity == 0 || !slices.Equal(have.backends, want.backends) {
			l.rewrite(c, f.stickyName(), have.affinity > 0, l.recallRules(f, want.backends))
		}
	}
	if have.affinity == 0 {
		return nil
	}
	if want.affinity == 0 {
		x.unused = append(x.unused, &nftables.Chain{Table: l.table, Name: f.stickyName()})
	}
	for _, b := range have.backends {
		if !keeps(want, b) {
			x.unused = append(x.unused, &nftables.Chain{Table: l.table, Name: f.stickyBackendName(b)})
			x.unusedSets = append(x.unusedSets, l.clients(f, b))
		}
	}
	return nil
}

// rewrite makes the chain hold exactly the rules.
func (l *layout) rewrite(c *nftables.Conn, name string, exists bool, rules [][]expr.Any) {
	chain := &nftables.Chain{Table: l.table, Name: name}
	if exists {
		c.FlushChain(chain)
	} else {
		chain = c.AddChain(chain)
	}
	for _, r := range rules {
		c.AddRule(&nftables.Rule{Table: l.table, Chain: chain, Exprs: r})
	}
}

// recallRules lead the client to the backend that has it, or to one drawn: the first of
// n with probability 1/n, else the next of the n-1 others, and so on.
func (l *layout) recallRules(f Frontend, backends []netip.AddrPort) [][]expr.Any {
	var recall, draw [][]expr.Any
	for i, b := range backends {
		lead := []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: f.stickyBackendName(b)}}
		recall = append(recall, slices.Concat(load(keyReg, ipSource, 4), inSet(l.clients(f, b)), lead))
		draw = append(draw, slices.Concat(oneIn(len(backends)-i), lead))
	}
	return append(recall, draw...)
}

// oneIn matches one packet of n, at random.
func oneIn(n int) []expr.Any {
	if n == 1 {
		return nil
	}
	return []expr.Any{
		&expr.Numgen{Register: tmpReg, Modulus: uint32(n), Type: unix.NFT_NG_RANDOM},
		&expr.Cmp{Op: expr.CmpOpEq, Register: tmpReg, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

// rememberRules start the client's time anew with every connection. When the set is
// full the first rule ends early and the second still translates.
func (l *layout) rememberRules(f Frontend, b netip.AddrPort, timeout time.Duration) [][]expr.Any {
	return [][]expr.Any{
		append(load(keyReg, ipSource, 4), &expr.Dynset{
			SrcRegKey: keyReg, SetName: l.clients(f, b).Name, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: timeout,
		}),
		// nft reads the translation of a port only after a match of the protocol.
		append(protocolIs(byte(f.Protocol)),
			&expr.Immediate{Register: keyReg, Data: b.Addr().AsSlice()},
			&expr.Immediate{Register: keyReg + 1, Data: binaryutil.BigEndian.PutUint16(b.Port())},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: keyReg, RegProtoMin: keyReg + 1}),
	}
}

// remembered reads the clients in the kernel's table, by the name of their set, so that
// they survive the replacement of the table.
func (t *Table) remembered() (map[string][]nftables.SetElement, error) {
	exists, err := t.exists()
	if err != nil || !exists {
		return nil, err
	}
	sets, err := t.conn.GetSets(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: t.cfg.Name})
	if err != nil {
		return nil, fmt.Errorf("list sets of remembered clients: %w", err)
	}
	all := map[string][]nftables.SetElement{}
	for _, s := range sets {
		if !strings.HasPrefix(s.Name, stickyPrefix) {
			continue
		}
		if all[s.Name], err = t.conn.GetSetElements(s); err != nil {
			return nil, fmt.Errorf("list remembered clients %s: %w", s.Name, err)
		}
	}
	return all, nil
}

// keep re-enters remembered clients whose backend is still one of their frontend.
func (x *tx) keep(remembered map[string][]nftables.SetElement) {
	for f, have := range x.t.installed {
		if have.affinity == 0 {
			continue
		}
		for _, b := range have.backends {
			clients := x.t.layout.clients(f, b)
			for _, el := range remembered[clients.Name] {
				if el.Expires > 0 {
					x.insert(clients, nftables.SetElement{Key: el.Key, Timeout: el.Expires})
				}
			}
		}
	}
}
