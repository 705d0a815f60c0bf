// Package eventloop carries HTTP/1.1 exchanges from clients to backends, one
// epoll loop per core, without a goroutine per connection.
//
// It knows sockets, messages and time, and nothing of routes: a [Policy] decides
// where a request goes and what its head becomes. What is not an ordinary
// HTTP/1.1 request (see http1.Unusual), and what the policy declines, is handed
// over to somebody else, usually net/http, with its connection and the bytes that
// were already read.
//
// Guarantees: bodies and heads are bounded in memory whatever either side sends
// or does not read; a request is sent a second time only when nothing of it can
// have been acted on, or the policy calls it repeatable; every exchange that was
// begun is ended exactly once; a message whose end two parties could see
// differently is refused. A [Policy] is called on the loops and must not block.
//
// A loop that has work to do waits for more without telling Go's scheduler, which
// would cost as much as a system call each time and more when sleeping is short.
// So that nothing else has to wait for the loops, [Start] sees to it that there are
// twice as many of the scheduler's processors.
//
// Linux only. Imported by the gateway's data plane only.
package eventloop

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/services/gateway/http1"
)

// Config says what limits a group keeps. Zero values are the defaults named.
type Config struct {
	Loops          int           // 0 is one for each core that the process may use
	HeaderTimeout  time.Duration // for a request's head; 0 is 10 s
	IdleTimeout    time.Duration // of a client's connection; 0 is 75 s
	StallTimeout   time.Duration // without progress of a body; 0 is 60 s
	ConnectTimeout time.Duration // to a backend; 0 is 2 s
	// BackendIdle is how long an unused connection to a backend is kept; 0 is 4 s,
	// less than the 5 s after which common servers close theirs: a request that is
	// sent while the server closes is lost.
	BackendIdle time.Duration
	MaxHead     int // bytes of a head; 0 is 64 KiB
	Log         *slog.Logger
}

// Port is one listening socket and what is done with its connections.
type Port struct {
	Policy Policy
	TLS    *tls.Config // or nil
	// HandOff takes a connection over for good; until it returns, the connection counts
	// as one of the group's. A TLS connection is a *tls.Conn,
	// or a *TLSConn when bytes had already been read from it. It may block.
	HandOff func(net.Conn)
	// Proxied says which peers' connections begin with a header of the PROXY
	// protocol, that names the client; nil for none.
	Proxied func(peer netip.AddrPort) bool
	// Divert says which TLS connections carry no HTTP, by the name that the client
	// asks for; nil for none. Stream takes those over for good, and may block.
	Divert func(serverName string) Diversion
	Stream func(c net.Conn, serverName string)

	// farewell is how long connections may stay unused once the port closes, in
	// nanoseconds; 0 while it is open.
	farewell atomic.Int64
}

// Diversion is what is done with a TLS connection.
type Diversion int

// The kinds of diversion.
const (
	NoDiversion Diversion = iota // it carries HTTP
	Decrypted                    // to Stream, after the handshake
	Encrypted                    // to Stream, with all bytes as the client sent them
	Refuse                       // nobody serves the name
)

// Policy decides about requests. Its methods are called concurrently by all loops.
type Policy interface {
	// Begin returns the exchange of a request, or nil to hand its connection over.
	Begin(*Request) Exchange
	// Refused reports a request that was answered with status because it cannot be
	// understood; it has no Head.
	Refused(r *Request, status int)
}

// Request is a request whose head has arrived. It and its parts are valid only
// during the call that it is given to.
type Request struct {
	Head   *http1.Head
	Raw    []byte         // the bytes that Head was read from
	Client netip.AddrPort // the peer
	Time   time.Time      // when it arrived, to about a tenth of a millisecond
	// Loop is the number of the loop that carries it, below [Group.Loops]. What is
	// kept for each loop needs no lock.
	Loop int
	TLS  bool
	// ServerName is the name that a TLS client asked for.
	ServerName string
}

// Exchange is one request and its response. The loop that began it calls its
// methods, one at a time, and End as the last.
type Exchange interface {
	// Next returns the backend for the next attempt, or nil when there is none. after is
	// NoBackend for the first one, and else what came of the one before. With a wait
	// instead of a backend it is called again after that time, with Paused.
	Next(after Failure) (to *Backend, wait time.Duration)
	// AppendRequest appends the head that backends get, without its empty line.
	AppendRequest(dst []byte, r *Request) []byte
	// Timeouts limit the exchange from now on.
	Timeouts() Timeouts
	// Repeatable tells whether the request may reach a second backend although
	// the first one may have acted on it.
	Repeatable() bool
	// PassesResponse tells that the client gets the response as it comes, but for
	// fields of this hop. AppendResponse is then not always asked, and refuses nothing.
	PassesResponse() bool
	// AppendResponse appends the head that the client gets, without its empty line. If
	// refusable, it may return nil instead: nobody gets this response, and Next is asked
	// for another backend, with Refused.
	AppendResponse(dst, raw []byte, h *http1.Head, refusable bool) []byte
	// AppendFailure appends a whole response, with "Connection: close" if it is the
	// connection's last.
	AppendFailure(dst []byte, f Failure, last bool) []byte
	// End reports the status that the client got, 0 for none, how many bytes of
	// body, and the time since the request arrived, as exact as that.
	End(status int, sent int64, took time.Duration)
}

// Failure is why there is no response.
type Failure int

// The kinds of failure.
const (
	NoBackend    Failure = iota // Next had none to begin with
	NotConnected                // nothing of the request could be sent
	Broken                      // the connection ended before the response, or that made no sense
	TimedOut                    // no response came within the Timeouts
	Refused                     // the exchange did not take the response
	Paused                      // for as long as Next wanted
	Crowded                     // Next had none, and as many exchanges as may wait already
	Waited                      // none came while the exchange waited
)

