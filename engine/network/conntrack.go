package network

import (
	"log/slog"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/network/nat"
)

// staleUDP is a UDP frontend whose target changed. Its clients keep sending from the
// same port, so the kernel would take their packets for the old flow and go on
// translating them to where they went before, or not at all.
type staleUDP struct {
	frontend nat.Frontend
	target   *nat.Target // nil when the frontend is gone
}

// MatchConntrackFlow selects the flows to forget: those to the frontend that were not
// translated to one of its present backends.
func (s staleUDP) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP || flow.Forward.DstPort != s.frontend.Port {
		return false
	}
	to, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	if !ok || s.frontend.Addr.IsValid() && to.Unmap() != s.frontend.Addr {
		return false
	}
	from, ok := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok {
		return false
	}
	backend := netip.AddrPortFrom(from.Unmap(), flow.Reverse.SrcPort)
	if s.target == nil || len(s.target.Backends) == 0 {
		// Somebody else's flow to the same port was never translated.
		return backend.Addr() != to.Unmap()
	}
	return !slices.Contains(s.target.Backends, backend)
}

// flushUDP makes the kernel forget the flows of the frontends that had another
// target. A frontend of every address must not match what passes through to
// other machines, so it is restricted to translated flows and to the host's own
// addresses.
func (n *Network) flushUDP(stale []staleUDP) {
	if len(stale) == 0 {
		return
	}
	local := hostAddrs()
	filters := make([]netlink.CustomConntrackFilter, len(stale))
	for i, s := range stale {
		filters[i] = localFlows{s, local}
	}
	_, err := dump(func() ([]struct{}, error) {
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filters...)
		return nil, err
	})
	if err != nil {
		slog.Warn("UDP flows to former endpoints could not be ended: they end by themselves when idle", "err", err)
	}
}

type localFlows struct {
	staleUDP
	local map[netip.Addr]bool
}

func (l localFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	to, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	if !ok || !l.frontend.Addr.IsValid() && !l.local[to.Unmap()] && !to.Unmap().IsLoopback() {
		return false
	}
	return l.staleUDP.MatchConntrackFlow(flow)
}

// hostAddrs returns the IPv4 addresses of this host.
func hostAddrs() map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	addrs, err := listAddrs()
	if err != nil {
		slog.Warn("host addresses are unknown", "err", err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			out[ip.Unmap()] = true
		}
	}
	return out
}
