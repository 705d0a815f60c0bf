package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/network/rtnl"
)

// Pod is what the network must know of a pod.
type Pod struct {
	UID, Namespace, Name string
	HostPorts            []HostPort
	// Sysctls (net.* by their dotted names) are set in the pod's network namespace
	// when it is created.
	Sysctls map[string]string
}

// HostPort makes a port of a pod reachable at the host's addresses.
type HostPort struct {
	HostIP        netip.Addr      `json:"hostIP,omitzero"` // zero or unspecified: every address
	HostPort      uint16          `json:"hostPort"`
	ContainerPort uint16          `json:"containerPort"`
	Protocol      corev1.Protocol `json:"protocol,omitempty"` // "" is TCP
}

// Attachment is a pod's place in the network.
type Attachment struct {
	NetNS   string // path of the pinned network namespace
	IP      netip.Addr
	Gateway netip.Addr
}

const (
	podInterface = "eth0"
	vethPrefix   = "gv" // of the host ends
	// In a new network namespace the loopback is 1 and the first other link is 2.
	loopbackIndex, podInterfaceIndex = 1, 2
)

// uidPattern keeps a UID usable as a file name.
var uidPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Attach gives the pod a network namespace with an address. Calling it again for the
// same UID returns the same attachment. When it fails nothing of the pod is left.
func (n *Network) Attach(ctx context.Context, pod Pod) (Attachment, error) {
	if err := ctx.Err(); err != nil {
		return Attachment{}, fmt.Errorf("attach pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if !uidPattern.MatchString(pod.UID) {
		return Attachment{}, fmt.Errorf("attach pod %s/%s: the UID %q cannot be a file name", pod.Namespace, pod.Name, pod.UID)
	}
	unlock := n.podLocks.lock(pod.UID)
	defer unlock()

	le, err := n.leases.acquire(lease{
		UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name,
		Veth: n.vethName(pod.UID), HostPorts: pod.HostPorts,
	})
	if err != nil {
		return Attachment{}, fmt.Errorf("attach pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	at := Attachment{NetNS: n.pinPath(pod.UID), IP: le.IP, Gateway: n.plan.Gateway()}
	if le.Attached && isPinned(at.NetNS) {
		return at, nil
	}
	n.sweeper.cancel(le.Veth)
	if err := n.hostPortsFree(le); err != nil {
		return Attachment{}, errors.Join(fmt.Errorf("attach pod %s/%s: %w", pod.Namespace, pod.Name, err), n.detach(le))
	}
	if err := n.connect(le, at, pod.Sysctls); err != nil {
		return Attachment{}, errors.Join(fmt.Errorf("attach pod %s/%s: %w", pod.Namespace, pod.Name, err), n.detach(le))
	}
	le.Attached = true
	if err := n.leases.update(le); err != nil {
		return Attachment{}, errors.Join(err, n.detach(le))
	}
	if n.enforcer != nil {
		if err := n.enforcer.protect(ctx, le.UID); err != nil {
			return Attachment{}, errors.Join(fmt.Errorf("attach pod %s/%s: %w", pod.Namespace, pod.Name, err), n.detach(le))
		}
	}
	if err := n.publishHostPorts(le); err != nil {
		return Attachment{}, errors.Join(fmt.Errorf("attach pod %s/%s: %w", pod.Namespace, pod.Name, err), n.detach(le))
	}
	return at, nil
}

// connect creates and pins the namespace and wires it to the bridge.
func (n *Network) connect(le lease, at Attachment, sysctls map[string]string) error {
	// The kernel does most of this under one lock: more at once only queue there, each
	// holding a thread.
	n.connecting <- struct{}{}
	defer func() { <-n.connecting }()
	if err := unpin(at.NetNS); err != nil { // remains of an attempt that was cut short
		return err
	}
	if err := os.WriteFile(at.NetNS, nil, 0o444); err != nil {
		return fmt.Errorf("create network namespace pin: %w", err)
	}
	settings := podSysctls
	for name, value := range sysctls {
		if !strings.HasPrefix(name, "net.") {
			return fmt.Errorf("sysctl %s does not belong to the network namespace: only net.* can be set here", name)
		}
		settings = append(settings[:len(settings):len(settings)], sysctl{name, value})
	}
	ns, err := createNetNS(at.NetNS, settings)
	if err != nil {
		return err
	}
	defer ns.close()

	mac, gw := macOf(le.IP), at.Gateway
	if err := n.hostDo(
		rtnl.DelLink(le.Veth).Ignoring(syscall.ENODEV),
		rtnl.AddVeth(le.Veth, n.bridgeIndex, podInterface, ns.fd, mac, n.mtu),
		rtnl.SetPort(le.Veth, portSettings(filtersBridged())),
		rtnl.SetNeigh(n.bridgeIndex, le.IP, mac),
	); err != nil {
		return err
	}
	if err := ns.sock.Do(
		rtnl.SetUp(loopbackIndex),
		rtnl.SetUp(podInterfaceIndex),
		rtnl.AddAddr(podInterfaceIndex, netip.PrefixFrom(le.IP, 32), unix.RT_SCOPE_UNIVERSE),
		rtnl.AddRoute(rtnl.Route{Dst: netip.PrefixFrom(gw, 32), Index: podInterfaceIndex}),
		rtnl.AddRoute(rtnl.Route{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Index: podInterfaceIndex, Gateway: gw}),
		rtnl.SetNeigh(podInterfaceIndex, gw, macOf(gw)),
	); err != nil {
		return err
	}
	return n.waitForwarding(le.Veth)
}

// waitForwarding waits until the bridge forwards to the new port. The kernel
// enables a port a moment after its peer was raised; without waiting, a first packet
// sent at once is lost, and TCP repeats it only a second later.
func (n *Network) waitForwarding(veth string) error {
	s, err := n.socks.get()
	if err != nil {
		return err
	}
	defer n.socks.put(s)
	deadline := time.Now().Add(2 * time.Second)
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 5*time.Millisecond) {
		ok, err := s.PortForwarding(veth)
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("bridge port %s did not start to forward within 2 s", veth)
		}
		time.Sleep(wait)
	}
}

// Detach takes the pod off the network and frees its address. An unknown UID is no
// error.
func (n *Network) Detach(_ context.Context, uid string) error {
	if !uidPattern.MatchString(uid) {
		return nil
	}
	unlock := n.podLocks.lock(uid)
	defer unlock()
	le, ok := n.leases.get(uid)
	if !ok {
		return unpin(n.pinPath(uid))
	}
	return n.detach(le)
}

func (n *Network) detach(le lease) error {
	errs := []error{n.withdrawHostPorts(le), unpin(n.pinPath(le.UID))}
	// The interface pair goes with the namespace, without waiting for it here; the
	// sweeper deletes what a lingering process keeps alive.
	errs = append(errs, n.hostDo(rtnl.DelNeigh(n.bridgeIndex, le.IP).Ignoring(syscall.ENOENT, syscall.ENODEV)))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach pod %s/%s: %w", le.Namespace, le.Name, err)
	}
	n.sweeper.add(le.Veth)
	if err := n.leases.release(le.UID); err != nil {
		return err
	}
	if n.enforcer != nil {
		n.enforcer.changed()
	}
	return nil
}

