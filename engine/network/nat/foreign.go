package nat

import (
	"fmt"

	"github.com/google/nftables"
)

// DroppingForward names the chains of other tables, as "family table chain", that drop
// every forwarded packet they do not accept. In nftables a drop anywhere is final, so
// no rule of ours can let pods' packets through.
func DroppingForward(own string) ([]string, error) {
	t := &Table{}
	if err := t.dial(); err != nil {
		return nil, err
	}
	defer t.Close()
	var out []string
	for family, name := range map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet"} {
		chains, err := t.conn.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, fmt.Errorf("list nftables chains: %w", err)
		}
		for _, c := range chains {
			if c.Table.Name != own && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward &&
				c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
				out = append(out, fmt.Sprintf("%s %s %s", name, c.Table.Name, c.Name))
			}
		}
	}
	return out, nil
}
