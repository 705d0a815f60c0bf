package gateway

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/logfile"
	"github.com/gantryhq/gantry/services/gateway/proxy"
	"github.com/gantryhq/gantry/services/gateway/translate"
)

// Config is what a gateway is started with.
type Config struct {
	// Client reaches the Kubernetes API. Required.
	Client *rest.Config
	// Listen and TLSListen are what the process binds for listener ports 80 and
	// 443; defaults ":80" and ":443". Listeners with other ports bind those
	// ports, at the host of Listen.
	Listen, TLSListen string
	// Admin is where metrics and health are served: a host and port, or the
	// path of a unix socket; "" for nowhere.
	Admin string
	// AccessLog is the file that gets one JSON line for each request, "-" for
	// standard output, "" for none.
	AccessLog string
	// AccessLogRotation says when that file is rotated.
	AccessLogRotation logfile.Options
	// State is the directory for what must outlive the process: quotas, and the audit
	// log. "" keeps no quotas, and writes the audit log to standard output.
	State string
	// Addresses are shown in statuses for sockets bound to all addresses;
	// empty for the address of the machine's default route.
	Addresses []netip.Addr
	// AddressPool is where Gateways that ask for no address get one of their own
	// from, which must be the machine's; without it they share its addresses.
	AddressPool netip.Prefix
	// TrustedProxies are the peers whose X-Forwarded-* headers are believed.
	TrustedProxies []netip.Prefix
	// ProxyProtocol are the peers whose connections begin with the address of the
	// client that they stand for (PROXY protocol, version 1 or 2).
	ProxyProtocol []netip.Prefix
	// TakeOver takes the listening sockets of the gateway at Admin over or, if it
	// hands over none, binds the ports that it holds beside it.
	TakeOver bool
	// DrainTimeout is how long requests in flight may take once the gateway was
	// told to end; 0 is 30 s.
	DrainTimeout time.Duration
	// Hurry, when it is closed, shortens the end: connections that are not in use are
	// closed although a successor has taken over. Nil for never.
	Hurry <-chan struct{}
	Log   *slog.Logger // or nil for slog.Default()
}

// complete fills in defaults and checks the rest.
func (c *Config) complete() error {
	if c.Client == nil {
		return fmt.Errorf("start gateway: Config.Client is required")
	}
	c.Listen = cmp.Or(c.Listen, ":80")
	c.TLSListen = cmp.Or(c.TLSListen, ":443")
	c.DrainTimeout = cmp.Or(c.DrainTimeout, 30*time.Second)
	c.Log = cmp.Or(c.Log, slog.Default())
	for _, address := range []string{c.Listen, c.TLSListen} {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("listen address %q: %w", address, err)
		}
	}
	if len(c.Addresses) == 0 {
		c.Addresses = []netip.Addr{machineAddress()}
	}
	return nil
}

// proxyConfig is the data plane's part of the configuration.
func (c *Config) proxyConfig(accessLog io.Writer) proxy.Config {
	host, _, _ := net.SplitHostPort(c.Listen) // checked by complete
	return proxy.Config{
		Listen:         map[uint16]string{translate.HTTPPort: c.Listen, translate.HTTPSPort: c.TLSListen},
		BindHost:       host,
		TakeOver:       c.TakeOver,
		IdleTimeout:    idleTimeout,
		TrustedProxies: c.TrustedProxies,
		ProxyProtocol:  c.ProxyProtocol,
		AccessLog:      accessLog,
		Log:            c.Log,
	}
}

// openLog returns nil without a name.
func openLog(name string, options logfile.Options) (io.WriteCloser, error) {
	switch name {
	case "":
		return nil, nil
	case "-":
		return stdout{}, nil
	}
	return logfile.Open(name, options)
}

// stdout is standard output, which stays open for others.
type stdout struct{}

func (stdout) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdout) Close() error                { return nil }

// machineAddress is the source address of the default route, or loopback on a
// machine without one. Connecting a UDP socket sends nothing.
func machineAddress() netip.Addr {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	conn, err := net.Dial("udp", "192.0.2.1:9") // TEST-NET-1, RFC 5737
	if err != nil {
		return loopback
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}
