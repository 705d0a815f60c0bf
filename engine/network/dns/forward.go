package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// forwarder asks the host's resolvers. Equal questions that are under way at the
// same time are asked once, and answers are kept as long as they allow.
type forwarder struct {
	path string     // resolv.conf
	port string     // of the resolvers
	self netip.Addr // never asked: it is us

	cache  *cache
	flight flight
	slots  chan struct{} // bounds questions under way

	mu    sync.Mutex // guards following
	conf  resolvConf
	stamp fileStamp
}

const (
	// attemptTimeout is how long one resolver may take, hedgeAfter when the next is
	// asked as well.
	attemptTimeout = 2 * time.Second
	hedgeAfter     = 400 * time.Millisecond
	totalTimeout   = 5 * time.Second
	maxInFlight    = 1000
	reloadEvery    = time.Second
)

// errNoUpstream says what to do about it.
var errNoUpstream = errors.New("no upstream resolver: add a nameserver line to /etc/resolv.conf")

func newForwarder(path, port string, self netip.Addr) *forwarder {
	f := &forwarder{path: path, port: port, self: self, cache: newCache(10000, time.Now), slots: make(chan struct{}, maxInFlight)}
	f.reload()
	return f
}

// run follows changes of resolv.conf until ctx ends.
func (f *forwarder) run(ctx context.Context) error {
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f.reload()
		}
	}
}

// fileStamp tells versions of a file apart, also when a symbolic link is redirected.
type fileStamp struct {
	size int64
	time time.Time
}

// reload reads resolv.conf when it changed. An unreadable file keeps the last good
// content: a network manager may be rewriting it.
func (f *forwarder) reload() {
	info, err := os.Stat(f.path)
	if err != nil {
		return
	}
	stamp := fileStamp{info.Size(), info.ModTime()}
	f.mu.Lock()
	defer f.mu.Unlock()
	if stamp == f.stamp {
		return
	}
	b, err := os.ReadFile(f.path)
	if err != nil {
		slog.Warn("upstream resolvers may be out of date", "file", f.path, "err", err)
		return
	}
	f.conf, f.stamp = parseResolvConf(string(b), f.port, f.self), stamp
	f.cache.clear()
	slog.Debug("upstream resolvers", "servers", f.conf.servers, "search", f.conf.search)
}

// search returns the host's search domains, with final dots.
func (f *forwarder) search() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conf.search
}

func (f *forwarder) servers() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conf.servers
}

// resolvConf is what matters to us of resolv.conf(5).
type resolvConf struct {
	servers []string // host:port
	search  []string
}

func parseResolvConf(content, port string, self netip.Addr) resolvConf {
	var c resolvConf
	for line := range strings.Lines(content) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			ip, err := netip.ParseAddr(fields[1])
			if err != nil || ip.Unmap() == self {
				continue
			}
			c.servers = append(c.servers, net.JoinHostPort(fields[1], port))
		case "search", "domain":
			c.search = nil // the last one counts
			for _, d := range fields[1:] {
				if d != "." {
					c.search = append(c.search, dns.CanonicalName(d))
				}
			}
		}
	}
	return c
}

// resolve returns the answer to a question. The message is the caller's own; its TTLs
// are what is left of them.
func (f *forwarder) resolve(ctx context.Context, q dns.Question, do bool) (*dns.Msg, error) {
	key := cacheKey{strings.ToLower(q.Name), q.Qtype, do}
	if m := f.cache.get(key); m != nil {
		return m, nil
	}
	m, err := f.flight.do(key, func() (*dns.Msg, error) {
		select {
		case f.slots <- struct{}{}:
			defer func() { <-f.slots }()
		default:
			return nil, fmt.Errorf("%d questions are under way already", maxInFlight)
		}
		ctx, cancel := context.WithTimeout(ctx, totalTimeout)
		defer cancel()
		m, err := f.ask(ctx, key)
		if err == nil {
			f.cache.put(key, m)
		}
		return m, err
	})
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", q.Name, err)
	}
	return m.Copy(), nil
}

// ask asks the resolvers in their order. One that does not answer in a moment is not
// waited for before the next is asked; the first usable answer counts. All of them
// get a second chance.
func (f *forwarder) ask(ctx context.Context, key cacheKey) (*dns.Msg, error) {
	servers := f.servers()
	if len(servers) == 0 {
		return nil, errNoUpstream
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		m   *dns.Msg
		err error
	}
	attempts := append(servers[:len(servers):len(servers)], servers...)
	results := make(chan result, len(attempts))
	hedge := time.NewTimer(0)
	defer hedge.Stop()
	var errs []error
	for next, pending := 0, 0; next < len(attempts) || pending > 0; {
		var timer <-chan time.Time
		if next < len(attempts) {
			timer = hedge.C
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(append(errs, ctx.Err())...)
		case <-timer:
			server := attempts[next]
			next++
			pending++
			go func() {
				m, err := exchange(ctx, server, key)
				results <- result{m, err}
			}()
			hedge.Reset(hedgeAfter)
		case r := <-results:
			pending--
			if r.err == nil {
				return r.m, nil
			}
			errs = append(errs, r.err)
			hedge.Reset(0) // no need to wait: ask the next one now
		}
	}
	return nil, errors.Join(errs...)
}

// exchange asks one resolver by UDP, and again by TCP when the answer does not fit.
func exchange(ctx context.Context, server string, key cacheKey) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	req := new(dns.Msg).SetQuestion(key.name, key.qtype)
	req.SetEdns0(maxUDPSize, key.do)
	m, _, err := (&dns.Client{Net: "udp", UDPSize: maxUDPSize}).ExchangeContext(ctx, req, server)
	if err == nil && m.Rcode == dns.RcodeFormatError {
		// A resolver older than EDNS.
		req.Extra = nil
		m, _, err = (&dns.Client{Net: "udp"}).ExchangeContext(ctx, req, server)
	}
	if err == nil && m.Truncated {
		m, _, err = (&dns.Client{Net: "tcp"}).ExchangeContext(ctx, req, server)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", server, err)
	}
	if len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, key.name) || m.Question[0].Qtype != key.qtype {
		return nil, fmt.Errorf("ask %s: it answered another question", server)
	}
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
		return m, nil
	}
	return nil, fmt.Errorf("ask %s: it answered %s", server, dns.RcodeToString[m.Rcode])
}
