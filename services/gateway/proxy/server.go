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
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantryhq/gantry/services/gateway/audit"
	"github.com/gantryhq/gantry/services/gateway/cache"
	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/guard"
	"github.com/gantryhq/gantry/services/gateway/login"
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
	// ProxyProtocol are the peers whose connections must begin with a header of
	// the PROXY protocol; it names the client that everything else goes by.
	ProxyProtocol []netip.Prefix

	ConnectTimeout time.Duration // to an endpoint; 0 is 2 s
	HeaderTimeout  time.Duration // for a client's request header; 0 is 10 s
	IdleTimeout    time.Duration // of a client's connection; 0 is 75 s
	StallTimeout   time.Duration // without progress of a body; 0 is 60 s
	MaxHeaderBytes int           // of a request; 0 is 64 KiB

	// Guards remembers what policies need between requests; nil is a new one.
	Guards *guard.Keeper

	Audit     *audit.Log            // or nil for none
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

	mu    sync.Mutex               // guards ports
	ports map[netip.AddrPort]*port // by the table's key

	loops      *eventloop.Group
	lanes      []lane // of the event loops, by their numbers
	guards     *guard.Keeper
	cache      *cache.Cache
	logins     *login.Desk
	admissions sync.Pool      // of *admission
	mirrored   chan struct{}  // holds one for each copy of a request on its way
	exchanges  sync.WaitGroup // in flight in net/http, upgraded connections included
	streams    streams        // in flight, without HTTP
	// Challenges of certificate authorities that are being answered.
	Challenges Challenges
}

// port is one open port of the table.
type port struct {
	at      netip.AddrPort // the table's key
	tls     bool
	raw     bool
	diverts bool
	bound   netip.AddrPort
	serving atomic.Pointer[route.Port] // what the table in force says about it
	secure  secureConfigs
	server  *http.Server // nil for a raw port

	address   string // as configured
	listener  *net.TCPListener
	events    *eventloop.Port
	handedOff *handOffs
	leaving   leaving
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
	cfg.StallTimeout = cmp.Or(cfg.StallTimeout, time.Minute)
	cfg.MaxHeaderBytes = cmp.Or(cfg.MaxHeaderBytes, 64<<10)
	s := &Server{
		cfg:    cfg,
		log:    cmp.Or(cfg.Log, slog.Default()),
		ports:  map[netip.AddrPort]*port{},
		guards: cfg.Guards,

		mirrored: make(chan struct{}, maxMirrored),
	}
	if s.guards == nil {
		s.guards = guard.NewKeeper(guard.KeeperConfig{Log: s.log})
	}
	s.logins = login.New(providerClient, s.guards.Now)
	s.cache = cache.New(maxCached, s.guards.Now)
	s.table.Store(route.NewBuilder().Build())
	s.forward = s.newReverseProxy()
	var err error
	s.loops, err = eventloop.Start(eventloop.Config{
		HeaderTimeout: cfg.HeaderTimeout, IdleTimeout: cfg.IdleTimeout, ConnectTimeout: cfg.ConnectTimeout, StallTimeout: cfg.StallTimeout,
		BackendIdle: upstream.IdleConnection, MaxHead: cfg.MaxHeaderBytes, Log: s.log,
	})
	if err != nil {
		return nil, err
	}
	s.upstreams = upstream.New(upstream.Config{ConnectTimeout: cfg.ConnectTimeout, Forget: s.loops.Forget, Log: s.log})
	s.lanes = make([]lane, s.loops.Loops())
	s.metrics = newMetrics(cfg.Registry, len(s.lanes)+1)
	s.access = newAccessLog(cfg.AccessLog, len(s.lanes)+1) // the last lane is for net/http
	if cfg.Registry != nil {
		cfg.Registry.MustRegister(s.upstreams, certificates{s.table.Load})
	}
	return s, nil
}

