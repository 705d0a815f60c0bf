package sandbox

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// Transport reaches what steps reach, for what the worker fetches on a
// Dockerfile's behalf (ADD https://...). Each address is judged when it is
// connected to, so neither redirects nor names that change lead elsewhere. A proxy
// in the worker's environment is reached wherever it is.
func (s *Sandbox) Transport() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	proxies := proxyHosts()
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := net.Dialer{Timeout: 30 * time.Second}
		if !slices.Contains(proxies, addr) {
			d.Control = func(_, addr string, _ syscall.RawConn) error { return s.net.judge(addr) }
		}
		return d.DialContext(ctx, network, addr)
	}
	return t
}

// judge says why a build may not connect to an address, or nil.
func (p *provider) judge(addr string) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	ip := ap.Addr().Unmap()
	refused := fmt.Errorf("builds may not reach %s: it is on this machine or among its pods", ip)
	if !ip.IsGlobalUnicast() || slices.ContainsFunc(forbidden, func(f netip.Prefix) bool { return f.Contains(ip) }) {
		return refused
	}
	routes, err := netlink.RouteGet(ip.AsSlice())
	if err != nil {
		return fmt.Errorf("route to %s: %w", ip, err)
	}
	uplinks, err := p.Uplinks()
	if err != nil {
		return err
	}
	for _, r := range routes { // one's own addresses are routed to the loopback interface
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil || !slices.Contains(uplinks, l.Attrs().Name) {
			return refused
		}
	}
	return nil
}

// proxyHosts are the host:port of the proxies that the environment names.
func proxyHosts() []string {
	var hosts []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY"} {
		for _, name := range []string{name, strings.ToLower(name)} {
			value := os.Getenv(name)
			if value == "" {
				continue
			}
			u, err := url.Parse(value)
			if err != nil || u.Host == "" {
				u = &url.URL{Scheme: "http", Host: value}
			}
			port := u.Port()
			if port == "" {
				port = map[string]string{"https": "443"}[u.Scheme]
			}
			if port == "" {
				port = "80"
			}
			hosts = append(hosts, net.JoinHostPort(u.Hostname(), port))
		}
	}
	return hosts
}
