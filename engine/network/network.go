package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/engine/network/catalog"
	"github.com/gantryhq/gantry/engine/network/nat"
)

// Config says what to open.
type Config struct {
	// Client reads Services and EndpointSlices and writes the status of Services of
	// type LoadBalancer. Run needs it; Open does not.
	Client  *rest.Config
	DataDir string

	// The ranges; zero means the ones of this data directory's plan, see [MakePlan].
	PodCIDR, ServiceCIDR netip.Prefix

	ClusterDomain string     // "" is cluster.local
	NodeIP        netip.Addr // zero is the source address of the default route
	ResolvConf    string     // upstream resolvers; "" is /etc/resolv.conf

	// Keeper holds the sockets of cluster DNS while this process is replaced; or nil.
	Keeper Keeper

	// Register takes the metrics of cluster DNS, or is nil.
	Register func(...prometheus.Collector)
}

// Network is the pods' network of one instance.
type Network struct {
	cfg         Config
	plan        Plan
	nodeIP      netip.Addr
	bridgeIndex int
	mtu         int
	netnsDir    string

	leases     *leases
	spare      *spares
	table      *nat.Table
	proxy      *proxy
	dirty      *dirtySet // services whose kernel state may be behind
	balancers  *dirtySet // services whose load balancer status may be behind
	socks      socketPool
	podLocks   keyedMutex
	looks      looks // at the host's connections to pods
	traffic    edges
	services   atomic.Pointer[catalog.Catalog] // nil until Run
	proc       ownProc                         // for sysctls of pods
	connecting chan struct{}                   // bounds attachments at work
	sweeper    *sweeper
	client     kubernetes.Interface // or nil
	enforcer   *enforcer            // or nil when there is no client
	ready      chan struct{}
}

