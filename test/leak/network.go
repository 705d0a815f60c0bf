package leak

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// links finds the bridge, its ports and its neighbours.
func (i *inventory) links() error {
	bridge, err := netlink.LinkByName(i.name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	i.add(Thing{Kind: "bridge", Name: i.name})
	leases, err := i.readLeases()
	if err != nil {
		return err
	}
	spares := i.spares(leases)
	i.spare = slices.Collect(maps.Values(spares))
	all, err := uninterrupted(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range all {
		a := l.Attrs()
		if a.MasterIndex != bridge.Attrs().Index {
			continue
		}
		if _, spare := spares[a.Name]; spare {
			continue
		}
		owner := leases[a.Name].UID
		if owner == "" {
			owner = "nobody: no lease has it"
		}
		i.add(Thing{Kind: "bridge port", Name: a.Name + " of " + owner, Owner: owner})
	}
	neighbours, err := uninterrupted(func() ([]netlink.Neigh, error) {
		return netlink.NeighList(bridge.Attrs().Index, netlink.FAMILY_V4)
	})
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range neighbours {
		if n.State&netlink.NUD_PERMANENT == 0 {
			continue
		}
		if ip, ok := netip.AddrFromSlice(n.IP.To4()); ok && !slices.Contains(i.spare, ip) {
			i.add(Thing{Kind: "neighbour", Name: ip.String(), Address: ip})
		}
	}
	return nil
}

// uninterrupted repeats a list during which something changed.
func uninterrupted[T any](list func() ([]T, error)) (all []T, err error) {
	for range 50 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, err
}

// mostSpares is how many network namespaces an instance keeps ready at most.
const mostSpares = 64

// spares are the network namespaces made ahead, which no pod has yet: addresses by the
// host's end of the interface pair. They are pins without a lease. Pins with one are
// their pod's, and more than mostSpares are nobody's.
func (i *inventory) spares(leases map[string]lease) map[string]netip.Addr {
	out := map[string]netip.Addr{}
	for _, pin := range names(filepath.Join(i.seen, "run/netns")) {
		addr, unique, ok := strings.Cut(pin, "-v2-")
		ip, err := netip.ParseAddr(addr)
		l, leased := leases["gv"+unique]
		switch {
		case leased:
			i.add(Thing{Kind: "network namespace pin", Name: pin + " of " + l.UID, Owner: l.UID})
		case !ok || err != nil || len(out) == mostSpares:
			i.add(Thing{Kind: "network namespace pin", Name: pin, Owner: "nobody: no lease has it"})
		default:
			out["gv"+unique] = ip
		}
	}
	return out
}

var addresses = regexp.MustCompile(`\d+\.\d+\.\d+\.\d+`)

// expiring is an element that the kernel removes by itself, such as a count of who talked to whom.
var expiring = regexp.MustCompile(`[^,{}]*\bexpires\b[^,{}]*`)

// rules finds the nftables table and every address of a pod or service in it.
func (i *inventory) rules() error {
	out, err := exec.Command("nft", "list", "table", "ip", i.name).CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "No such file or directory") {
			return nil
		}
		return fmt.Errorf("nft list table: %w: %s", err, out)
	}
	i.add(Thing{Kind: "nftables table", Name: i.name})
	var plan struct{ PodCIDR, ServiceCIDR netip.Prefix }
	data, err := os.ReadFile(filepath.Join(i.dir, "network.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &plan); err != nil {
		return fmt.Errorf("read network.json: %w", err)
	}
	seen := map[netip.Addr]bool{plan.PodCIDR.Masked().Addr(): true, plan.ServiceCIDR.Masked().Addr(): true}
	seen[plan.PodCIDR.Masked().Addr().Next()] = true // the host's own
	dns := plan.ServiceCIDR.Masked().Addr()
	for range 10 {
		dns = dns.Next()
	}
	seen[dns] = true // it has no Service
	for _, ip := range i.spare {
		seen[ip] = true
	}
	for _, text := range addresses.FindAllString(expiring.ReplaceAllString(string(out), ""), -1) {
		ip, err := netip.ParseAddr(text)
		if err != nil || seen[ip] || !plan.PodCIDR.Contains(ip) && !plan.ServiceCIDR.Contains(ip) {
			continue
		}
		seen[ip] = true
		i.add(Thing{Kind: "nftables element", Name: "with " + text, Address: ip})
	}
	return nil
}
