// Package proxy is the gateway's data plane: it listens on the ports of a
// route.Table, forwards requests to the endpoints of route.Upstreams, and knows
// nothing of Kubernetes.
//
// Ordinary HTTP/1.1 requests, plain or over TLS, are carried by package eventloop
// (ordinary.go); everything else by net/http, to which their connections are
// handed over (handler.go). Both choose, count and log alike.
//
// It guarantees: a new table or endpoint set takes effect for the next request
// without a lock on the request path; an endpoint that was taken out gets no
// new request while those in flight finish; a request of which no byte could
// be sent is tried at another endpoint; every answer of its own is a problem
// document (RFC 9457).
//
// Callers may not assume that a port of the table is open: SetTable reports
// what each one is bound to, or why not.
//
// Imported by services/gateway and its controller only.
package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/guard"
	"github.com/gantryhq/gantry/services/gateway/route"
	"github.com/gantryhq/gantry/services/gateway/upstream"
)

// Config says how the data plane listens and what limits it keeps.
type Config struct {
	// Listen maps a port of the table to the address to bind for it. Ports that
	// are not in it are bound at BindHost.
	Listen   map[uint16]string
	BindHost string
	// TakeOver allows to bind ports that another gateway process of the same
	// user holds, so that a successor can start before the old one drains.
	TakeOver bool
	// Inherited are open sockets by the address they were bound for; the ports
	// they fit use them instead of binding.
	Inherited map[string]net.Listener
	// TrustedProxies are the peers whose X-Forwarded-* headers are believed.
	TrustedProxies []netip.Prefix

	ConnectTimeout time.Duration // to an endpoint; 0 is 2 s
	HeaderTimeout  time.Duration // for a client's request header; 0 is 10 s
	IdleTimeout    time.Duration // of a client's connection; 0 is 75 s
	MaxHeaderBytes int           // of a request; 0 is 64 KiB

	// Guards remembers what policies need between requests; nil is a new one.
	Guards *guard.Keeper

	AccessLog io.Writer             // or nil for none
	Registry  prometheus.Registerer // or nil for none
	Log       *slog.Logger          // or nil for slog.Default()
}

// Server is a running data plane. Its methods may be called concurrently,
// SetTable and Shutdown by one goroutine at a time.
type Server struct {
	cfg     Config
	log     *slog.Logger
	access  *accessLog
	metrics *metrics
	forward *httputil.ReverseProxy

	table     atomic.Pointer[route.Table]
	upstreams *upstream.Pools

	mu    sync.Mutex // guards ports
	ports map[uint16]*port

	loops      *eventloop.Group
	lanes      []lane // of the event loops, by their numbers
	guards     *guard.Keeper
	admissions sync.Pool      // of *admission
	mirrored   chan struct{}  // holds one for each copy of a request on its way
	exchanges  sync.WaitGroup // in flight in net/http, upgraded connections included
}

// port is one open port of the table.
type port struct {
	number uint16
	tls    bool
	bound  netip.AddrPort
	server *http.Server

	address   string // as configured
	listener  *net.TCPListener
	events    *eventloop.Port
	handedOff *handOffs
}

// Binding is what became of one port of the table.
type Binding struct {
	Address netip.AddrPort
	Err     error
}

// New returns a data plane that listens nowhere until SetTable is called.
func New(cfg Config) (*Server, error) {
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, 2*time.Second)
	cfg.HeaderTimeout = cmp.Or(cfg.HeaderTimeout, 10*time.Second)
	cfg.IdleTimeout = cmp.Or(cfg.IdleTimeout, 75*time.Second)
	cfg.MaxHeaderBytes = cmp.Or(cfg.MaxHeaderBytes, 64<<10)
	s := &Server{
		cfg:    cfg,
		log:    cmp.Or(cfg.Log, slog.Default()),
		ports:  map[uint16]*port{},
		guards: cfg.Guards,

		mirrored: make(chan struct{}, maxMirrored),
	}
	if s.guards == nil {
		s.guards = guard.NewKeeper(guard.KeeperConfig{Log: s.log})
	}
	s.table.Store(route.NewBuilder().Build())
	s.forward = s.newReverseProxy()
	var err error
	s.loops, err = eventloop.Start(eventloop.Config{
		HeaderTimeout: cfg.HeaderTimeout, IdleTimeout: cfg.IdleTimeout, ConnectTimeout: cfg.ConnectTimeout,
		BackendIdle: upstream.IdleConnection, MaxHead: cfg.MaxHeaderBytes, Log: s.log,
	})
	if err != nil {
		return nil, err
	}
	s.upstreams = upstream.New(upstream.Config{ConnectTimeout: cfg.ConnectTimeout, Forget: s.loops.Forget})
	s.lanes = make([]lane, s.loops.Loops())
	s.metrics = newMetrics(cfg.Registry, len(s.lanes)+1)
	s.access = newAccessLog(cfg.AccessLog, len(s.lanes)+1) // the last lane is for net/http
	return s, nil
}

