// Package dns is cluster DNS: the Kubernetes DNS-Based Service Discovery
// specification 1.1.0 for the cluster's own names, and a caching forwarder to the
// host's resolvers for all others.
//
// Answers about the cluster come straight from the catalog's indexes and are never
// cached here. A pod's query for an external name is answered at the first element of
// its search path instead of after five attempts; docs/decisions/0006-dns-search-path.md
// says when. Names in the zone never leave the machine.
//
// Callers may not assume recursion from the root, DNSSEC validation, or zone
// transfers. Only engine/network imports this package.
package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/network/catalog"
)

// Config says what to serve.
type Config struct {
	Listen               netip.AddrPort // port 0 is any free one
	Domain               string         // the zone, such as cluster.local
	Catalog              *catalog.Catalog
	PodCIDR, ServiceCIDR netip.Prefix
	// NamespaceOf returns the namespace of the pod with this address, or "".
	NamespaceOf func(netip.Addr) string
	ResolvConf  string // upstream resolvers
	// UDP and TCP are bound sockets of a predecessor, instead of Listen; or nil.
	UDP, TCP *os.File
	// Register takes the server's metrics, or is nil.
	Register func(...prometheus.Collector)

	upstreamPort string // "" is 53; for tests
	tcpClients   int    // 0 is maxTCPClients; for tests
}

// Server answers queries.
type Server struct {
	cfg     Config
	zone    string // with final dot, lower case
	forward *forwarder
	metrics *metrics
	udp     net.PacketConn
	tcp     net.Listener

	tcpQueue *net.TCPListener // what tcp takes from
}

// New binds the address, or takes over the predecessor's sockets. Nothing is answered
// before Run: what is asked earlier waits in the sockets.
func New(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, zone: dns.CanonicalName(cfg.Domain)}
	tcp, err := s.listen()
	if err != nil {
		return nil, fmt.Errorf("listen for DNS on %s: %w", cfg.Listen, err)
	}
	s.tcpQueue = tcp.(*net.TCPListener)
	s.tcp = netutil.LimitListener(tcp, cmp.Or(cfg.tcpClients, maxTCPClients))
	s.metrics = newMetrics(cfg.Register)
	s.forward = newForwarder(cfg.ResolvConf, cmp.Or(cfg.upstreamPort, "53"), cfg.Listen.Addr())
	return s, nil
}

// listen opens the UDP socket and returns the TCP one.
func (s *Server) listen() (tcp net.Listener, err error) {
	if s.cfg.UDP != nil && s.cfg.TCP != nil {
		if s.udp, err = net.FilePacketConn(s.cfg.UDP); err == nil {
			tcp, err = net.FileListener(s.cfg.TCP)
		}
	} else {
		// While serve is replaced by its successor both are bound for a moment.
		lc := net.ListenConfig{Control: reusePort}
		if s.udp, err = lc.ListenPacket(context.Background(), "udp4", s.cfg.Listen.String()); err == nil {
			tcp, err = lc.Listen(context.Background(), "tcp4", s.udp.LocalAddr().String())
		}
	}
	if err != nil && s.udp != nil {
		s.udp.Close()
	}
	return tcp, err
}

// Sockets returns duplicates of the sockets, for a successor; the caller closes them.
func (s *Server) Sockets() (udp, tcp *os.File, err error) {
	if udp, err = duplicate(s.udp.(*net.UDPConn)); err != nil {
		return nil, nil, err
	}
	if tcp, err = duplicate(s.tcpQueue); err != nil {
		udp.Close()
		return nil, nil, err
	}
	return udp, tcp, nil
}

// duplicate differs from the socket's own File method in that sending the result to
// another process does not make the socket block its readers.
func duplicate(socket syscall.Conn) (*os.File, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("duplicate DNS socket: %w", err)
	}
	var dup int
	var derr error
	err = raw.Control(func(fd uintptr) { dup, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) })
	if err := errors.Join(err, derr); err != nil {
		return nil, fmt.Errorf("duplicate DNS socket: %w", err)
	}
	return os.NewFile(uintptr(dup), "DNS socket"), nil
}

func reusePort(_, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		// Room for what is asked during a restart; best effort.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queueBytes)
	})
	return errors.Join(cerr, err)
}

// queueBytes holds some thousand queries.
const queueBytes = 4 << 20

// Port returns the bound port.
func (s *Server) Port() uint16 { return uint16(s.tcp.Addr().(*net.TCPAddr).Port) }

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	var closing sync.WaitGroup
	for _, srv := range []*dns.Server{{PacketConn: s.udp}, {Listener: s.tcp, MaxTCPQueries: -1}} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		srv.Handler = s
		srv.ReadTimeout, srv.WriteTimeout = 2*time.Second, 2*time.Second
		srv.IdleTimeout = func() time.Duration { return 10 * time.Second }
		srv.UDPSize = maxUDPSize
		g.Go(srv.ActivateAndServe)
		closing.Go(func() {
			<-started
			<-ctx.Done()
			_ = srv.Shutdown()
		})
	}
	g.Go(func() error { return s.forward.run(ctx) })
	err := g.Wait()
	closing.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, net.ErrClosed)) {
		return nil
	}
	return err
}

