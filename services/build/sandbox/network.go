package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/util/network"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ranges are where steps get their addresses: networks for documentation
// (RFC 5737) and for benchmarks (RFC 2544), to which nobody wants to talk. They
// never leave the machine. The first is taken that the machine has no route to.
var ranges = []netip.Prefix{
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.18.77.0/24"),
}

// The ends of every pair have the same addresses: each pair is a network of its own.
var (
	hostMAC = net.HardwareAddr{0x02, 0x67, 0x62, 0, 0, 1}
	stepMAC = net.HardwareAddr{0x02, 0x67, 0x62, 0, 0, 2}
	// gateway is where a step sends everything; nobody has the address.
	gateway = netip.MustParseAddr("169.254.1.1")
)

// provider makes networks that lead to the outside and nowhere else.
type provider struct {
	cfg      Config
	host     netns.NsHandle
	network  netip.Prefix // where steps get their addresses
	next     atomic.Uint32
	mu       sync.Mutex
	uplinks  []string // guarded by mu; what the firewall lets through
	restored []sysctl // guarded by mu; former values, to restore
}

func newProvider(cfg Config) (*provider, error) {
	host, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open the host's network namespace: %w", err)
	}
	p := &provider{cfg: cfg, host: host}
	if p.network, err = freeRange(); err != nil {
		return nil, errors.Join(err, host.Close())
	}
	return p, nil
}

// close leaves the table and interfaces to Remove.
func (p *provider) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	// When somebody has turned on routing for the whole machine, it is theirs now.
	if value, err := forwarding("all").read(); err == nil && value == "0" {
		for _, s := range p.restored {
			_ = s.write() // the interface may be gone
		}
	}
	_ = p.host.Close()
}

// Close implements network.Provider; the Sandbox closes it.
func (p *provider) Close() error { return nil }

// freeRange is the first range that the machine has no route to.
func freeRange() (netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list routes: %w", err)
	}
	for _, candidate := range ranges {
		taken := slices.ContainsFunc(routes, func(r netlink.Route) bool {
			dst, ok := prefixOf(r.Dst)
			// Single addresses in it are those of other instances' steps.
			return ok && dst.Bits() > 0 && dst.Bits() < 32 && dst.Overlaps(candidate)
		})
		if !taken {
			return candidate, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("this machine has routes to all of %v, from which build steps get their addresses", ranges)
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), bits), ok
}

// defaultUplinks are the interfaces of default routes.
func defaultUplinks() ([]string, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var names []string
	for _, r := range routes {
		if dst, ok := prefixOf(r.Dst); ok && dst.Bits() > 0 {
			continue
		}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil && !slices.Contains(names, l.Attrs().Name) {
			names = append(names, l.Attrs().Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// prepareUplinks brings the firewall and routing up to date with the machine's routes.
func (p *provider) prepareUplinks() error {
	uplinks, err := p.Uplinks()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.uplinks != nil && slices.Equal(uplinks, p.uplinks) {
		return nil
	}
	if err := writeTable(p.cfg.Name, p.network, uplinks); err != nil {
		return err
	}
	for _, name := range uplinks {
		s := forwarding(name)
		switch before, err := s.read(); {
		case errors.Is(err, fs.ErrNotExist): // the interface has just gone
		case err != nil:
			return err
		case before != s.value:
			p.restored = append(p.restored, sysctl{s.name, before})
			if err := s.write(); err != nil {
				return err
			}
		}
	}
	p.uplinks = append([]string{}, uplinks...) // not nil: it is written
	return nil
}

// Uplinks are the interfaces that lead to the outside.
func (p *provider) Uplinks() ([]string, error) {
	if p.cfg.Uplinks != nil {
		return p.cfg.Uplinks, nil
	}
	return defaultUplinks()
}

// New implements network.Provider: it makes a network for one step.
func (p *provider) New(context.Context, string, network.NamespaceOptions) (network.Namespace, error) {
	if err := p.prepareUplinks(); err != nil {
		return nil, fmt.Errorf("prepare the network of a build step: %w", err)
	}
	ns, err := p.connect()
	if err != nil {
		return nil, fmt.Errorf("make the network of a build step: %w", err)
	}
	return ns, nil
}

// stepSysctls spare a step what it has no use for, and let it bind low ports and
// ping without capabilities, which it has none of over its network.
var stepSysctls = []sysctl{
	{"net/ipv6/conf/all/disable_ipv6", "1"},
	{"net/ipv6/conf/default/disable_ipv6", "1"},
	{"net/ipv4/ip_unprivileged_port_start", "0"},
	{"net/ipv4/ping_group_range", "0 2147483647"},
}

// stepNetwork is the network of one step.
type stepNetwork struct {
	ns   netns.NsHandle
	link string // the host's end
}

func (p *provider) connect() (_ *stepNetwork, err error) {
	n := &stepNetwork{link: fmt.Sprintf("%s%04x", linkPrefix(p.cfg.Name), p.next.Add(1)&0xffff)}
	mtu := p.mtu()
	if n.ns, err = p.newNamespace(n.link, mtu); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	addr, err := p.connectHost(n.link)
	if err != nil {
		return nil, err
	}
	return n, connectStep(n.ns, addr)
}

// mtu is the smallest of the uplinks'.
func (p *provider) mtu() int {
	mtu := 1500
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range p.uplinks {
		if l, err := netlink.LinkByName(name); err == nil && l.Attrs().MTU > 0 {
			mtu = min(mtu, l.Attrs().MTU)
		}
	}
	return mtu
}

// newNamespace makes a network namespace with one end of a pair in it. It belongs
// to the host's user namespace: a step has no rights over its own network.
func (p *provider) newNamespace(hostName string, mtu int) (netns.NsHandle, error) {
	type made struct {
		ns  netns.NsHandle
		err error
	}
	done := make(chan made, 1)
	go func() {
		runtime.LockOSThread() // and left locked: the thread ends, inside
		ns, err := func() (netns.NsHandle, error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return -1, err
			}
			for _, s := range stepSysctls {
				if err := s.write(); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return -1, err
				}
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MTU, attrs.HardwareAddr = "eth0", mtu, stepMAC
			pair := &netlink.Veth{
				LinkAttrs: attrs, PeerName: hostName, PeerHardwareAddr: hostMAC, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(int(p.host)),
			}
			if err := netlink.LinkAdd(pair); err != nil {
				return -1, fmt.Errorf("make interfaces: %w", err)
			}
			return netns.Get()
		}()
		done <- made{ns, err}
	}()
	m := <-done
	return m.ns, m.err
}

// connectHost sets up the host's end and finds an address for the step: the first
// for which the kernel takes a route, so that instances never share one.
func (p *provider) connectHost(name string) (netip.Addr, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, s := range []sysctl{{"net/ipv6/conf/" + name + "/disable_ipv6", "1"}, {"net/ipv4/conf/" + name + "/rp_filter", "1"}, forwarding(name)} {
		if err := s.write(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return netip.Addr{}, err
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return netip.Addr{}, err
	}
	var start [1]byte
	_, _ = rand.Read(start[:]) // never fails
	for i := range 254 {
		b := p.network.Addr().As4()
		b[3] = byte(1 + (int(start[0])+i)%254)
		addr := netip.AddrFrom4(b)
		err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(addr), Scope: netlink.SCOPE_LINK})
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			return netip.Addr{}, fmt.Errorf("route to %s: %w", addr, err)
		}
		return addr, netlink.NeighSet(neighbour(link, addr, stepMAC))
	}
	return netip.Addr{}, fmt.Errorf("all addresses of %s are taken by other build steps", p.network)
}

// connectStep sets up the step's end.
func connectStep(ns netns.NsHandle, addr netip.Addr) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	eth, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	index := eth.Attrs().Index
	return errors.Join(
		h.LinkSetUp(lo), h.LinkSetUp(eth),
		h.AddrAdd(eth, &netlink.Addr{IPNet: single(addr)}),
		h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: single(gateway), Scope: netlink.SCOPE_LINK}),
		h.RouteAdd(&netlink.Route{LinkIndex: index, Gw: gateway.AsSlice()}),
		h.NeighSet(neighbour(eth, gateway, hostMAC)),
	)
}

