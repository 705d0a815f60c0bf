package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/gantryhq/gantry/services/gateway/guard"
	"github.com/gantryhq/gantry/services/gateway/proxyproto"
	"github.com/gantryhq/gantry/services/gateway/route"
	"github.com/gantryhq/gantry/services/gateway/upstream"
)

// streams are the connections that are carried without looking into them:
// those of TLSRoutes and TCPRoutes.
type streams struct {
	running sync.WaitGroup
	mu      sync.Mutex
	ended   bool              // guarded by mu
	open    map[net.Conn]bool // guarded by mu
}

// add returns false when the connection comes too late.
func (s *streams) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	if s.open == nil {
		s.open = map[net.Conn]bool{}
	}
	s.open[c] = true
	s.running.Add(1)
	return true
}

func (s *streams) remove(c net.Conn) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	s.running.Done()
}

// wait returns when all have ended; no new ones begin.
func (s *streams) wait() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.running.Wait()
}

// cut ends all that are left.
func (s *streams) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for c := range s.open {
		c.Close()
	}
}

// acceptStreams takes the connections of a raw port until it is closed.
func (s *Server) acceptStreams(p *port) {
	for {
		c, err := p.listener.Accept()
		switch {
		case err == nil:
			go s.rawStream(p, c)
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of descriptors, or a client that left in between
			s.log.Warn("accept connection", "address", p.bound, "error", err)
			time.Sleep(acceptPause)
		}
	}
}

// rawStream reads the header of a proxy, if one is due, before the stream begins.
func (s *Server) rawStream(p *port, c net.Conn) {
	if peer, ok := c.RemoteAddr().(*net.TCPAddr); ok && s.proxied(peer.AddrPort()) {
		c.SetReadDeadline(time.Now().Add(s.cfg.HeaderTimeout))
		source, err := proxyproto.Read(c)
		if err != nil {
			c.Close()
			return
		}
		c.SetReadDeadline(time.Time{})
		if source.IsValid() {
			c = &introduced{c, net.TCPAddrFromAddrPort(source)}
		}
	}
	s.stream(p, c, "")
}

// introduced is a connection whose client a proxy has named.
type introduced struct {
	net.Conn
	client net.Addr
}

func (i *introduced) RemoteAddr() net.Addr { return i.client }

func (i *introduced) CloseWrite() error {
	return i.Conn.(*net.TCPConn).CloseWrite()
}

// proxied says whether a peer's connections begin with whom they are from.
func (s *Server) proxied(peer netip.AddrPort) bool {
	return slices.ContainsFunc(s.cfg.ProxyProtocol, func(p netip.Prefix) bool { return p.Contains(peer.Addr().Unmap()) })
}

// acceptPause is how long not to accept after that failed.
const acceptPause = 50 * time.Millisecond

// stream carries a connection to an endpoint of the rule for it, and closes it.
func (s *Server) stream(p *port, c net.Conn, serverName string) {
	defer c.Close()
	if !s.streams.add(c) {
		return
	}
	defer s.streams.remove(c)
	rule := p.serving.Load().Stream(serverName)
	if rule == nil {
		return
	}
	start, info := time.Now(), s.metrics.of(rule)
	lane := len(s.lanes) // that of all who are not on an event loop
	s.metrics.inFlight[lane].Add(1)
	defer s.metrics.inFlight[lane].Add(-1)
	line := &logLine{start: start, client: c.RemoteAddr().String(), host: serverName, protocol: "TCP", route: rule.Route}
	if rules := rule.Guard.Rules(); rules != nil {
		line.status = rules.AdmitConnection(&guard.Request{Client: clientOf(c), Host: serverName, Namespace: namespaceOf(rule.Route), Now: s.guards.At(start)})
	}
	if line.status == 0 {
		line.status, line.bytes = s.carry(c, rule, line)
	}
	line.took = time.Since(start)
	info.observe(lane, line.status, line.took)
	s.access.write(lane, line)
}

// clientOf is the address that a connection is from.
func clientOf(c net.Conn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// carry connects to an endpoint and copies both ways until both sides are done.
// It returns what a request would have been answered with.
func (s *Server) carry(c net.Conn, rule *route.Rule, line *logLine) (status int, sent int64) {
	backend := choose(rule.Backends)
	if backend == nil || backend.Invalid != "" {
		return 500, 0
	}
	e, server := s.dialStream(backend, line)
	if e == nil {
		return 503, 0
	}
	defer e.Release()
	if !s.streams.add(server) {
		server.Close()
		return 503, 0
	}
	defer s.streams.remove(server)
	defer server.Close()

	var up sync.WaitGroup
	up.Go(func() {
		_, err := io.Copy(server, c)
		endOf(server, c, err)
	})
	sent, err := io.Copy(c, server)
	endOf(c, server, err)
	up.Wait()
	return 200, sent
}

// endOf passes the end of one direction on: the other one may still have much
// to say. After an error both are at their end.
func endOf(to, from net.Conn, err error) {
	half, ok := to.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		to.Close()
		from.Close()
	}
}

// dialStream connects to an endpoint, which is counted as having one more in
// flight; nil if there is none that answers.
func (s *Server) dialStream(backend *route.Backend, line *logLine) (*upstream.Endpoint, net.Conn) {
	pool := s.upstreams.Get(backend.Service)
	var tried []*upstream.Endpoint
	for len(tried) < upstream.MaxAttempts {
		e := pool.Acquire(tried, nil)
		if e == nil {
			break
		}
		tried = append(tried, e)
		line.endpoint = e.Host
		ctx, cancel := context.WithTimeout(context.Background(), s.cfg.ConnectTimeout)
		server, err := new(net.Dialer).DialContext(ctx, "tcp", e.Host)
		cancel()
		if err == nil {
			pool.Report(e, upstream.Answered, 0)
			return e, server
		}
		pool.Report(e, upstream.NotConnected, 0)
		e.Release()
		s.log.Debug("connect to endpoint", "route", line.route, "endpoint", e.Host, "error", err)
	}
	return nil, nil
}
