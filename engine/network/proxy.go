package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/gantryhq/gantry/engine/network/catalog"
	"github.com/gantryhq/gantry/engine/network/nat"
)

// proxy keeps the service addresses in the kernel as the owners of frontends want
// them. An owner is a service or a pod with host ports; when two want the same
// frontend the first keeps it until it lets go.
type proxy struct {
	table *nat.Table
	dns   netip.Addr

	mu      sync.Mutex // guards following; held while the kernel is changed
	started bool       // the first Replace is done
	wanted  map[string]map[nat.Frontend]nat.Target
	claims  map[nat.Frontend][]string // owners, the first has it
}

func newProxy(table *nat.Table, dns netip.Addr) *proxy {
	return &proxy{
		table: table, dns: dns,
		wanted: map[string]map[nat.Frontend]nat.Target{}, claims: map[nat.Frontend][]string{},
	}
}

// start makes the kernel hold exactly what the owners declared until now.
func (p *proxy) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[nat.Frontend]nat.Target{}
	for f, owners := range p.claims {
		all[f] = p.wanted[owners[0]][f]
	}
	if err := p.table.Replace(all); err != nil {
		return err
	}
	p.started = true
	return nil
}

// apply replaces what the owners want, in one transaction. An owner with nil wants
// nothing any more. It returns the UDP frontends whose backends changed.
func (p *proxy) apply(changes map[string]map[nat.Frontend]nat.Target) ([]staleUDP, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := map[nat.Frontend]*nat.Target{}
	for owner, want := range changes {
		have := p.wanted[owner]
		for f := range have {
			p.remember(before, f)
			if _, keep := want[f]; !keep {
				p.disclaim(f, owner)
			}
		}
		for f := range want {
			p.remember(before, f)
			p.claim(f, owner)
		}
		if len(want) == 0 {
			delete(p.wanted, owner)
		} else {
			p.wanted[owner] = want
		}
	}
	diff := map[nat.Frontend]*nat.Target{}
	var stale []staleUDP
	for f, old := range before {
		now := p.present(f)
		if equalTargets(old, now) {
			continue
		}
		diff[f] = now
		if f.Protocol == nat.UDP {
			stale = append(stale, staleUDP{f, now})
		}
	}
	if len(diff) == 0 || !p.started {
		return nil, nil
	}
	return stale, p.table.Apply(diff)
}

func (p *proxy) present(f nat.Frontend) *nat.Target {
	owners := p.claims[f]
	if len(owners) == 0 {
		return nil
	}
	t := p.wanted[owners[0]][f]
	return &t
}

func (p *proxy) remember(before map[nat.Frontend]*nat.Target, f nat.Frontend) {
	if _, ok := before[f]; !ok {
		before[f] = p.present(f)
	}
}

func (p *proxy) claim(f nat.Frontend, owner string) {
	owners := p.claims[f]
	if slices.Contains(owners, owner) {
		return
	}
	if len(owners) > 0 {
		slog.Warn("address is taken: the first owner keeps it", "address", f.String(), "owner", owners[0], "waiting", owner)
	}
	p.claims[f] = append(owners, owner)
}

func (p *proxy) disclaim(f nat.Frontend, owner string) {
	rest := slices.DeleteFunc(slices.Clone(p.claims[f]), func(o string) bool { return o == owner })
	if len(rest) == 0 {
		delete(p.claims, f)
	} else {
		p.claims[f] = rest
	}
}

func equalTargets(a, b *nat.Target) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Affinity == b.Affinity && slices.Equal(a.Backends, b.Backends) && slices.Equal(a.Sources, b.Sources)
}

// frontends translates a service into what the kernel must do.
func (p *proxy) frontends(s *catalog.Service) (map[nat.Frontend]nat.Target, error) {
	if s == nil || s.Spec.Type == corev1.ServiceTypeExternalName || s.Headless() {
		return nil, nil
	}
	out := map[nat.Frontend]nat.Target{}
	var errs []error
	for _, port := range s.Spec.Ports {
		proto, err := protocol(port.Protocol)
		if err != nil {
			errs = append(errs, fmt.Errorf("service %s port %q: %w", s.Key, port.Name, err))
			continue
		}
		target := nat.Target{Backends: backends(s, port), Affinity: affinity(s.Spec)}
		for _, ip := range serviceAddrs(s) {
			if ip != p.dns {
				out[nat.Frontend{Addr: ip, Protocol: proto, Port: uint16(port.Port)}] = target
			}
		}
		if port.NodePort != 0 {
			out[nat.Frontend{Protocol: proto, Port: uint16(port.NodePort)}] = target
		}
		if ownsLoadBalancer(s.Spec) {
			target.Sources = sourceRanges(s.Spec)
			out[nat.Frontend{Protocol: proto, Port: uint16(port.Port)}] = target
		}
	}
	return out, errors.Join(errs...)
}

// ownsLoadBalancer reports whether the host's addresses are this service's load
// balancer.
func ownsLoadBalancer(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeLoadBalancer && spec.LoadBalancerClass == nil
}

// serviceAddrs returns the IPv4 addresses that belong to the service alone.
func serviceAddrs(s *catalog.Service) []netip.Addr {
	all := append([]string{s.Spec.ClusterIP}, s.Spec.ExternalIPs...)
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && !ownsLoadBalancer(s.Spec) {
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
				all = append(all, in.IP)
			}
		}
	}
	var out []netip.Addr
	for _, a := range all {
		if ip, err := netip.ParseAddr(a); err == nil && ip.Is4() {
			out = append(out, ip)
		}
	}
	return out
}

