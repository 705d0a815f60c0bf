package network

import (
	"crypto/rand"
	"encoding/hex"
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
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/network/rtnl"
)

// berth is a place for a pod: a network namespace with an address, connected to the
// bridge and pinned. A berth is made for one pod and never used for a second.
type berth struct {
	Pin  string     `json:"pin"` // file name in DIR/run/netns
	IP   netip.Addr `json:"ip"`
	Veth string     `json:"veth"` // the host's end of the interface pair
}

const (
	podInterface = "eth0"
	// VethPrefix begins the names of the host ends of pods' interfaces.
	VethPrefix = "gv"
	// In a new network namespace the loopback is 1 and the first other link is 2.
	loopbackIndex, podInterfaceIndex = 1, 2
)

// newBerth names a berth. The names are never used again, so that whoever still
// holds the path of a namespace that is gone does not reach another pod's.
func newBerth(ip netip.Addr) berth {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return berthOf(ip, hex.EncodeToString(b[:]))
}

// berthKind stands for what connect does. It must change with it, or a berth that an
// older program made ready would be given to a pod of a newer one.
const berthKind = "-v2-"

func berthOf(ip netip.Addr, unique string) berth {
	return berth{Pin: ip.String() + berthKind + unique, IP: ip, Veth: VethPrefix + unique}
}

// berthOfPin is the berth that has the pin; it is false for the name of anything else.
func berthOfPin(pin string) (berth, bool) {
	addr, unique, _ := strings.Cut(pin, berthKind)
	ip, err := netip.ParseAddr(addr)
	return berthOf(ip, unique), err == nil && ip.Is4() && len(unique) == 12
}

// makeBerth makes the next free address a berth. When it fails nothing is left.
func (n *Network) makeBerth() (berth, error) {
	ip, err := n.leases.reserve()
	if err != nil {
		n.sweeper.forget() // some may be about to become free
		if ip, err = n.leases.reserve(); err != nil {
			return berth{}, err
		}
	}
	b := newBerth(ip)
	if err := n.connect(b); err != nil {
		return berth{}, errors.Join(fmt.Errorf("connect %s: %w", b.IP, err), n.dropBerth(b))
	}
	return b, nil
}

// connect creates the namespace, wires it to the bridge and pins it, in this order: a
// pin means that nothing is missing, and what is not pinned ends with this process.
func (n *Network) connect(b berth) error {
	// The kernel does most of this under one lock: more at once only queue there, each
	// holding a thread.
	n.connecting <- struct{}{}
	defer func() { <-n.connecting }()
	ns, err := createNetNS(&n.proc, podSysctls)
	if err != nil {
		return err
	}
	defer ns.close()

	mac, gw := macOf(b.IP), n.plan.Gateway()
	if err := n.hostDo(
		rtnl.AddVeth(b.Veth, n.bridgeIndex, podInterface, ns.fd, mac, n.mtu),
		rtnl.SetPort(b.Veth, portSettings(filtersBridged())),
		rtnl.SetNoIPv6(b.Veth).Ignoring(syscall.EAFNOSUPPORT),
		rtnl.Raise(b.Veth),
		rtnl.SetNeigh(n.bridgeIndex, b.IP, mac),
	); err != nil {
		return err
	}
	if err := ns.sock.Do(
		rtnl.SetUp(loopbackIndex),
		rtnl.SetUp(podInterfaceIndex),
		rtnl.AddAddr(podInterfaceIndex, netip.PrefixFrom(b.IP, 32), unix.RT_SCOPE_UNIVERSE),
		rtnl.AddRoute(rtnl.Route{Dst: netip.PrefixFrom(gw, 32), Index: podInterfaceIndex}),
		rtnl.AddRoute(rtnl.Route{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Index: podInterfaceIndex, Gateway: gw}),
		rtnl.SetNeigh(podInterfaceIndex, gw, macOf(gw)),
	); err != nil {
		return err
	}
	index, err := n.waitForwarding(b.Veth)
	if err != nil {
		return err
	}
	if err := n.hostDo(rtnl.SetForwarding(index, mac), rtnl.LockPort(b.Veth)); err != nil {
		return err
	}
	if err := n.table.Own(map[netip.Addr]net.HardwareAddr{b.IP: mac}); err != nil {
		return err
	}
	return ns.pin(n.pinPath(b.Pin))
}