// Open brings up bridge, addresses, sysctls and the nftables table, or takes over what
// an earlier process of this data directory left, without interrupting traffic.
func Open(cfg Config) (*Network, error) {
	dataDir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("resolve data directory: %w", err)
	}
	cfg.DataDir = dataDir
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	plan, err := MakePlan(dataDir, cfg.PodCIDR, cfg.ServiceCIDR)
	if err != nil {
		return nil, err
	}
	n := &Network{cfg: cfg, plan: plan, dirty: newDirtySet(), balancers: newDirtySet(), ready: make(chan struct{}),
		connecting: make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	if cfg.Client != nil {
		if n.client, err = kubernetes.NewForConfig(cfg.Client); err != nil {
			return nil, fmt.Errorf("make network client: %w", err)
		}
	}
	if err := n.open(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Network) open() error {
	var err error
	n.netnsDir = netnsDir(n.cfg.DataDir)
	if err := errors.Join(openVolatile(n.netnsDir, 0o711), openVolatile(leaseDir(n.cfg.DataDir), 0o700)); err != nil {
		return fmt.Errorf("open network state: %w", err)
	}
	if n.bridgeIndex, n.mtu, err = n.openBridge(); err != nil {
		return err
	}
	if n.nodeIP = n.cfg.NodeIP; !n.nodeIP.IsValid() {
		n.nodeIP = defaultNodeIP(n.plan.Gateway())
	}
	if err := n.openBerths(); err != nil {
		return err
	}
	n.table, err = nat.Open(nat.Config{
		Name: n.plan.Table, Bridge: n.plan.Bridge,
		PodCIDR: n.plan.PodCIDR, ServiceCIDR: n.plan.ServiceCIDR, DNS: n.plan.DNS(),
	})
	if err != nil {
		return err
	}
	if err := n.table.Own(n.owners()); err != nil {
		return err
	}
	n.proxy = newProxy(n.table)
	if n.client != nil {
		n.enforcer = newEnforcer(n.client, n.leases, n.table, n.plan.DNS())
	}
	for _, le := range n.leases.all() {
		if err := n.publishHostPorts(le); err != nil {
			return err
		}
	}
	return nil
}

// openBerths takes over the pods' berths and the spare ones.
func (n *Network) openBerths() error {
	alive := func(le lease) bool { return le.Attached && isPinned(n.pinPath(le.Pin)) }
	drop := func(le lease) error { return unpin(n.pinPath(le.Pin)) }
	var err error
	if n.leases, err = openLeases(leaseDir(n.cfg.DataDir), n.plan.PodCIDR, alive, drop); err != nil {
		return err
	}
	n.sweeper = newSweeper(n.hostDo, n.freeAddrs, n.bridgeIndex)
	n.spare = newSpares(n.leases.size, n.makeBerth, n.dropBerth)
	if err := n.adoptBerths(); err != nil {
		return err
	}
	return n.forgetStrangers()
}

// owners are the addresses of all berths with their hardware addresses.
func (n *Network) owners() map[netip.Addr]net.HardwareAddr {
	out := map[netip.Addr]net.HardwareAddr{}
	for _, b := range n.spare.all() {
		out[b.IP] = macOf(b.IP)
	}
	for _, le := range n.leases.all() {
		out[le.IP] = macOf(le.IP)
	}
	return out
}

// freeAddrs lets addresses be used again.
func (n *Network) freeAddrs(ips []netip.Addr) {
	if err := n.table.Disown(ips...); err != nil {
		slog.Warn("addresses of former pods are still admitted", "err", err)
	}
	for _, ip := range ips {
		n.leases.free(ip)
	}
}

// Close releases this process's handles. Everything in the kernel stays; see
// [Cleanup].
func (n *Network) Close() error {
	defer n.socks.close()
	if n.table == nil {
		return nil
	}
	n.sweeper.forget()
	return n.table.Close()
}

// Run makes service addresses and cluster DNS follow the API until ctx ends.
func (n *Network) Run(ctx context.Context) error {
	if n.client == nil {
		return errors.New("run network: no client is configured")
	}
	cat := catalog.New(n.client, n.dirty.add)
	n.services.Store(cat)
	server, err := n.openDNS(ctx, cat)
	if err != nil {
		return fmt.Errorf("start cluster DNS: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return cat.Run(ctx) })
	g.Go(func() error { return n.enforcer.run(ctx) })
	g.Go(func() error { return n.keepDNS(ctx, server) })
	g.Go(func() error {
		// Earlier it would say that services do not exist which are only not known yet.
		select {
		case <-ctx.Done():
			return nil
		case <-cat.Synced():
			return server.Run(ctx)
		}
	})
	g.Go(func() error { return n.sweeper.run(ctx) })
	g.Go(func() error { return n.followBridgeFilter(ctx) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-cat.Synced():
		}
		// The first transaction replaces the table: it must bring the policies along.
		select {
		case <-ctx.Done():
			return nil
		case <-n.enforcer.synced:
		}
		if err := n.firstSync(cat); err != nil {
			return err
		}
		close(n.ready)
		return n.followServices(ctx, cat)
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-n.ready:
			return n.spare.run(ctx)
		}
	})
	g.Go(func() error { return n.publishLoadBalancers(ctx, cat) })
	return g.Wait()
}

// Ready is closed when services and DNS have everything that existed when Run
// started.
func (n *Network) Ready() <-chan struct{} { return n.ready }

// DNS is the address of cluster DNS, for pods' resolv.conf.
func (n *Network) DNS() netip.Addr { return n.plan.DNS() }

// NodeIP is the host's address towards the world.
func (n *Network) NodeIP() netip.Addr { return n.nodeIP }

// GatewayIP is the host's address in the pods' network: what the host serves there is
// reachable from every pod and not from outside.
func (n *Network) GatewayIP() netip.Addr { return n.plan.Gateway() }

// PodCIDR is the range of pod addresses.
func (n *Network) PodCIDR() netip.Prefix { return n.plan.PodCIDR }

// ServiceCIDR is the range of service addresses.
func (n *Network) ServiceCIDR() netip.Prefix { return n.plan.ServiceCIDR }

// ClusterDomain is the DNS zone of this instance.
func (n *Network) ClusterDomain() string { return n.cfg.ClusterDomain }

// PodIP returns the address of an attached pod.
func (n *Network) PodIP(uid string) (netip.Addr, bool) {
	le, ok := n.leases.get(uid)
	return le.IP, ok
}
