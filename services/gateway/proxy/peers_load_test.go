package proxy

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The load of the comparison: one process, one thread on a core of its own, that
// plays all clients and the backend behind the proxy. It is an event loop too, so
// that it can keep the fastest proxy busy.

// loadOrder is what the load is told to do, a line of JSON on standard input.
type loadOrder struct {
	Address     string // of the proxy
	Secure      bool
	Size        int // of the response's body
	Connections int
	// Rate is how many requests arrive in a second, at random moments (Poisson)
	// and whatever became of those before; with 0 each connection sends the next
	// request once it has the response.
	Rate     float64
	Duration time.Duration
	// Hold opens the connections one after the other, has one request answered on
	// each, and leaves them idle until the next order.
	Hold bool
}

// loadReport is what became of it, a line of JSON on standard output.
type loadReport struct {
	Requests, Failed int
	P50, P99, P999   time.Duration // from a request's arrival to the end of its response
	Err              string
}

// load is the process's state.
type load struct {
	epoll    int
	slots    map[int32]loadConn
	listener int
	answers  map[string][]byte
	buf      []byte
	held     []*loadClient
	order    loadOrder
	request  []byte
	idle     []*loadClient
	waiting  []int64 // arrivals for which no connection was free
	over     bool
	report   loadReport
	took     []int32 // microseconds
}

type loadConn interface{ ready(l *load, events uint32) }

// benchLoad serves at an address, and follows orders.
func benchLoad(address string) {
	must(unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)) // or arrivals come in clusters of 50 µs
	listener, err := net.Listen("tcp", address)
	must(err)
	raw, err := listener.(*net.TCPListener).SyscallConn()
	must(err)
	l := &load{slots: map[int32]loadConn{}, answers: map[string][]byte{}, buf: make([]byte, 256<<10)}
	must(raw.Control(func(fd uintptr) { l.listener, err = unix.Dup(int(fd)) }))
	must(err)
	must(unix.SetNonblock(l.listener, true))
	l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	must(err)
	must(l.watch(l.listener, loadListener{}, unix.EPOLLIN))
	for _, size := range []int{16, 1 << 10, 100 << 10} {
		head := fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Sun, 22 Nov 2026 08:00:00 GMT\r\nContent-Type: application/octet-stream\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n", size)
		l.answers[strconv.Itoa(size)] = append([]byte(head), make([]byte, size)...)
	}
	orders := json.NewDecoder(os.Stdin)
	reports := json.NewEncoder(os.Stdout)
	lines := make(chan loadOrder)
	wake, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	must(err)
	must(l.watch(wake, loadWake{}, unix.EPOLLIN))
	go func() {
		for {
			var o loadOrder
			if err := orders.Decode(&o); err != nil {
				os.Exit(0)
			}
			unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
			lines <- o
		}
	}()
	for {
		select {
		case o := <-lines:
			var count [8]byte
			unix.Read(wake, count[:])
			must(reports.Encode(l.follow(o)))
		default:
			l.turn(-1) // serves while there is no order
		}
	}
}

type loadWake struct{}

func (loadWake) ready(*load, uint32) {}

