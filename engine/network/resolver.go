package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/network/catalog"
	"github.com/gantryhq/gantry/engine/network/dns"
	"github.com/gantryhq/gantry/engine/network/nat"
)

// Keeper is a process that outlives this one and holds open files for the next: what is
// asked of cluster DNS while nobody is there waits in its sockets, instead of being lost
// and asked again after seconds.
type Keeper interface {
	// Keep holds duplicates by name, each in place of the one of its name.
	Keep(ctx context.Context, files map[string]*os.File) error
	// Kept returns what is held of the names.
	Kept(ctx context.Context, names ...string) (map[string]*os.File, error)
}

const (
	keptUDP, keptTCP = "dns-udp", "dns-tcp"
	// keepAgain is how often the sockets are given to the keeper, which may have been
	// replaced itself; keepSoon how soon where there was none.
	keepAgain, keepSoon = 5 * time.Second, 200 * time.Millisecond
	keeperTimeout       = 2 * time.Second
)

// openDNS binds the DNS address or takes over the kept sockets. Where another resolver of
// this host has taken port 53 of every address, it binds a free port and has the packets
// translated to it.
func (n *Network) openDNS(ctx context.Context, cat *catalog.Catalog) (*dns.Server, error) {
	const port = 53
	cfg := dns.Config{
		Listen: netip.AddrPortFrom(n.plan.DNS(), port), Domain: n.cfg.ClusterDomain, Catalog: cat,
		PodCIDR: n.plan.PodCIDR, ServiceCIDR: n.plan.ServiceCIDR,
		NamespaceOf: n.leases.namespaceOf, ResolvConf: n.cfg.ResolvConf, Register: n.cfg.Register,
	}
	kept := n.keptSockets(ctx)
	defer closeFiles(kept)
	cfg.UDP, cfg.TCP = kept[keptUDP], kept[keptTCP]
	server, err := dns.New(cfg)
	if errors.Is(err, syscall.EADDRINUSE) {
		cfg.Listen = netip.AddrPortFrom(n.plan.DNS(), 0)
		server, err = dns.New(cfg)
	}
	if err != nil || server.Port() == port {
		return server, err
	}
	at := nat.Target{Backends: []netip.AddrPort{netip.AddrPortFrom(n.plan.DNS(), server.Port())}}
	_, err = n.proxy.apply(map[string]map[nat.Frontend]nat.Target{"cluster DNS": {
		{Addr: n.plan.DNS(), Protocol: nat.UDP, Port: port}: at,
		{Addr: n.plan.DNS(), Protocol: nat.TCP, Port: port}: at,
	}})
	return server, err
}

// keptSockets are the sockets of cluster DNS that the keeper has, if they are bound to its
// present address.
func (n *Network) keptSockets(ctx context.Context) map[string]*os.File {
	if n.cfg.Keeper == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, keeperTimeout)
	defer cancel()
	kept, err := n.cfg.Keeper.Kept(ctx, keptUDP, keptTCP)
	if err != nil {
		slog.Warn("names that were looked up during the restart are looked up again later", "err", err)
		return nil
	}
	udp, tcp := boundTo(kept[keptUDP]), boundTo(kept[keptTCP])
	if udp.Addr() != n.plan.DNS() || udp != tcp {
		closeFiles(kept)
		return nil
	}
	return kept
}

// boundTo is the address of a socket, zero when it has none.
func boundTo(f *os.File) (bound netip.AddrPort) {
	if f == nil {
		return bound
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return bound
	}
	_ = raw.Control(func(fd uintptr) {
		if sa, err := unix.Getsockname(int(fd)); err == nil {
			if in, ok := sa.(*unix.SockaddrInet4); ok {
				bound = netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port))
			}
		}
	})
	return bound
}

// keepDNS has the sockets kept until ctx ends. Once this process is gone they live on.
func (n *Network) keepDNS(ctx context.Context, server *dns.Server) error {
	if n.cfg.Keeper == nil {
		return nil
	}
	for {
		next := keepAgain
		if err := n.giveToKeeper(ctx, server); err != nil {
			slog.Debug("sockets of cluster DNS are not kept", "err", err)
			next = keepSoon
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

func (n *Network) giveToKeeper(ctx context.Context, server *dns.Server) error {
	udp, tcp, err := server.Sockets()
	if err != nil {
		return err
	}
	files := map[string]*os.File{keptUDP: udp, keptTCP: tcp}
	defer closeFiles(files)
	ctx, cancel := context.WithTimeout(ctx, keeperTimeout)
	defer cancel()
	if err := n.cfg.Keeper.Keep(ctx, files); err != nil {
		return fmt.Errorf("keep sockets of cluster DNS: %w", err)
	}
	return nil
}

func closeFiles(files map[string]*os.File) {
	for _, f := range files {
		f.Close()
	}
}
