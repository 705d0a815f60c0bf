package network

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/network/rtnl"
)

const ipForward = "net.ipv4.ip_forward"

// openBridge makes the bridge with its addresses and the route of the service range,
// or completes what is there. It returns index and MTU.
func (n *Network) openBridge() (index, mtu int, err error) {
	gw := n.plan.Gateway()
	mtu = hostMTU()
	link, err := netlink.LinkByName(n.plan.Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = n.plan.Bridge, mtu
		// A fixed address: the kernel's choice would change with the ports.
		attrs.HardwareAddr = macOf(gw)
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return 0, 0, fmt.Errorf("create bridge %s: %w", n.plan.Bridge, err)
		}
		link, err = netlink.LinkByName(n.plan.Bridge)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("find bridge %s: %w", n.plan.Bridge, err)
	}
	if link.Type() != "bridge" {
		return 0, 0, fmt.Errorf("interface %s is a %s, not a bridge: remove it, the name belongs to this data directory", n.plan.Bridge, link.Type())
	}
	index = link.Attrs().Index
	if err := n.setSysctls(); err != nil {
		return 0, 0, err
	}
	if alias := n.plan.alias(); alias != link.Attrs().Alias {
		if err := netlink.LinkSetAlias(link, alias); err != nil {
			return 0, 0, fmt.Errorf("describe bridge %s: %w", n.plan.Bridge, err)
		}
	}
	err = n.hostDo(
		rtnl.SetUp(index),
		rtnl.AddAddr(index, netip.PrefixFrom(gw, n.plan.PodCIDR.Bits()), unix.RT_SCOPE_UNIVERSE).Ignoring(syscall.EEXIST),
		rtnl.AddAddr(index, netip.PrefixFrom(n.plan.DNS(), 32), unix.RT_SCOPE_HOST).Ignoring(syscall.EEXIST),
		// The host's own connections to services need a route before they are
		// translated, also on a machine without a default route.
		rtnl.AddRoute(rtnl.Route{Dst: n.plan.ServiceCIDR, Index: index, Source: gw}).Ignoring(syscall.EEXIST),
	)
	if err != nil {
		return 0, 0, fmt.Errorf("configure bridge %s: %w", n.plan.Bridge, err)
	}
	return index, mtu, nil
}

// hostSysctls are not confined to our bridge: their former values are restored.
//
// Pods are neighbours on the bridge and yet routed through the host, which would
// tell them of the shorter way by ICMP redirects. The kernel sends them when "all" or
// the interface says so; other interfaces keep their own setting.
var hostSysctls = []sysctl{
	{ipForward, "1"},
	{"net.ipv4.conf.all.send_redirects", "0"},
}

// setSysctls sets what routing needs, remembering former values first.
func (n *Network) setSysctls() error {
	own := "net.ipv4.conf." + n.plan.Bridge + "."
	for _, s := range []sysctl{
		{own + "route_localnet", "1"},
		{own + "send_redirects", "0"},
		{"net.ipv6.conf." + n.plan.Bridge + ".disable_ipv6", "1"},
	} {
		if err := s.write(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	former, err := formerValues()
	if err != nil {
		return err
	}
	restore := maps.Clone(n.plan.Restore)
	for _, s := range hostSysctls {
		before, err := s.read()
		if err != nil {
			return err
		}
		if before == s.value {
			if before = former[s.name]; before == "" || restore[s.name] != "" {
				continue // nobody of us changed it, or we did in an earlier life
			}
		}
		if restore == nil {
			restore = map[string]string{}
		}
		restore[s.name] = before
	}
	if !maps.Equal(restore, n.plan.Restore) {
		n.plan.Restore = restore
		if err := savePlan(n.cfg.DataDir, n.plan); err != nil {
			return err
		}
	}
	for _, s := range hostSysctls {
		if err := s.write(); err != nil {
			return err
		}
	}
	return nil
}

// Several instances change the same host-wide sysctls, and the last to be cleaned up
// must restore what was before the first. So each bridge carries the former values as
// its alias, and a new instance takes them over.
const aliasPrefix = "gantry restores "

func (p Plan) alias() string {
	var parts []string
	for _, s := range hostSysctls {
		if before, ok := p.Restore[s.name]; ok {
			parts = append(parts, s.name+"="+before)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return aliasPrefix + strings.Join(parts, " ")
}

// formerValues reads the aliases of the other instances' bridges.
func formerValues() (map[string]string, error) {
	links, err := listLinks()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	out := map[string]string{}
	for _, l := range links {
		values, ok := strings.CutPrefix(l.Attrs().Alias, aliasPrefix)
		if !ok {
			continue
		}
		for kv := range strings.FieldsSeq(values) {
			name, value, _ := strings.Cut(kv, "=")
			out[name] = value
		}
	}
	return out, nil
}

// hostMTU is the MTU of the default route's interface, so that pods' packets need
// no fragmentation on the way out.
func hostMTU() int {
	const ethernet = 1500
	routes, err := listRoutes()
	if err != nil {
		return ethernet
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil && l.Attrs().MTU > 0 {
			return l.Attrs().MTU
		}
	}
	return ethernet
}

// defaultNodeIP is the source address of the default route, else the first global
// address of the host, else the gateway.
func defaultNodeIP(gateway netip.Addr) netip.Addr {
	if routes, err := netlink.RouteGet(net.IPv4(192, 0, 2, 1)); err == nil && len(routes) > 0 {
		if ip, ok := netip.AddrFromSlice(routes[0].Src); ok && !ip.IsLoopback() {
			return ip.Unmap()
		}
	}
	addrs, err := listAddrs()
	if err != nil {
		return gateway
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && a.Scope == unix.RT_SCOPE_UNIVERSE && ip.Unmap() != gateway {
			return ip.Unmap()
		}
	}
	return gateway
}
