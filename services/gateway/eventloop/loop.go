package eventloop

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/services/gateway/http1"
)

const (
	readSize  = 128 << 10 // of the buffer that all connections of a loop read into
	headRoom  = 4 << 10   // before it, for a head that goes out with the body that was read
	keepSize  = 16 << 10  // of the buffers in which connections keep bytes
	keepSpare = 128       // such buffers that a loop holds unused
	batch     = 256       // events taken at once
	accepts   = 16        // connections accepted at once, so that others get their turn
	// tick is how exactly timeouts are kept.
	tick = 250 * time.Millisecond
	// nap is how long a loop waits without telling Go's scheduler.
	nap = 5 * time.Millisecond
	// clockEvents is how many events are worked on before the clock is read again.
	clockEvents = 16
)

// watcher is what a descriptor's events are for.
type watcher interface {
	ready(events uint32)
	due() int64 // when expire is to be called, or 0
	expire()
}

// slot is a descriptor's place in a loop. Its generation tells events of a
// descriptor that was closed from those of the next one with the same number.
type slot struct {
	watcher    watcher
	generation int32
}

// loop is one thread's worth of connections. Everything but the fields below
// shared belongs to the goroutine of run.
type loop struct {
	group   *Group
	config  *Config
	number  int
	epoll   int
	slots   []slot
	started time.Time
	now     int64 // nanoseconds since then, of what is being worked on
	wall    int64 // the Unix time at which the loop started, by the wall clock of the last sweep
	swept   int64
	parked  int // unused connections to backends
	late    late
	spare   [][]byte
	room    []byte // the buffer of buf and what is before it
	buf     []byte // what was read last
	text    []byte // what is written next
	cipher  []byte // encrypted records to be written next
	request Request
	req     http1.Head
	resp    http1.Head

	timers   timers
	pauses   int // listening sockets that are paused
	draining bool
	quit     bool

	// Shared.
	clients atomic.Int32
	mu      sync.Mutex
	wake    int // eventfd; -1 when the loop has ended
	inbox   []func()
	drained chan struct{}
	ended   chan struct{}
}

func newLoop(g *Group, number int) (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	wake, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(epoll)
		return nil, err
	}
	l := &loop{
		group: g, config: &g.config, number: number, epoll: epoll, wake: wake,
		room: make([]byte, headRoom+readSize), started: time.Now(), now: 1,
		drained: make(chan struct{}), ended: make(chan struct{}),
	}
	l.buf = l.room[headRoom:]
	l.wall = l.started.UnixNano()
	if err := l.watch(wake, (*waker)(l), unix.EPOLLIN); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *loop) close() {
	unix.Close(l.epoll)
	l.mu.Lock()
	defer l.mu.Unlock()
	unix.Close(l.wake)
	l.wake = -1 // the number may be somebody else's descriptor soon
}

// post has f run on the loop, if that has not ended.
func (l *loop) post(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wake < 0 {
		return
	}
	if l.inbox = append(l.inbox, f); len(l.inbox) == 1 {
		one := [8]byte{1}
		unix.Write(l.wake, one[:]) // full means that it is awake
	}
}

type waker loop

func (w *waker) due() int64 { return 0 }
func (w *waker) expire()    {}
func (w *waker) ready(uint32) {
	var count [8]byte
	unix.Read(w.wake, count[:])
	w.mu.Lock()
	inbox := w.inbox
	w.inbox = nil
	w.mu.Unlock()
	for _, f := range inbox {
		f()
	}
}

// watch adds a descriptor.
func (l *loop) watch(fd int, w watcher, events uint32) error {
	for fd >= len(l.slots) {
		l.slots = append(l.slots, make([]slot, len(l.slots)+64)...)
	}
	s := &l.slots[fd]
	s.watcher = w
	s.generation++
	event := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: s.generation}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		s.watcher = nil
		return err
	}
	return nil
}

// unwatch forgets a descriptor, which the caller then closes or gives away.
func (l *loop) unwatch(fd int) { l.slots[fd].watcher = nil }

func (l *loop) run() {
	defer close(l.ended)
	defer l.close()
	events := make([]unix.EpollEvent, batch)
	for !l.quit {
		n := l.wait(events)
		l.tell()
		late := l.now-l.swept >= int64(tick)
		if late { // perhaps by far
			l.wall = time.Now().UnixNano() - l.now
		}
		l.late.on = n >= lateFrom
		for i := range events[:n] {
			if i%clockEvents == clockEvents-1 {
				l.tell()
			}
			e := &events[i]
			if s := &l.slots[e.Fd]; s.watcher != nil && s.generation == e.Pad {
				s.watcher.ready(e.Events)
			}
		}
		l.sendLate()
		l.giveUp()
		if late {
			l.sweep()
		}
		if l.draining {
			l.checkDrained()
		}
	}
	for fd := range l.slots {
		if c, ok := l.slots[fd].watcher.(interface{ cut() }); ok {
			c.cut()
		}
	}
}

// tell reads the clock.
func (l *loop) tell() { l.now = int64(time.Since(l.started)) }

// time is now by the wall clock.
func (l *loop) time() time.Time { return time.Unix(0, l.wall+l.now) }

