package network

import (
	"context"
	"syscall"
	"time"

	"github.com/gantryhq/gantry/engine/network/rtnl"
)

// bridgeFilter is br_netfilter's switch, of the whole host. Other software sets it,
// container engines among them, and may do so at any time.
var bridgeFilter = sysctl{"net.bridge.bridge-nf-call-iptables", "1"}

// filtersBridged reports whether the host's IP filters also see bridged frames.
func filtersBridged() bool {
	value, err := bridgeFilter.read() // absent without the module
	return err == nil && value == bridgeFilter.value
}

// portSettings says how the bridge must treat pods' ports.
//
// Pods are routed, so no frame needs to go from port to port, and none may: a pod that
// makes its own frames would get past the policies. But with br_netfilter the kernel
// bridges translated frames by itself, also back to the pod that sent them; then
// they pass the filters on their way.
func portSettings(bridgedFiltered bool) rtnl.Port {
	return rtnl.Port{Hairpin: bridgedFiltered, Isolated: !bridgedFiltered}
}

// followBridgeFilter adapts the ports when br_netfilter is switched on or off, until
// ctx ends.
func (n *Network) followBridgeFilter(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for last := filtersBridged(); ; {
		if err := n.configurePorts(last); err != nil {
			return err
		}
		for now := last; now == last; now = filtersBridged() {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
		last = !last
	}
}

func (n *Network) configurePorts(bridgedFiltered bool) error {
	var requests []rtnl.Request
	set := func(b berth) {
		requests = append(requests, rtnl.SetPort(b.Veth, portSettings(bridgedFiltered)).Ignoring(syscall.ENODEV))
	}
	for _, b := range n.spare.all() {
		set(b)
	}
	for _, le := range n.leases.all() {
		set(le.berth)
	}
	for len(requests) > 0 {
		k := min(batchSize, len(requests))
		if err := n.hostDo(requests[:k]...); err != nil {
			return err
		}
		requests = requests[k:]
	}
	return nil
}