func (n *Network) pinPath(uid string) string { return filepath.Join(n.netnsDir, uid) }

// vethName is unique on the machine: it is derived from instance and pod.
func (n *Network) vethName(uid string) string {
	sum := sha256.Sum256([]byte(n.plan.Bridge + "/" + uid))
	return vethPrefix + hex.EncodeToString(sum[:6])
}

// macOf derives a locally administered hardware address from an IPv4 address, so that
// a neighbour entry stays right when the address moves to another pod.
func macOf(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}

// hostDo runs a batch in the host's network namespace.
func (n *Network) hostDo(requests ...rtnl.Request) error {
	s, err := n.socks.get()
	if err != nil {
		return err
	}
	defer n.socks.put(s)
	return s.Do(requests...)
}

// socketPool keeps idle route sockets of the host's network namespace.
type socketPool struct {
	mu   sync.Mutex
	idle []*rtnl.Socket
}

func (p *socketPool) get() (*rtnl.Socket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := len(p.idle); k > 0 {
		s := p.idle[k-1]
		p.idle = p.idle[:k-1]
		return s, nil
	}
	return rtnl.Open()
}

func (p *socketPool) put(s *rtnl.Socket) {
	const keep = 8
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) >= keep {
		s.Close()
		return
	}
	p.idle = append(p.idle, s)
}

func (p *socketPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.idle {
		s.Close()
	}
	p.idle = nil
}

// keyedMutex serialises work on one key and lets different keys run in parallel.
type keyedMutex struct {
	mu    sync.Mutex
	locks map[string]*countedMutex
}

type countedMutex struct {
	sync.Mutex
	users int
}

func (k *keyedMutex) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*countedMutex{}
	}
	m := k.locks[key]
	if m == nil {
		m = &countedMutex{}
		k.locks[key] = m
	}
	m.users++
	k.mu.Unlock()
	m.Lock()
	return func() {
		m.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if m.users--; m.users == 0 {
			delete(k.locks, key)
		}
	}
}
