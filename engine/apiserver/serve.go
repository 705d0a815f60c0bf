package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// drain is how long Serve waits for answers under way, in time.
const drain = 5 * time.Second

// listen takes the addresses.
func (s *Server) listen(ctx context.Context) error {
	l, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	s.listeners = []net.Listener{l}
	if host := s.cfg.AdvertiseAddress; host.IsValid() && !covers(l.Addr(), host) {
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		// The bridge that has this address is made later, with the API's help.
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var serr error
			if err := c.Control(func(fd uintptr) {
				serr = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
			}); err != nil {
				return err
			}
			return serr
		}}
		pods, err := lc.Listen(ctx, "tcp", netip.AddrPortFrom(host, port).String())
		if err != nil {
			s.close()
			return fmt.Errorf("listen for the API on the pods' side: %w", err)
		}
		s.listeners = append(s.listeners, netutil.LimitListener(pods, s.cfg.PodConnections))
	}
	s.ca.ServeAs(s.certificateNames())
	return nil
}

// covers tells whether a listener at a already accepts connections to host.
func covers(a net.Addr, host netip.Addr) bool {
	at := a.(*net.TCPAddr).AddrPort().Addr()
	return at.IsUnspecified() || at.Unmap() == host.Unmap()
}

// certificateNames are the names by which clients call the API.
func (s *Server) certificateNames() []string {
	names := []string{
		"localhost", "127.0.0.1", "::1",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		s.cfg.serviceAddress().String(),
	}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	if s.cfg.AdvertiseAddress.IsValid() {
		names = append(names, s.cfg.AdvertiseAddress.String())
	}
	if host, _, err := net.SplitHostPort(s.cfg.Listen); err == nil && host != "" {
		if ip, err := netip.ParseAddr(host); err != nil || !ip.IsUnspecified() {
			names = append(names, host)
		}
	}
	return names
}

// externalAddress is where clients on this machine find the API.
func (s *Server) externalAddress() string {
	at := s.Addr().(*net.TCPAddr)
	if host := at.AddrPort().Addr(); !host.IsUnspecified() {
		return at.String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(at.Port))
}

func (s *Server) close() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
}

// Serve answers on the network until ctx ends. Then it refuses new connections, ends watches and
// waits a few seconds for other answers under way.
func (s *Server) Serve(ctx context.Context) error {
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	server := &http.Server{
		Handler:           s.fromNetwork,
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ErrorLog:          slog.NewLogLogger(quiet{s.cfg.Logger.Handler()}, slog.LevelDebug),
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: s.ca.ServingCertificate,
			ClientAuth:     tls.RequestClientCert, // verified by the authenticator
			NextProtos:     []string{"h2", "http/1.1"},
		},
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range s.listeners {
		group.Go(func() error {
			if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve the API on %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	group.Go(func() error { return s.renewKubeconfigs(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		// Long-running requests are not part of inFlight: once the others are answered (or
		// late), their contexts end, and with them the connections.
		stopped := make(chan error, 1)
		go func() { stopped <- server.Shutdown(deadline) }()
		answered := make(chan struct{})
		go func() { s.chain.inFlight.Wait(); close(answered) }()
		select {
		case <-answered:
		case <-deadline.Done():
		}
		endRequests()
		if err := <-stopped; err != nil {
			return server.Close()
		}
		return nil
	})
	return group.Wait()
}

// quiet drops what clients do wrong while connecting.
type quiet struct{ slog.Handler }

// Handle implements slog.Handler.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "http: TLS handshake error") {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}