func sourceRanges(spec *corev1.ServiceSpec) []netip.Prefix {
	var out []netip.Prefix
	for _, r := range spec.LoadBalancerSourceRanges {
		if p, err := netip.ParsePrefix(r); err == nil && p.Addr().Is4() {
			out = append(out, p.Masked())
		}
	}
	return out
}

func affinity(spec *corev1.ServiceSpec) time.Duration {
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	}
	return time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
}

// backends returns where a service port leads: the ready endpoints, or when there
// are none those that still serve while they terminate.
func backends(s *catalog.Service, port corev1.ServicePort) []netip.AddrPort {
	var ready, terminating []netip.AddrPort
	for _, e := range s.Endpoints {
		num, ok := endpointPort(e, port)
		if !ok {
			continue
		}
		switch b := netip.AddrPortFrom(e.Addr, num); {
		case e.Ready:
			ready = append(ready, b)
		case e.Serving && e.Terminating:
			terminating = append(terminating, b)
		}
	}
	if len(ready) == 0 {
		ready = terminating
	}
	slices.SortFunc(ready, netip.AddrPort.Compare)
	return slices.Compact(ready)
}

func endpointPort(e catalog.Endpoint, port corev1.ServicePort) (uint16, bool) {
	for _, p := range e.Ports {
		if p.Port == nil || deref(p.Name) != port.Name || !sameProtocol(p, port) {
			continue
		}
		return uint16(*p.Port), true
	}
	return 0, false
}

func sameProtocol(p discoveryv1.EndpointPort, port corev1.ServicePort) bool {
	a, errA := protocol(deref(p.Protocol))
	b, errB := protocol(port.Protocol)
	return errA == nil && errB == nil && a == b
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func protocol(p corev1.Protocol) (nat.Protocol, error) {
	switch p {
	case corev1.ProtocolTCP, "":
		return nat.TCP, nil
	case corev1.ProtocolUDP:
		return nat.UDP, nil
	case corev1.ProtocolSCTP:
		return nat.SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q cannot be translated: use TCP, UDP or SCTP", p)
}

// firstSync makes the kernel hold every present service, in one transaction.
func (n *Network) firstSync(c *catalog.Catalog) error {
	if _, err := n.syncServices(c); err != nil {
		return err
	}
	return n.proxy.start()
}

// followServices applies changes until ctx ends, all that are pending at once.
func (n *Network) followServices(ctx context.Context, c *catalog.Catalog) error {
	const retryAfter = time.Second
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.dirty.wake:
		}
		stale, err := n.syncServices(c)
		if err == nil {
			n.flushUDP(stale)
			continue
		}
		for ; err != nil; err = n.proxy.start() {
			slog.Error("service addresses are out of date, trying again", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(retryAfter):
			}
		}
	}
}

func (n *Network) syncServices(c *catalog.Catalog) ([]staleUDP, error) {
	changes := map[string]map[nat.Frontend]nat.Target{}
	for _, k := range n.dirty.take() {
		want, err := n.proxy.frontends(c.Get(k))
		if err != nil {
			slog.Warn("part of a service is unreachable", "err", err)
		}
		changes["service "+k.String()] = want
	}
	stale, err := n.proxy.apply(changes)
	if err != nil {
		return nil, fmt.Errorf("change service addresses: %w", err)
	}
	return stale, nil
}

// dirtySet collects keys of services that changed.
type dirtySet struct {
	wake chan struct{}
	mu   sync.Mutex
	keys map[catalog.Key]bool
}

func newDirtySet() *dirtySet {
	return &dirtySet{wake: make(chan struct{}, 1), keys: map[catalog.Key]bool{}}
}

func (d *dirtySet) add(k catalog.Key) {
	d.mu.Lock()
	d.keys[k] = true
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *dirtySet) take() []catalog.Key {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]catalog.Key, 0, len(d.keys))
	for k := range d.keys {
		out = append(out, k)
	}
	clear(d.keys)
	return out
}

// publishHostPorts opens the host ports of a pod.
func (n *Network) publishHostPorts(le lease) error {
	if len(le.HostPorts) == 0 {
		return nil
	}
	want := map[nat.Frontend]nat.Target{}
	for _, hp := range le.HostPorts {
		proto, err := protocol(hp.Protocol)
		if err != nil {
			return fmt.Errorf("host port %d: %w", hp.HostPort, err)
		}
		f := nat.Frontend{Protocol: proto, Port: hp.HostPort}
		if hp.HostIP.IsValid() && !hp.HostIP.IsUnspecified() {
			f.Addr = hp.HostIP
		}
		want[f] = nat.Target{Backends: []netip.AddrPort{netip.AddrPortFrom(le.IP, hp.ContainerPort)}}
	}
	return n.applyPod(le, want)
}

func (n *Network) withdrawHostPorts(le lease) error {
	if len(le.HostPorts) == 0 {
		return nil
	}
	return n.applyPod(le, nil)
}

func (n *Network) applyPod(le lease, want map[nat.Frontend]nat.Target) error {
	stale, err := n.proxy.apply(map[string]map[nat.Frontend]nat.Target{"pod " + le.UID: want})
	if err != nil {
		return fmt.Errorf("change host ports: %w", err)
	}
	n.flushUDP(stale)
	return nil
}
