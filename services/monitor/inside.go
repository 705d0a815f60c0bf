package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/client-go/rest"
)

// inside is the host of targets that are scraped without a network: nodes, through the API server's
// proxy, and the platform's own parts. Only the platform's scrape manager can connect to it.
const inside = "gantry.internal"

// pipes is a listener in memory.
type pipes struct {
	connections chan net.Conn
	done        <-chan struct{}
}

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.connections <- theirs:
		return ours, nil
	case <-p.done:
	case <-ctx.Done():
	}
	return nil, errors.Join(net.ErrClosed, ours.Close())
}

// Accept implements net.Listener.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.connections:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener; the end of the service closes it.
func (p *pipes) Close() error { return nil }

// Addr implements net.Listener.
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: inside, Net: "unix"} }

// serveInside answers the platform's scrapes until ctx ends.
func (s *Service) serveInside(ctx context.Context) error {
	proxy, err := newAPIProxy(s.cfg.Client)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /api/v1/nodes/{node}/proxy/", proxy)
	mux.Handle("GET /apiserver/metrics", rewrite("/metrics", proxy))
	mux.Handle("GET /objects/metrics", s.objects)
	mux.Handle("GET /monitor/metrics", promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{}))
	for _, source := range s.cfg.Sources {
		mux.Handle("GET /"+source.Job+"/metrics", rewrite("/metrics", source.Handler))
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(s.pipes); ctx.Err() == nil {
		return err
	}
	return nil
}

// rewrite asks h for another path.
func rewrite(path string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		r.URL.Path, r.URL.RawPath = path, ""
		h.ServeHTTP(w, r)
	})
}

// newAPIProxy sends requests to the API server as the service's user.
func newAPIProxy(cfg *rest.Config) (http.Handler, error) {
	cfg = rest.CopyConfig(cfg)
	transport, err := rest.TransportFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("reach the API server: %w", err)
	}
	host := cfg.Host
	if !strings.Contains(host, "://") {
		host = "https://" + host
	}
	at, err := url.Parse(host)
	if err != nil {
		return nil, fmt.Errorf("reach the API server: %w", err)
	}
	return &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(at)
			r.Out.Header.Del("Accept-Encoding")
		},
	}, nil
}

// dialInside is how the platform's own targets are reached.
func (s *Service) dialInside(ctx context.Context, network, address string) (net.Conn, error) {
	if host, _, err := net.SplitHostPort(address); err == nil && host == inside {
		return s.pipes.dial(ctx)
	}
	return nil, fmt.Errorf("%s is none of the platform's targets", address)
}

// dialWorkload is how workloads' targets are reached. Whoever may create a pod chooses the address,
// so what only this machine should reach is refused.
func dialWorkload(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if a := to.Addr().Unmap(); a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast() {
			return fmt.Errorf("%s is an address of the machine itself, which no monitor may reach", a)
		}
		return nil
	}}
	return d.DialContext(ctx, network, address)
}
