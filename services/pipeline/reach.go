package pipeline

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/client"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"golang.org/x/net/http/httpproxy"

	"github.com/gantryhq/gantry/internal/hint"
)

// Repositories are fetched by the service itself, over its own network. Whoever may write
// a Pipeline chooses the address, so the addresses of this machine's own programs and of
// a cloud's metadata service are not fetched from, unless the operator allows it.

// errLocal is that an address is one of those.
var errLocal = errors.New("pipelines may not fetch from this machine itself")

// metadata has the metadata service that some clouds have outside of link-local addresses.
var metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200")}

func checkAddress(ip netip.Addr) error {
	ip = ip.Unmap().WithZone("")
	if !ip.IsGlobalUnicast() || slices.Contains(metadata, ip) { // loopback, link-local, unspecified, multicast
		return hint.Wrap(fmt.Errorf("%w: %s is a loopback or link-local address", errLocal, ip),
			"give the address that others reach the repository at, or start `gantry serve` with --pipeline-local-repositories")
	}
	return nil
}

type localKey struct{}

// reach says in a context whether what is fetched under it may come from anywhere.
func reach(ctx context.Context, anywhere bool) context.Context {
	confineHTTP()
	return context.WithValue(ctx, localKey{}, anywhere)
}

// confineHTTP has go-git, whose transports are the process's, judge each address that it
// connects to, so that neither redirects nor names that change lead elsewhere. A proxy that
// the environment names is reached wherever it is.
var confineHTTP = sync.OnceFunc(func() {
	t := http.DefaultTransport.(*http.Transport).Clone()
	proxies := proxyAddresses()
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := net.Dialer{Timeout: 30 * time.Second}
		if anywhere, _ := ctx.Value(localKey{}).(bool); !anywhere && !slices.Contains(proxies, addr) {
			d.Control = func(_, addr string, _ syscall.RawConn) error {
				ap, err := netip.ParseAddrPort(addr)
				if err != nil {
					return err
				}
				return checkAddress(ap.Addr())
			}
		}
		return d.DialContext(ctx, network, addr)
	}
	for _, scheme := range []string{"http", "https"} {
		client.InstallProtocol(scheme, githttp.NewClient(&http.Client{Transport: t}))
	}
})

// proxyAddresses are the host:port of the proxies that the environment names.
func proxyAddresses() (all []string) {
	environment := httpproxy.FromEnvironment()
	for _, text := range []string{environment.HTTPProxy, environment.HTTPSProxy} {
		if text == "" {
			continue
		}
		if ep, err := transport.NewEndpoint(text); err == nil && ep.Host != "" {
			port := ep.Port
			if port == 0 {
				port = map[string]int{"https": 443}[ep.Protocol]
			}
			if port == 0 {
				port = 80
			}
			all = append(all, net.JoinHostPort(ep.Host, fmt.Sprint(port)))
		}
	}
	return all
}

// checkReach refuses a repository over SSH, whose connections go-git makes itself, by what
// its name means now. A name that means something else a moment later meets known_hosts.
func (r *repository) checkReach(ctx context.Context) error {
	ep, err := transport.NewEndpoint(r.url)
	if err != nil || r.local || ep.Protocol != "ssh" {
		return err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", ep.Host)
	if err != nil {
		return err
	}
	for _, ip := range ips {
		if err := checkAddress(ip); err != nil {
			return err
		}
	}
	return nil
}