func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}
}

func neighbour(l netlink.Link, ip netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: l.Attrs().Index, IP: ip.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT, Family: netlink.FAMILY_V4}
}

// Set implements network.Namespace.
func (n *stepNetwork) Set(s *specs.Spec) error {
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(n.ns))
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
			s.Linux.Namespaces[i].Path = path
			return nil
		}
	}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path})
	return nil
}

// Close implements network.Namespace. Doing it again is no error.
func (n *stepNetwork) Close() error {
	var err error
	if link, findErr := netlink.LinkByName(n.link); findErr == nil {
		err = netlink.LinkDel(link) // its other end goes with it
	}
	if n.ns.IsOpen() {
		err = errors.Join(err, n.ns.Close())
	}
	return err
}

// Sample implements network.Namespace: nobody reads it.
func (n *stepNetwork) Sample() (*resourcestypes.NetworkSample, error) { return nil, nil }

// linkPrefix begins the names of all interfaces of an instance.
func linkPrefix(name string) string { return "gb" + hash(name) }

// removeInterfaces removes the interfaces whose steps were killed.
func removeInterfaces(name string) error {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if !strings.HasPrefix(l.Attrs().Name, linkPrefix(name)) {
			continue
		}
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove interface %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// confined takes away from a step in a user namespace what such a one cannot have:
// the kernel shows /sys only to who has rights over the network.
type confined struct {
	network.Provider
	ids *idMap
}

func (c confined) New(ctx context.Context, hostname string, opt network.NamespaceOptions) (network.Namespace, error) {
	ns, err := c.Provider.New(ctx, hostname, opt)
	if err != nil || c.ids == nil {
		return ns, err
	}
	return withoutSys{ns}, nil
}

type withoutSys struct{ network.Namespace }

func (n withoutSys) Set(s *specs.Spec) error {
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
		return m.Destination == "/sys" || strings.HasPrefix(m.Destination, "/sys/")
	})
	return n.Namespace.Set(s)
}

// sysctl is a kernel setting by its path below /proc/sys.
type sysctl struct{ name, value string }

func forwarding(link string) sysctl { return sysctl{"net/ipv4/conf/" + link + "/forwarding", "1"} }

func (s sysctl) path() string { return filepath.Join("/proc/sys", s.name) }

func (s sysctl) read() (string, error) {
	b, err := os.ReadFile(s.path())
	return strings.TrimSpace(string(b)), err
}

// write sets it in the calling thread's network namespace.
func (s sysctl) write() error {
	// Not os.WriteFile: it truncates, which the kernel refuses for some settings.
	f, err := os.OpenFile(s.path(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(s.value)
	return errors.Join(err, f.Close())
}