// adoptBerths makes spares of the berths that an earlier process had ready, and removes
// what is incomplete or of another kind.
func (n *Network) adoptBerths() error {
	entries, err := os.ReadDir(n.netnsDir)
	if err != nil {
		return fmt.Errorf("list network namespaces: %w", err)
	}
	leased := map[string]bool{}
	for _, le := range n.leases.all() {
		leased[le.Pin] = true
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return leased[e.Name()] })
	if len(entries) == 0 {
		return nil
	}
	connected, err := n.connectedPorts()
	if err != nil {
		return err
	}
	for _, e := range entries {
		b, ok := berthOfPin(e.Name())
		if ok && connected[b.Veth] && isPinned(n.pinPath(b.Pin)) && n.leases.take(b.IP) {
			if n.spare.put(b) {
				continue
			}
			n.leases.free(b.IP)
		}
		if err := unpin(n.pinPath(e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// connectedPorts are the bridge's ports that work as connect leaves them.
func (n *Network) connectedPorts() (map[string]bool, error) {
	links, err := listLinks()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	out := map[string]bool{}
	for _, l := range links {
		a := l.Attrs()
		out[a.Name] = a.MasterIndex == n.bridgeIndex && a.MTU == n.mtu && a.OperState == netlink.OperUp
	}
	return out, nil
}

// forgetStrangers removes neighbour entries whose address no berth has.
func (n *Network) forgetStrangers() error {
	entries, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(n.bridgeIndex, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, e := range entries {
		ip, ok := netip.AddrFromSlice(e.IP)
		if !ok || e.State != netlink.NUD_PERMANENT || n.leases.taken(ip.Unmap()) {
			continue
		}
		if err := n.hostDo(rtnl.DelNeigh(n.bridgeIndex, ip.Unmap()).Ignoring(syscall.ENOENT)); err != nil {
			return err
		}
	}
	return nil
}

// dropBerth takes a berth away. The interface pair goes with the namespace, without
// waiting for it here, and the address is free once the sweeper has been there.
func (n *Network) dropBerth(b berth) error {
	if err := unpin(n.pinPath(b.Pin)); err != nil {
		return err
	}
	n.sweeper.add(b)
	return nil
}

// waitForwarding waits until the bridge forwards to the new port. The kernel
// enables a port a moment after its peer was raised; without waiting, a first packet
// sent at once is lost, and TCP repeats it only a second later. It returns the port's index.
func (n *Network) waitForwarding(veth string) (index int, err error) {
	s, err := n.socks.get()
	if err != nil {
		return 0, err
	}
	defer n.socks.put(s)
	deadline := time.Now().Add(2 * time.Second)
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 5*time.Millisecond) {
		index, ok, err := s.PortForwarding(veth)
		if err != nil {
			return 0, err
		}
		if ok {
			// The bridge itself drops what the host sends until the kernel has noticed
			// that its first port works, and asking makes it notice.
			_, _, err := s.PortForwarding(n.plan.Bridge)
			return index, err
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("bridge port %s did not start to forward within 2 s", veth)
		}
		time.Sleep(wait)
	}
}

// set writes a pod's own sysctls into its namespace. The interface is there already, so
// that settings of it can be among them.
func (n *Network) set(b berth, sysctls map[string]string) error {
	path := n.pinPath(b.Pin)
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- fmt.Errorf("open network namespace: %w", err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		var errs []error
		for name, value := range sysctls {
			err := sysctl{name, value}.write()
			if errors.Is(err, syscall.ENOENT) {
				err = fmt.Errorf("this kernel has no sysctl %s: remove it from the pod's security context, or load the kernel module that brings it", name)
			}
			errs = append(errs, err)
		}
		result <- errors.Join(errs...)
	}()
	return <-result
}

func (n *Network) pinPath(pin string) string { return filepath.Join(n.netnsDir, pin) }

// macOf derives a locally administered hardware address from an IPv4 address, so that
// a neighbour entry stays right when the address moves to another pod.
func macOf(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}