// SetTable makes the table the one in force, opens the ports that are new,
// drains those that are gone, and reports all bindings by the table's keys.
func (s *Server) SetTable(t *route.Table) map[netip.AddrPort]Binding {
	s.guards.Adopt(t.Guards())
	t.Demand()
	s.table.Store(t)
	s.metrics.forget(t)
	s.mu.Lock()
	defer s.mu.Unlock()

	bindings := map[netip.AddrPort]Binding{}
	for at, p := range s.ports {
		w := t.At(at)
		if w != nil && w.TLS == p.tls && w.Raw == p.raw && w.Diverts == p.diverts {
			p.serving.Store(w)
			continue
		}
		delete(s.ports, at)
		s.log.Info("close port", "port", at.Port(), "address", p.bound)
		if w == nil || w.Raw != p.raw {
			if !p.raw {
				s.loops.Close(p.events, eventloop.Farewell) // so that the address is free
			}
			p.listener.Close()
			go s.drain(context.Background(), p, eventloop.Farewell, nil)
			continue
		}
		// It changes what it speaks: the socket goes on with the new one.
		next, err := s.serve(w, p.address, p.listener)
		if err != nil {
			bindings[at] = Binding{Err: err}
			continue
		}
		s.ports[at] = next
		s.loops.Close(p.events, s.cfg.IdleTimeout) // from here only the new one accepts
		p.listener = nil
		go s.drain(context.Background(), p, s.cfg.IdleTimeout, nil)
	}
	for _, w := range t.Ports() {
		if _, failed := bindings[w.At()]; failed {
			continue
		}
		if s.ports[w.At()] == nil {
			p, err := s.open(w)
			if err != nil {
				bindings[w.At()] = Binding{Err: err}
				continue
			}
			s.ports[w.At()] = p
		}
		bindings[w.At()] = Binding{Address: s.ports[w.At()].bound}
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

// Upstreams tells of the demand.
func (s *Server) Upstreams() *upstream.Pools { return s.upstreams }

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

// DumpUpstreams writes for people what stands behind each Service port.
func (s *Server) DumpUpstreams(w io.Writer) { s.upstreams.Dump(w) }

// Table returns the table in force.
func (s *Server) Table() *route.Table { return s.table.Load() }

// Shutdown closes all ports and waits until the exchanges in flight have
// finished or ctx ends; what is left then is cut. Connections may stay unused for as long
// as farewell before they are closed, and after hurry, if not nil, for no longer than
// [eventloop.Farewell].
func (s *Server) Shutdown(ctx context.Context, farewell time.Duration, hurry <-chan struct{}) error {
	s.mu.Lock()
	ports := s.ports
	s.ports = map[netip.AddrPort]*port{}
	s.mu.Unlock()

	defer s.access.Flush()
	defer s.upstreams.Close()
	var closing sync.WaitGroup
	for _, p := range ports {
		closing.Go(func() { s.drain(ctx, p, farewell, hurry) })
	}
	closing.Wait()
	err := s.loops.Drain(ctx)
	done := make(chan struct{})
	go func() {
		s.exchanges.Wait()
		s.streams.wait()
		close(done)
	}()
	select {
	case <-done:
		return err
	case <-ctx.Done():
		for _, p := range ports {
			if p.server != nil {
				p.server.Close()
			}
		}
		s.streams.cut()
		return fmt.Errorf("drain connections: %w", ctx.Err())
	}
}

// drain lets the connections of a port end, after it has closed its socket if it still
// has one.
func (s *Server) drain(ctx context.Context, p *port, farewell time.Duration, hurry <-chan struct{}) {
	if p.raw {
		p.listener.Close()
		return
	}
	s.loops.Close(p.events, farewell)
	if p.listener != nil {
		p.listener.Close()
	}
	p.leaving.wait(ctx, s.loops, farewell, hurry)
	if farewell > eventloop.Farewell {
		select {
		case <-hurry:
			s.loops.Close(p.events, eventloop.Farewell)
		default:
		}
	}
	if err := p.server.Shutdown(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("close port", "port", p.at.Port(), "error", err)
	}
}

// open binds the port and starts to serve it.
func (s *Server) open(w *route.Port) (*port, error) {
	address := s.addressOf(w)
	listener, inherited := s.cfg.Inherited[address].(*net.TCPListener)
	delete(s.cfg.Inherited, address)
	if !inherited {
		var err error
		if listener, err = listen(address, s.cfg.TakeOver || s.holds(w.Number)); err != nil {
			return nil, err
		}
	}
	p, err := s.serve(w, address, listener)
	if err != nil {
		listener.Close()
		return nil, err
	}
	s.log.Info("open port", "port", w.Number, "address", p.bound, "tls", w.TLS)
	return p, nil
}

// holds says whether the port is bound by us already at another address: that it
// is not free does not tell of somebody else then.
func (s *Server) holds(number uint16) bool {
	for _, p := range s.ports {
		if p.bound.Port() == number {
			return true
		}
	}
	return false
}

// serve accepts connections of the listener for a port.
func (s *Server) serve(w *route.Port, address string, listener *net.TCPListener) (*port, error) {
	p := &port{
		at: w.At(), tls: w.TLS, raw: w.Raw, diverts: w.Diverts,
		bound: listener.Addr().(*net.TCPAddr).AddrPort(), address: address, listener: listener,
	}
	p.serving.Store(w)
	if p.raw {
		go s.acceptStreams(p)
		return p, nil
	}
	p.server = &http.Server{
		Handler:           &handler{server: s, port: p},
		ReadHeaderTimeout: s.cfg.HeaderTimeout,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    s.cfg.MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
		ConnContext:       rememberSecure,
		ConnState:         p.leaving.count,
	}
	p.server.Protocols.SetHTTP1(true)
	p.server.Protocols.SetHTTP2(w.TLS)
	p.server.Protocols.SetUnencryptedHTTP2(!w.TLS) // gRPC clients without TLS
	p.events = &eventloop.Port{Policy: &ordinary{s, p}, HandOff: p.handOff}
	if len(s.cfg.ProxyProtocol) > 0 {
		p.events.Proxied = s.proxied
	}
	if w.TLS {
		p.events.TLS = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			NextProtos:     []string{"h2", "http/1.1"},
			GetCertificate: p.certificate,
		}
	}
	if w.Diverts {
		p.events.TLS.GetConfigForClient = p.configFor
		p.events.Divert = p.divert
		p.events.Stream = func(c net.Conn, serverName string) { s.stream(p, c, serverName) }
	}
	p.handedOff = newHandOffs(listener.Addr(), p.leaving.arrive)
	if err := s.loops.Serve(listener, p.events); err != nil {
		return nil, err
	}
	go func() {
		if err := p.server.Serve(p.handedOff); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("serve port", "port", w.Number, "address", p.bound, "error", err)
		}
	}()
	return p, nil
}

// addressOf is what to bind for a port of the table.
func (s *Server) addressOf(w *route.Port) string {
	if w.Address.IsValid() {
		return w.At().String()
	}
	if address, ok := s.cfg.Listen[w.Number]; ok {
		return address
	}
	return net.JoinHostPort(s.cfg.BindHost, fmt.Sprint(w.Number))
}

// boundPort is the port number that clients really use for a port of the table
// at an address.
func (s *Server) boundPort(at netip.AddrPort) uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.ports[at]; p != nil {
		return p.bound.Port()
	}
	return at.Port()
}
