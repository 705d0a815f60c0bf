package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/kubernetes/pkg/capabilities"

	"github.com/gantryhq/gantry/engine/store"
)

// Config says where the API lives and what it is connected to.
type Config struct {
	// Store holds the objects. The server does not close it.
	Store *store.Store
	// DataDir is the instance's data directory: certificates are kept under DataDir/pki.
	DataDir string
	// Listen is the address for clients on this machine, such as 127.0.0.1:6443.
	Listen string
	// Home is the path that browsers are led to which open the address itself; "" is none.
	Home string
	// AdvertiseAddress, when valid, is the address at which pods reach the API; the server
	// listens there too, on the port of Listen. The address may appear later than the server.
	AdvertiseAddress netip.Addr
	// AllowExternalIPs lets Services claim addresses (spec.externalIPs). Whoever may write a
	// Service could then take over traffic to any address (CVE-2020-8554), so it is refused.
	AllowExternalIPs bool
	// PodConnections bounds how many connections pods hold together, so that they cannot take
	// all descriptors of the process; 0 means a quarter of those it may have.
	PodConnections int
	// ServiceCIDR is where Services get their addresses; the first is the `kubernetes` Service's.
	ServiceCIDR netip.Prefix
	// NodePorts is the range of node ports, such as 30000-32767.
	NodePorts string
	// DialNode connects to the node agent's kubelet-style HTTP API (plain HTTP). When nil, logs,
	// exec, attach and port-forward are refused.
	DialNode func(ctx context.Context) (net.Conn, error)
	// Audit gets a line of JSON for each change, and for what opens containers or reads Secrets; nil
	// records nothing. A line is one Write.
	Audit io.Writer
	// Logger is where the server reports; nil means slog.Default().
	Logger *slog.Logger
}

// Defaults of an instance that is alone on its machine.
const (
	DefaultListen      = "127.0.0.1:6443"
	DefaultServiceCIDR = "10.96.0.0/16"
	DefaultNodePorts   = "30000-32767"
)

// complete checks the configuration and fills in defaults.
func (c *Config) complete() error {
	if c.Store == nil {
		return errors.New("configure API server: Store is missing")
	}
	if c.DataDir == "" {
		return errors.New("configure API server: DataDir is missing")
	}
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	if !c.ServiceCIDR.IsValid() {
		c.ServiceCIDR = netip.MustParsePrefix(DefaultServiceCIDR)
	}
	if c.ServiceCIDR.Addr().BitLen()-c.ServiceCIDR.Bits() < 8 {
		return fmt.Errorf("configure API server: service range %s is too small: it needs room for 256 addresses, such as a /24 or, better, a /16", c.ServiceCIDR)
	}
	c.ServiceCIDR = c.ServiceCIDR.Masked()
	// Who may run privileged pods is for PodSecurity and RBAC to say, per namespace, as in every
	// installed cluster; upstream's validation refuses them everywhere until this is called.
	capabilities.Setup(true, 0)
	if c.NodePorts == "" {
		c.NodePorts = DefaultNodePorts
	}
	if c.DialNode == nil {
		c.DialNode = func(context.Context) (net.Conn, error) {
			return nil, errors.New("this API server is not connected to a node agent")
		}
	}
	if c.PodConnections == 0 {
		var files unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
			return fmt.Errorf("configure API server: read own limits: %w", err)
		}
		c.PodConnections = int(min(files.Cur/4, 1<<16))
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

func (c *Config) nodePorts() (utilnet.PortRange, error) {
	r, err := utilnet.ParsePortRange(c.NodePorts)
	if err != nil {
		return utilnet.PortRange{}, fmt.Errorf("configure API server: node ports %q: %w", c.NodePorts, err)
	}
	return *r, nil
}

// serviceAddress is the address of the `kubernetes` Service.
func (c *Config) serviceAddress() netip.Addr { return c.ServiceCIDR.Addr().Next() }