const (
	// maxTCPClients leaves descriptors for the rest of the process. Most ask by UDP.
	maxTCPClients = 1000
	// maxUDPSize avoids fragmentation on any path (DNS Flag Day 2020).
	maxUDPSize = 1232
	// ttl of everything in the cluster, in seconds.
	ttl = 5
)

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	began := time.Now()
	resp := s.answer(req, clientAddr(w.RemoteAddr()))
	s.metrics.count(s.zoneOf(req), resp.Rcode, time.Since(began))
	resp.Id, resp.RecursionDesired = req.Id, req.RecursionDesired
	resp.RecursionAvailable = true
	size := dns.MaxMsgSize
	if _, ok := w.RemoteAddr().(*net.UDPAddr); ok {
		size = dns.MinMsgSize
	}
	if opt := req.IsEdns0(); opt != nil {
		if size == dns.MinMsgSize {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDPSize)
		}
		setEDNS(resp, opt.Do())
		if opt.Version() != 0 {
			resp.Rcode = dns.RcodeBadVers
			resp.Answer, resp.Ns = nil, nil
		}
	}
	resp.Truncate(size)
	if err := w.WriteMsg(resp); err != nil {
		slog.Debug("DNS answer not delivered", "client", w.RemoteAddr(), "err", err)
	}
}

func clientAddr(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

func setEDNS(m *dns.Msg, do bool) {
	m.Extra = withoutOPT(m.Extra)
	m.SetEdns0(maxUDPSize, do)
}

func withoutOPT(rrs []dns.RR) []dns.RR {
	var out []dns.RR
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, rr)
		}
	}
	return out
}

// answer makes the response to one query.
func (s *Server) answer(req *dns.Msg, client netip.Addr) *dns.Msg {
	resp := new(dns.Msg).SetReply(req)
	switch {
	case req.Opcode != dns.OpcodeQuery || len(req.Question) != 1:
		return resp.SetRcode(req, dns.RcodeNotImplemented)
	case req.Question[0].Qclass != dns.ClassINET:
		return resp.SetRcode(req, dns.RcodeRefused)
	}
	q := req.Question[0]
	name := strings.ToLower(q.Name)
	if !s.authoritative(name) {
		if q.Qtype == dns.TypeANY || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
			return resp.SetRcode(req, dns.RcodeNotImplemented)
		}
		up, err := s.forward.resolve(context.Background(), q, wantsDNSSEC(req))
		if err != nil {
			slog.Debug("DNS query not resolved", "name", q.Name, "type", dns.TypeToString[q.Qtype], "err", err)
			return resp.SetRcode(req, dns.RcodeServerFailure)
		}
		resp.Rcode, resp.Answer, resp.Ns, resp.Extra = up.Rcode, rename(up.Answer, q.Name), up.Ns, withoutOPT(up.Extra)
		return resp
	}
	resp.Authoritative = true
	a := s.lookup(name, q.Qtype)
	if a.cname != "" {
		s.follow(resp, q, a.cname)
		return resp
	}
	if a.rcode == dns.RcodeNameError && s.expandSearch(resp, q, name, client) {
		return resp
	}
	resp.Rcode, resp.Answer, resp.Extra = a.rcode, rename(a.answer, q.Name), a.extra
	if len(a.answer) == 0 {
		resp.Ns = []dns.RR{s.soa()}
	}
	return resp
}

func wantsDNSSEC(req *dns.Msg) bool {
	opt := req.IsEdns0()
	return opt != nil && opt.Do()
}

// rename gives the answers the name as the client spelled it, which some clients
// check to the letter.
func rename(rrs []dns.RR, name string) []dns.RR {
	for _, rr := range rrs {
		if strings.EqualFold(rr.Header().Name, name) {
			rr.Header().Name = name
		}
	}
	return rrs
}

// follow answers with an alias and, as stub resolvers expect, with what it leads to.
func (s *Server) follow(resp *dns.Msg, q dns.Question, target string) {
	target = dns.Fqdn(target)
	resp.Answer = []dns.RR{&dns.CNAME{Hdr: header(q.Name, dns.TypeCNAME), Target: target}}
	if q.Qtype == dns.TypeCNAME {
		return
	}
	rcode, answer, ns := s.resolve(dns.Question{Name: target, Qtype: q.Qtype, Qclass: q.Qclass})
	resp.Rcode = rcode
	resp.Answer = append(resp.Answer, answer...)
	resp.Ns = ns
}

// resolve answers a name of the cluster or of the outside, without search path.
func (s *Server) resolve(q dns.Question) (rcode int, answer, ns []dns.RR) {
	name := strings.ToLower(q.Name)
	for range 8 { // aliases may form a circle
		if !s.authoritative(name) {
			q.Name = name
			up, err := s.forward.resolve(context.Background(), q, false)
			if err != nil {
				slog.Debug("DNS query not resolved", "name", name, "err", err)
				return dns.RcodeServerFailure, answer, nil
			}
			return up.Rcode, append(answer, up.Answer...), up.Ns
		}
		a := s.lookup(name, q.Qtype)
		if a.cname == "" || q.Qtype == dns.TypeCNAME {
			if len(a.answer) == 0 {
				ns = []dns.RR{s.soa()}
			}
			return a.rcode, append(answer, a.answer...), ns
		}
		answer = append(answer, &dns.CNAME{Hdr: header(name, dns.TypeCNAME), Target: a.cname})
		name = strings.ToLower(a.cname)
	}
	return dns.RcodeServerFailure, answer, nil
}

func header(name string, typ uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: typ, Class: dns.ClassINET, Ttl: ttl}
}
