package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/gantryhq/gantry/engine/network/nat"
)

// errPortTaken says that a process of the host listens where a frontend should be.
// Translating its packets would take them away from it.
var errPortTaken = errors.New("a process on this machine listens there: stop it or choose another port")

// portFree returns errPortTaken when a process of the host listens at the frontend. It
// finds out by binding, which the kernel refuses exactly then.
func portFree(f nat.Frontend) error {
	addr := netip.IPv4Unspecified()
	if f.Addr.IsValid() {
		addr = f.Addr
	}
	at := net.JoinHostPort(addr.String(), strconv.Itoa(int(f.Port)))
	var lc net.ListenConfig
	var err error
	switch f.Protocol {
	case nat.TCP:
		var l net.Listener
		if l, err = lc.Listen(context.Background(), "tcp4", at); err == nil {
			return l.Close()
		}
	case nat.UDP:
		var l net.PacketConn
		if l, err = lc.ListenPacket(context.Background(), "udp4", at); err == nil {
			return l.Close()
		}
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s: %w", f, errPortTaken)
	}
	return nil // whatever else is wrong with the address is not for us to say
}

// publishHostPorts opens the host ports of a pod.
func (n *Network) publishHostPorts(le lease) error {
	want, err := hostPortFrontends(le)
	if err != nil || len(want) == 0 {
		return err
	}
	return n.applyPod(le, want)
}

// hostPortsFree returns why the host ports of a pod cannot be opened.
func (n *Network) hostPortsFree(le lease) error {
	want, err := hostPortFrontends(le)
	if err != nil {
		return err
	}
	for f := range want {
		if !n.proxy.has(podOwner(le), f) {
			if err := n.foreign(f); err != nil {
				return fmt.Errorf("publish host port: %w", err)
			}
		}
	}
	return nil
}

func hostPortFrontends(le lease) (map[nat.Frontend]nat.Target, error) {
	want := map[nat.Frontend]nat.Target{}
	for _, hp := range le.HostPorts {
		proto, err := nat.ProtocolOf(hp.Protocol)
		if err != nil {
			return nil, fmt.Errorf("host port %d: %w", hp.HostPort, err)
		}
		f := nat.Frontend{Protocol: proto, Port: hp.HostPort}
		if hp.HostIP.IsValid() && !hp.HostIP.IsUnspecified() {
			f.Addr = hp.HostIP
		}
		want[f] = nat.Target{Backends: []netip.AddrPort{netip.AddrPortFrom(le.IP, hp.ContainerPort)}}
	}
	return want, nil
}

func podOwner(le lease) string { return "pod " + le.UID }

func (n *Network) withdrawHostPorts(le lease) error {
	if len(le.HostPorts) == 0 {
		return nil
	}
	return n.applyPod(le, nil)
}

func (n *Network) applyPod(le lease, want map[nat.Frontend]nat.Target) error {
	stale, err := n.proxy.apply(map[string]map[nat.Frontend]nat.Target{podOwner(le): want})
	if err != nil {
		return fmt.Errorf("change host ports: %w", err)
	}
	n.flushUDP(stale)
	return nil
}
