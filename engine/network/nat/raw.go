package nat

import (
	"fmt"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The library cannot say which direction of a connection is meant when it reads the IPv4
// address of one, and nft 1.0.6 aborts on what it can say instead where that is a part of a set's key.
// So rules that do so are encoded here, as linux/netfilter/nf_tables.h has it.

// rawRule is a rule with its expressions encoded.
type rawRule struct {
	chain string
	exprs []rawExpr
}

// rawExpr makes the attributes of an expression: NFTA_EXPR_NAME and NFTA_EXPR_DATA.
type rawExpr func() ([]byte, error)

// raw takes expressions of the library.
func raw(parts ...[]expr.Any) (out []rawExpr) {
	for _, e := range slices.Concat(parts...) {
		out = append(out, func() ([]byte, error) { return expr.Marshal(unix.NFPROTO_IPV4, e) })
	}
	return out
}

// ctSource and ctDest read the addresses of the packet by which the connection was opened, before they
// were translated.
func ctSource(reg uint32) rawExpr { return ctAddress(reg, unix.NFT_CT_SRC_IP) }
func ctDest(reg uint32) rawExpr   { return ctAddress(reg, unix.NFT_CT_DST_IP) }

func ctAddress(reg, key uint32) rawExpr {
	const original = 0 // IP_CT_DIR_ORIGINAL
	return func() ([]byte, error) {
		data, err := netlink.MarshalAttributes([]netlink.Attribute{
			{Type: unix.NFTA_CT_KEY, Data: binaryutil.BigEndian.PutUint32(key)},
			{Type: unix.NFTA_CT_DREG, Data: binaryutil.BigEndian.PutUint32(reg)},
			{Type: unix.NFTA_CT_DIRECTION, Data: []byte{original}},
		})
		if err != nil {
			return nil, err
		}
		return netlink.MarshalAttributes([]netlink.Attribute{
			{Type: unix.NFTA_EXPR_NAME, Data: []byte("ct\x00")},
			{Type: unix.NLA_F_NESTED | unix.NFTA_EXPR_DATA, Data: data},
		})
	}
}

// sendRules appends the rules to their chains in one transaction.
func sendRules(table string, rules []rawRule) error {
	const subsystem = unix.NFNL_SUBSYS_NFTABLES
	header := func(family, resource byte) []byte { return []byte{family, unix.NFNETLINK_V0, 0, resource} }
	batch := []netlink.Message{{
		Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request}, Data: header(0, subsystem),
	}}
	for _, r := range rules {
		attributes, err := r.encode(table)
		if err != nil {
			return fmt.Errorf("encode a rule of chain %s: %w", r.chain, err)
		}
		batch = append(batch, netlink.Message{
			Header: netlink.Header{
				Type:  subsystem<<8 | unix.NFT_MSG_NEWRULE,
				Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Append,
			},
			Data: append(header(unix.NFPROTO_IPV4, 0), attributes...),
		})
	}
	batch = append(batch, netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: netlink.Request}, Data: header(0, subsystem),
	})
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("connect to nftables: %w", err)
	}
	defer conn.Close()
	if _, err := conn.SendMessages(batch); err != nil {
		return fmt.Errorf("send rules of table %s: %w", table, err)
	}
	for answers := 0; answers < len(rules); {
		received, err := conn.Receive()
		if err != nil {
			return fmt.Errorf("add rules to table %s: %w", table, err)
		}
		answers += len(received)
	}
	return nil
}

func (r rawRule) encode(table string) ([]byte, error) {
	var list []netlink.Attribute
	for _, e := range r.exprs {
		data, err := e()
		if err != nil {
			return nil, err
		}
		list = append(list, netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: data})
	}
	exprs, err := netlink.MarshalAttributes(list)
	if err != nil {
		return nil, err
	}
	return netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: []byte(table + "\x00")},
		{Type: unix.NFTA_RULE_CHAIN, Data: []byte(r.chain + "\x00")},
		{Type: unix.NLA_F_NESTED | unix.NFTA_RULE_EXPRESSIONS, Data: exprs},
	})
}