func (l *load) watch(fd int, c loadConn, events uint32) error {
	l.slots[int32(fd)] = c
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (l *load) drop(fd int) {
	delete(l.slots, int32(fd))
	unix.Close(fd)
}

// turn works on what happens within a time; negative is for ever.
func (l *load) turn(timeout time.Duration) {
	var events [256]unix.EpollEvent
	var limit *unix.Timespec
	if timeout >= 0 {
		t := unix.NsecToTimespec(int64(timeout))
		limit = &t
	}
	// Without telling Go's scheduler while there is an order: it costs as much as the load.
	call := unix.RawSyscall6
	if timeout < 0 {
		call = unix.Syscall6
	}
	n, _, errno := call(unix.SYS_EPOLL_PWAIT2, uintptr(l.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(unsafe.Pointer(limit)), 0, 0)
	if errno != 0 {
		return
	}
	for _, e := range events[:n] {
		if c := l.slots[e.Fd]; c != nil {
			c.ready(l, e.Events)
		}
	}
}

// follow carries an order out.
func (l *load) follow(o loadOrder) loadReport {
	l.order, l.over, l.report, l.took = o, false, loadReport{}, l.took[:0]
	l.idle, l.waiting = l.idle[:0], l.waiting[:0]
	for _, c := range l.held {
		c.close(l)
	}
	l.held = nil
	l.request = fmt.Appendf(nil, "GET /%d HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n\r\n", o.Size, benchHost)
	clients, err := l.connect(o)
	if err != nil {
		return loadReport{Err: err.Error()}
	}
	end := monotonic() + int64(o.Duration)
	switch {
	case o.Hold:
	case o.Rate > 0:
		l.idle = append(l.idle, clients...)
		l.arrive(end)
	default:
		for _, c := range clients {
			c.send(l, monotonic())
		}
		for now := monotonic(); now < end; now = monotonic() {
			l.turn(time.Duration(end - now))
		}
	}
	l.over = true // what is on its way counts, nothing new is sent
	for patience := monotonic() + int64(10*time.Second); !o.Hold && l.unfinished(clients) && monotonic() < patience; {
		l.turn(10 * time.Millisecond)
	}
	for _, c := range clients {
		if c.since != 0 {
			l.report.Failed++
		}
		if !o.Hold {
			c.close(l)
		}
	}
	if o.Hold {
		l.held = clients
	}
	return l.sum()
}

func (l *load) unfinished(clients []*loadClient) bool {
	return len(l.waiting) > 0 || slices.ContainsFunc(clients, func(c *loadClient) bool { return c.since != 0 })
}

// arrive lets requests arrive until the end.
func (l *load) arrive(end int64) {
	next := monotonic()
	for now := next; now < end; now = monotonic() {
		for ; next <= now; next += int64(rand.ExpFloat64() / l.order.Rate * 1e9) {
			if n := len(l.idle); n > 0 {
				c := l.idle[n-1]
				l.idle = l.idle[:n-1]
				c.send(l, next)
			} else {
				l.waiting = append(l.waiting, next)
			}
		}
		l.turn(time.Duration(max(min(next, end)-monotonic(), 0)))
	}
}

func (l *load) sum() loadReport {
	slices.Sort(l.took)
	at := func(share float64) time.Duration {
		if len(l.took) == 0 {
			return 0
		}
		return time.Duration(l.took[int(float64(len(l.took)-1)*share)]) * time.Microsecond
	}
	l.report.Requests = len(l.took)
	l.report.P50, l.report.P99, l.report.P999 = at(.5), at(.99), at(.999)
	return l.report
}

// monotonic is a clock in nanoseconds.
func monotonic() int64 { return int64(time.Since(loadEpoch)) + 1 }

var loadEpoch = time.Now()

// loadClient is one connection of a client.
type loadClient struct {
	fd         int
	secure     *tls.Conn
	since      int64 // arrival of the request that is being answered, or 0
	head       []byte
	have, want int // bytes of the response; want is 0 before its head is whole
}

func (l *load) connect(o loadOrder) ([]*loadClient, error) {
	clients := make([]*loadClient, 0, o.Connections)
	for range o.Connections {
		c, err := dialLoad(o.Address, o.Secure)
		if err != nil {
			return nil, err
		}
		if err := l.watch(c.fd, c, unix.EPOLLIN|unix.EPOLLET); err != nil {
			return nil, err
		}
		clients = append(clients, c)
		if !o.Hold {
			continue
		}
		// One after the other: many idle connections, not many requests at once.
		c.send(l, monotonic())
		for patience := monotonic() + int64(2*time.Second); c.since != 0; {
			if l.turn(time.Second); monotonic() > patience {
				return clients, nil // the proxy takes no more
			}
		}
	}
	return clients, nil
}

func dialLoad(address string, secure bool) (*loadClient, error) {
	to := netip.MustParseAddrPort(address)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	c := &loadClient{fd: fd}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if secure {
		c.secure = tls.Client(&loadRecords{fd: fd}, &tls.Config{InsecureSkipVerify: true, ServerName: benchHost, NextProtos: []string{"http/1.1"}})
		if err := c.secure.Handshake(); err != nil {
			return nil, err
		}
	}
	return c, unix.SetNonblock(fd, true)
}

// loadRecords is what a tls.Conn reads from and writes to: a descriptor that does
// not block once the handshake is over.
type loadRecords struct {
	net.Conn // nil
	fd       int
}

type notYet struct{}

func (notYet) Error() string   { return "nothing to read yet" }
func (notYet) Timeout() bool   { return true }
func (notYet) Temporary() bool { return true }

func (r *loadRecords) Read(p []byte) (int, error) {
	switch n, err := unix.Read(r.fd, p); {
	case err == unix.EAGAIN:
		return 0, notYet{}
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	default:
		return n, nil
	}
}

func (r *loadRecords) Write(p []byte) (int, error) {
	return unix.Write(r.fd, p)
}

func (c *loadClient) close(l *load) { l.drop(c.fd) }

func (c *loadClient) send(l *load, since int64) {
	c.since, c.have, c.want, c.head = since, 0, 0, c.head[:0]
	var err error
	if c.secure != nil {
		_, err = c.secure.Write(l.request)
	} else {
		_, err = unix.Write(c.fd, l.request)
	}
	if err != nil {
		c.fail(l)
	}
}

// fail gives the connection up; it takes no more requests.
func (c *loadClient) fail(l *load) {
	if c.since != 0 {
		c.since = 0
		l.report.Failed++
	}
	unix.Shutdown(c.fd, unix.SHUT_RDWR)
}

func (c *loadClient) ready(l *load, _ uint32) {
	for c.since != 0 {
		n, err := c.read(l.buf)
		var none notYet
		switch {
		case err == unix.EAGAIN, errors.As(err, &none):
			return
		case err != nil || n == 0:
			c.fail(l)
			return
		}
		c.take(l, l.buf[:n])
		if c.secure == nil && n < len(l.buf) {
			return
		}
	}
}

func (c *loadClient) read(p []byte) (int, error) {
	if c.secure != nil {
		return c.secure.Read(p)
	}
	return unix.Read(c.fd, p)
}

// take reads a part of the response.
func (c *loadClient) take(l *load, p []byte) {
	c.have += len(p)
	if c.want == 0 {
		c.head = append(c.head, p[:min(len(p), 1<<10)]...)
		end := bytes.Index(c.head, []byte("\r\n\r\n"))
		if end < 0 {
			return
		}
		c.want = end + 4 + l.order.Size
	}
	if c.have < c.want {
		return
	}
	now := monotonic()
	if c.have > c.want || !bytes.HasPrefix(c.head, []byte("HTTP/1.1 200")) {
		c.fail(l)
		return
	}
	l.took = append(l.took, int32((now-c.since)/1000))
	c.since = 0
	switch {
	case l.order.Hold:
	case len(l.waiting) > 0:
		since := l.waiting[0]
		l.waiting = l.waiting[1:]
		c.send(l, since)
	case l.order.Rate > 0:
		l.idle = append(l.idle, c)
	case !l.over:
		c.send(l, now)
	}
}

// loadListener accepts the proxy's connections.
type loadListener struct{}

func (loadListener) ready(l *load, _ uint32) {
	for {
		fd, _, err := unix.Accept4(l.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if l.watch(fd, &loadServer{fd: fd}, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLET) != nil {
			unix.Close(fd)
		}
	}
}

// loadServer is one connection of the proxy: /SIZE is answered with so many bytes.
type loadServer struct {
	fd  int
	in  []byte
	out []byte // what the kernel did not take yet
}

func (s *loadServer) ready(l *load, _ uint32) {
	if len(s.out) > 0 && !s.write(l, s.out) {
		return
	}
	for {
		n, err := unix.Read(s.fd, l.buf)
		if err == unix.EAGAIN {
			return
		}
		if err != nil || n == 0 {
			l.drop(s.fd)
			return
		}
		in := append(s.in, l.buf[:n]...)
		for {
			end := bytes.Index(in, []byte("\r\n\r\n"))
			if end < 0 {
				break
			}
			_, target, _ := bytes.Cut(in[:end], []byte(" /"))
			target, _, _ = bytes.Cut(target, []byte(" "))
			in = in[end+4:]
			if !s.write(l, l.answers[string(target)]) {
				return
			}
		}
		s.in = append(s.in[:0], in...)
		if n < len(l.buf) {
			return
		}
	}
}

// write reports whether the connection still works.
func (s *loadServer) write(l *load, p []byte) bool {
	for len(p) > 0 {
		n, err := unix.Write(s.fd, p)
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			l.drop(s.fd)
			return false
		}
		p = p[n:]
	}
	s.out = p
	return true
}

// loader is the load as the benchmark sees it.
type loader struct {
	orders  *json.Encoder
	reports *json.Decoder
}

func (l *loader) follow(o loadOrder) (loadReport, error) {
	var r loadReport
	if err := l.orders.Encode(o); err != nil {
		return r, err
	}
	if err := l.reports.Decode(&r); err != nil {
		return r, fmt.Errorf("read the load's report: %w", err)
	}
	if r.Err != "" {
		return r, errors.New(r.Err)
	}
	return r, nil
}