// Waiter is an [Exchange] that may wait for a backend.
type Waiter interface {
	// Wait is asked when Next has no backend. It returns how long the exchange waits
	// until it fails with f; 0 is not at all. After resume, which may be called once and
	// from any goroutine, Next is asked again. bytes is what the exchange takes of memory.
	Wait(bytes int, resume func()) (limit time.Duration, f Failure)
}

// Backend is one address that requests of one group are sent to. Connections to
// it are kept by the loops until [Group.Forget].
type Backend struct {
	address netip.AddrPort
	gone    atomic.Bool
	unused  atomic.Pointer[[]unused] // for each loop
}

// NewBackend makes a backend of an address.
func NewBackend(a netip.AddrPort) *Backend {
	return &Backend{address: netip.AddrPortFrom(a.Addr().Unmap(), a.Port())}
}

// cores is how many the process may use, as found when it started.
var cores = runtime.GOMAXPROCS(0)

// Group is a set of loops that share their listening sockets.
type Group struct {
	config Config
	loops  []*loop

	mu    sync.Mutex
	ports map[*Port][]int // the loops' descriptors of the listening socket
	ended bool
}

// Start starts the loops.
func Start(config Config) (*Group, error) {
	config.Loops = cmp.Or(config.Loops, cores)
	if atLeast := 2 * config.Loops; runtime.GOMAXPROCS(0) < atLeast {
		runtime.GOMAXPROCS(atLeast)
	}
	config.HeaderTimeout = cmp.Or(config.HeaderTimeout, 10*time.Second)
	config.IdleTimeout = cmp.Or(config.IdleTimeout, 75*time.Second)
	config.StallTimeout = cmp.Or(config.StallTimeout, time.Minute)
	config.ConnectTimeout = cmp.Or(config.ConnectTimeout, 2*time.Second)
	config.BackendIdle = cmp.Or(config.BackendIdle, 4*time.Second)
	config.MaxHead = cmp.Or(config.MaxHead, 64<<10)
	config.Log = cmp.Or(config.Log, slog.Default())
	g := &Group{config: config, ports: map[*Port][]int{}}
	for i := range config.Loops {
		l, err := newLoop(g, i)
		if err != nil {
			for _, l := range g.loops {
				l.close()
			}
			return nil, fmt.Errorf("start event loop: %w", err)
		}
		g.loops = append(g.loops, l)
	}
	for _, l := range g.loops {
		go l.run()
	}
	return g, nil
}

// Serve accepts the listener's connections for p until Close(p). The listener
// stays the caller's, who must not accept from it any more.
func (g *Group) Serve(listener *net.TCPListener, p *Port) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	if p.Divert != nil {
		p.TLS = diverting(p.TLS, p.Divert)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return net.ErrClosed
	}
	for _, l := range g.loops {
		fd := -1
		controlErr := raw.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) })
		if err = errors.Join(err, controlErr); err != nil {
			return fmt.Errorf("share listening socket: %w", err)
		}
		g.ports[p] = append(g.ports[p], fd)
		l.post(func() { l.listen(fd, p) })
	}
	return nil
}

// Farewell is how long connections of a port that closes may go on, so that a request
// which is already on its way is answered instead of reset; the answer says that it was
// the last.
const Farewell = 500 * time.Millisecond

// Close stops accepting for p. Connections that are open end with the exchange
// that they carry, or when none has begun for as long as farewell, which must be more
// than 0. A port that closes can be closed again, with another farewell.
func (g *Group) Close(p *Port, farewell time.Duration) {
	p.farewell.Store(int64(farewell))
	g.mu.Lock()
	fds := g.ports[p]
	delete(g.ports, p)
	ended := g.ended && len(fds) == 0 // the loops may be gone
	g.mu.Unlock()
	if ended {
		return
	}
	var closed sync.WaitGroup
	for i, l := range g.loops {
		closed.Add(1)
		l.post(func() {
			if len(fds) > 0 {
				l.unlisten(fds[i])
			}
			l.endIdle(p, farewell)
			closed.Done()
		})
	}
	closed.Wait()
}

// closing tells whether the port closes: each answer is then the last of its connection.
func (p *Port) closing() bool { return p.farewell.Load() > 0 }

// Forget closes the unused connections to a backend, and those in use as soon as
// their exchanges end.
func (g *Group) Forget(b *Backend) {
	b.gone.Store(true)
	for _, l := range g.loops {
		l.post(func() { l.forget(b) })
	}
}

// Loops is the number of loops.
func (g *Group) Loops() int { return len(g.loops) }

// Clients is the number of connections of clients.
func (g *Group) Clients() int {
	n := 0
	for _, l := range g.loops {
		n += int(l.clients.Load())
	}
	return n
}

// Drain stops accepting, lets exchanges finish, and ends the loops. When ctx ends
// first, connections are cut and its error is returned.
func (g *Group) Drain(ctx context.Context) error {
	g.mu.Lock()
	g.ended = true
	ports := make([]*Port, 0, len(g.ports))
	for p := range g.ports {
		ports = append(ports, p)
	}
	g.mu.Unlock()
	for _, p := range ports {
		g.Close(p, Farewell)
	}
	for _, l := range g.loops {
		l.post(l.drain)
	}
	var err error
	for _, l := range g.loops {
		select {
		case <-l.drained:
		case <-ctx.Done():
			err = fmt.Errorf("drain: %w", ctx.Err())
		}
	}
	for _, l := range g.loops {
		l.post(l.stop)
		<-l.ended
	}
	return err
}