// SetTable makes the table the one in force, opens the ports that are new,
// drains those that are gone, and reports all bindings.
func (s *Server) SetTable(t *route.Table) map[uint16]Binding {
	s.guards.Adopt(t.Guards())
	s.table.Store(t)
	s.metrics.forget(t)
	s.mu.Lock()
	defer s.mu.Unlock()

	wanted := map[uint16]*route.Port{}
	for _, p := range t.Ports() {
		wanted[p.Number] = p
	}
	for number, p := range s.ports {
		if w := wanted[number]; w == nil || w.TLS != p.tls {
			delete(s.ports, number)
			s.log.Info("close port", "port", number, "address", p.bound)
			go s.drain(context.Background(), p)
		}
	}
	bindings := map[uint16]Binding{}
	for number, w := range wanted {
		if s.ports[number] == nil {
			p, err := s.open(w)
			if err != nil {
				bindings[number] = Binding{Err: err}
				continue
			}
			s.ports[number] = p
		}
		bindings[number] = Binding{Address: s.ports[number].bound}
	}
	// A socket that no port uses would let clients connect and wait for ever.
	for address, unused := range s.cfg.Inherited {
		unused.Close()
		delete(s.cfg.Inherited, address)
	}
	return bindings
}

// SetUpstreams replaces the endpoints of the given Service ports and forgets
// those in gone. Service ports that are not named stay as they are.
func (s *Server) SetUpstreams(changed []route.Upstream, gone []route.ServicePort) {
	s.upstreams.Set(changed, gone)
}

// Listeners returns the open sockets by the address they were configured with.
func (s *Server) Listeners() map[string]*net.TCPListener {
	s.mu.Lock()
	defer s.mu.Unlock()
	listeners := map[string]*net.TCPListener{}
	for _, p := range s.ports {
		listeners[p.address] = p.listener
	}
	return listeners
}

// Table returns the table in force.
func (s *Server) Table() *route.Table { return s.table.Load() }

// Shutdown closes all ports and waits until the exchanges in flight have
// finished or ctx ends; what is left then is cut.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	ports := s.ports
	s.ports = map[uint16]*port{}
	s.mu.Unlock()

	defer s.access.Flush()
	var closing sync.WaitGroup
	for _, p := range ports {
		closing.Go(func() { s.drain(ctx, p) })
	}
	closing.Wait()
	err := s.loops.Drain(ctx)
	done := make(chan struct{})
	go func() {
		s.exchanges.Wait()
		close(done)
	}()
	select {
	case <-done:
		return err
	case <-ctx.Done():
		for _, p := range ports {
			p.server.Close()
		}
		return fmt.Errorf("drain connections: %w", ctx.Err())
	}
}

func (s *Server) drain(ctx context.Context, p *port) {
	s.loops.Close(p.events)
	p.listener.Close()
	if err := p.server.Shutdown(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("close port", "port", p.number, "error", err)
	}
}

// open binds the port and starts to serve it.
func (s *Server) open(w *route.Port) (*port, error) {
	address := s.addressOf(w.Number)
	listener, inherited := s.cfg.Inherited[address].(*net.TCPListener)
	delete(s.cfg.Inherited, address)
	if !inherited {
		var err error
		if listener, err = listen(address, s.cfg.TakeOver); err != nil {
			return nil, err
		}
	}
	p := &port{number: w.Number, tls: w.TLS, bound: listener.Addr().(*net.TCPAddr).AddrPort(), address: address, listener: listener}
	p.server = &http.Server{
		Handler:           &handler{server: s, port: p},
		ReadHeaderTimeout: s.cfg.HeaderTimeout,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    s.cfg.MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
		ConnContext:       rememberSecure,
	}
	p.server.Protocols.SetHTTP1(true)
	p.server.Protocols.SetHTTP2(w.TLS)
	p.server.Protocols.SetUnencryptedHTTP2(!w.TLS) // gRPC clients without TLS
	p.events = &eventloop.Port{Policy: &ordinary{s, p}, HandOff: p.handOff}
	if w.TLS {
		p.events.TLS = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			NextProtos:     []string{"h2", "http/1.1"},
			GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return s.certificate(w.Number, h) },
		}
	}
	p.handedOff = newHandOffs(listener.Addr())
	if err := s.loops.Serve(listener, p.events); err != nil {
		listener.Close()
		return nil, err
	}
	go func() {
		if err := p.server.Serve(p.handedOff); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("serve port", "port", w.Number, "address", p.bound, "error", err)
		}
	}()
	s.log.Info("open port", "port", w.Number, "address", p.bound, "tls", w.TLS)
	return p, nil
}

func (s *Server) addressOf(number uint16) string {
	if address, ok := s.cfg.Listen[number]; ok {
		return address
	}
	return net.JoinHostPort(s.cfg.BindHost, fmt.Sprint(number))
}

// certificate chooses the key pair for a client's server name (SNI).
func (s *Server) certificate(number uint16, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	certs := s.table.Load().Certificates(number, strings.ToLower(hello.ServerName))
	for _, c := range certs {
		if hello.SupportsCertificate(c.Pair) == nil {
			return c.Pair, nil
		}
	}
	if len(certs) > 0 {
		return certs[0].Pair, nil
	}
	return nil, fmt.Errorf("no certificate for server name %q", hello.ServerName)
}

// boundPort is the port number that clients really use for a port of the table.
func (s *Server) boundPort(number uint16) uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.ports[number]; p != nil {
		return p.bound.Port()
	}
	return number
}