// wait blocks until something happens. An idle loop sleeps for good: without
// connections there are no timeouts.
func (l *loop) wait(events []unix.EpollEvent) int {
	timeout := -1
	if l.clients.Load() > 0 || l.parked > 0 || l.draining || l.pauses > 0 {
		timeout = int(tick / time.Millisecond)
	}
	if len(l.timers) > 0 {
		until := (l.timers[0].limit - l.now + int64(time.Millisecond) - 1) / int64(time.Millisecond)
		timeout = min(timeout, int(max(until, 0)))
	}
	short := int(nap / time.Millisecond)
	if timeout >= 0 {
		short = min(short, timeout)
	}
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll),
		uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(short), 0, 0)
	if errno != 0 { // EINTR: the scheduler wants something
		return 0
	}
	if n > 0 || short == timeout {
		return int(n)
	}
	n, _, errno = syscall.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll),
		uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(timeout), 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// sweep ends what has waited for too long.
func (l *loop) sweep() {
	l.swept = l.now
	for fd := range l.slots {
		if w := l.slots[fd].watcher; w != nil {
			if due := w.due(); due != 0 && l.now >= due {
				w.expire()
			}
		}
	}
}

// drain waits for the clients to leave, after all ports were closed.
func (l *loop) drain() {
	l.draining = true
	for fd := range l.slots {
		if b, ok := l.slots[fd].watcher.(*backendConn); ok && b.state == parked {
			b.close()
		}
	}
}

func (l *loop) checkDrained() {
	if l.clients.Load() == 0 {
		select {
		case <-l.drained:
		default:
			close(l.drained)
		}
	}
}

func (l *loop) stop() { l.quit = true }

// endIdle closes the unused connections of a port when they have stayed unused for
// another while.
func (l *loop) endIdle(p *Port, farewell time.Duration) {
	for fd := range l.slots {
		if c, ok := l.slots[fd].watcher.(*client); ok && c.port == p && c.state == betweenRequests && len(c.in) == 0 {
			c.deadline = l.now + int64(farewell)
		}
	}
}

// grab returns an empty buffer, drop takes it back.
func (l *loop) grab() []byte {
	if n := len(l.spare); n > 0 {
		b := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return b
	}
	return make([]byte, 0, keepSize)
}

func (l *loop) drop(b []byte) {
	if cap(b) == keepSize && len(l.spare) < keepSpare {
		l.spare = append(l.spare, b[:0])
	}
}

// listen accepts for p. All loops share the socket; EPOLLEXCLUSIVE wakes one of
// them for a connection.
func (l *loop) listen(fd int, p *Port) {
	if err := l.watch(fd, &acceptor{loop: l, fd: fd, port: p}, unix.EPOLLIN|unix.EPOLLEXCLUSIVE); err != nil {
		l.config.Log.Error("accept connections", "error", err)
		unix.Close(fd)
	}
}

func (l *loop) unlisten(fd int) {
	if a, ok := l.slots[fd].watcher.(*acceptor); ok {
		unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, fd, nil) // the socket has other descriptors
		// This loop may have been the one that was woken for connections which wait by now:
		// nobody else would look for them before the next one comes.
		for a.acceptSome() {
		}
		if a.resume != 0 {
			l.pauses--
		}
		l.unwatch(fd)
		unix.Close(fd)
	}
}

type acceptor struct {
	loop *loop
	fd   int
	port *Port
	// resume is when to accept again after a pause, else 0.
	resume int64
}

func (a *acceptor) due() int64 { return a.resume }

// expire accepts again after a pause.
func (a *acceptor) expire() {
	a.resume = 0
	a.loop.pauses--
	a.loop.unwatch(a.fd)
	if err := a.loop.watch(a.fd, a, unix.EPOLLIN|unix.EPOLLEXCLUSIVE); err != nil {
		a.pause()
	}
}

// pause leaves connections in the kernel's queue for a moment: without free
// descriptors accepting fails, and would be asked for again at once.
func (a *acceptor) pause() {
	if a.resume == 0 {
		unix.EpollCtl(a.loop.epoll, unix.EPOLL_CTL_DEL, a.fd, nil)
		a.loop.pauses++
	}
	a.resume = a.loop.now + int64(tick)
	a.loop.slots[a.fd].watcher = a
}

func (a *acceptor) cut() { a.loop.unlisten(a.fd) }

func (a *acceptor) ready(uint32) { a.acceptSome() }

// acceptSome accepts what waits, up to a bound, and tells whether there may be more.
func (a *acceptor) acceptSome() bool {
	for range accepts {
		fd, peer, err := unix.Accept4(a.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			a.pause()
			return false
		default:
			return false
		}
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		to := a.loop.group.leastLoaded(a.loop)
		to.clients.Add(1)
		c := &client{socket: socket{fd: fd, loop: to}, port: a.port, peer: addrPort(peer)}
		switch {
		case a.port.Proxied != nil && a.port.Proxied(c.peer):
			go c.introduce()
		case a.port.TLS != nil:
			go c.handshake()
		case to == a.loop:
			c.begin()
		default:
			to.post(c.begin)
		}
	}
	return true
}

// leastLoaded prefers the accepting loop unless another one has much less to do.
func (g *Group) leastLoaded(self *loop) *loop {
	best := self
	for _, l := range g.loops {
		if l.clients.Load()+1 < best.clients.Load() {
			best = l
		}
	}
	return best
}
