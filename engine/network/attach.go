package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/gantryhq/gantry/engine/network/rtnl"
)

// Pod is what the network must know of a pod.
type Pod struct {
	UID, Namespace, Name string
	Workload             Workload // zero for a pod that belongs to nothing
	HostPorts            []HostPort
	// Sysctls (net.* by their dotted names) are set in the pod's network namespace
	// before any process is in it.
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

// uidPattern keeps a UID usable as a file name.
var uidPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Attach gives the pod a network namespace with an address. Calling it again for the
// same UID returns the same attachment. When it fails nothing of the pod is left.
func (n *Network) Attach(ctx context.Context, pod Pod) (Attachment, error) {
	at, err := n.attach(ctx, pod)
	if err != nil {
		return Attachment{}, fmt.Errorf("attach pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return at, nil
}

func (n *Network) attach(ctx context.Context, pod Pod) (Attachment, error) {
	if err := ctx.Err(); err != nil {
		return Attachment{}, err
	}
	if !uidPattern.MatchString(pod.UID) {
		return Attachment{}, fmt.Errorf("the UID %q cannot be a file name", pod.UID)
	}
	for name := range pod.Sysctls {
		if !strings.HasPrefix((sysctl{name: name}).path(), "/proc/sys/net/") {
			return Attachment{}, fmt.Errorf("sysctl %s does not belong to the network namespace: only net.* can be set here", name)
		}
	}
	unlock := n.podLocks.lock(pod.UID)
	defer unlock()
	if le, ok := n.leases.get(pod.UID); ok {
		if le.Attached && isPinned(n.pinPath(le.Pin)) {
			return n.attachment(le), nil
		}
		if err := n.detach(le); err != nil { // remains of an attempt that was cut short
			return Attachment{}, err
		}
	}
	b, ok := n.spare.take()
	if !ok {
		var err error
		if b, err = n.makeBerth(); err != nil {
			return Attachment{}, err
		}
	}
	le := lease{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, Workload: pod.Workload, HostPorts: pod.HostPorts, berth: b}
	if err := n.occupy(ctx, le, pod.Sysctls); err != nil {
		return Attachment{}, errors.Join(err, n.detach(le))
	}
	return n.attachment(le), nil
}

func (n *Network) attachment(le lease) Attachment {
	return Attachment{NetNS: n.pinPath(le.Pin), IP: le.IP, Gateway: n.plan.Gateway()}
}

// occupy makes the berth of the lease the pod's.
func (n *Network) occupy(ctx context.Context, le lease, sysctls map[string]string) error {
	if err := n.hostPortsFree(le); err != nil {
		return err
	}
	// From here on the berth is nobody else's, also for the next process. With the
	// pod's sysctls still missing it is not the pod's either.
	le.Attached = len(sysctls) == 0
	if err := n.leases.assign(le); err != nil {
		return err
	}
	if !le.Attached {
		if err := n.set(le.berth, sysctls); err != nil {
			return err
		}
		le.Attached = true
		if err := n.leases.assign(le); err != nil {
			return err
		}
	}
	if n.enforcer != nil {
		if err := n.enforcer.protect(ctx, le.UID); err != nil {
			return err
		}
	}
	return n.publishHostPorts(le)
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
		return nil
	}
	if err := n.detach(le); err != nil {
		return fmt.Errorf("detach pod %s/%s: %w", le.Namespace, le.Name, err)
	}
	return nil
}

// detach unpins before it gives up the lease: a namespace that is pinned without a lease
// is one that no process has ever been in.
func (n *Network) detach(le lease) error {
	if err := errors.Join(n.withdrawHostPorts(le), unpin(n.pinPath(le.Pin))); err != nil {
		return err
	}
	if err := n.leases.release(le.UID); err != nil {
		return err
	}
	n.traffic.leave(le)
	n.sweeper.add(le.berth)
	if n.enforcer != nil {
		n.enforcer.changed()
	}
	return nil
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
