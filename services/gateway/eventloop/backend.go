package eventloop

import (
	"cmp"
	"net/http"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/services/gateway/http1"
)

type backendState uint8

const (
	connecting backendState = iota
	waiting                 // for the head of the response
	answering               // in the body of the response
	parked                  // unused
)

// maxParked bounds the unused connections that a loop keeps for one backend.
const maxParked = 256

// backendConn is one connection to a backend.
type backendConn struct {
	socket
	to       *Backend
	client   *client // whose exchange it carries, or nil
	state    backendState
	reused   bool
	last     bool // it cannot carry another exchange
	deaf     bool // it takes no more of the request
	late     bool // the request is sent after the events of this batch
	deadline int64
	before   int64  // bytes that were sent before this request
	in       []byte // an incomplete head
	body     body
}

// unused are the connections to a backend that a loop keeps.
type unused struct {
	conns []*backendConn
	_     [40]byte // other loops write beside it
}

// unusedOf is the loop's own part of a backend.
func (l *loop) unusedOf(to *Backend) *unused {
	all := to.unused.Load()
	if all == nil {
		fresh := make([]unused, len(l.group.loops))
		to.unused.CompareAndSwap(nil, &fresh)
		all = to.unused.Load()
	}
	return &(*all)[l.number]
}

// take returns an unused connection, or nil.
func (l *loop) take(u *unused) *backendConn {
	n := len(u.conns)
	if n == 0 {
		return nil
	}
	b := u.conns[n-1]
	u.conns[n-1] = nil
	u.conns = u.conns[:n-1]
	l.parked--
	return b
}

// connect sends the client's request to a backend, over a parked connection if
// there is one.
func (l *loop) connect(to *Backend, c *client) {
	if c.exchangeLimit != 0 || c.timeouts.Attempt > 0 {
		c.limitAttempt()
	}
	u := l.unusedOf(to)
	for b := l.take(u); b != nil; b = l.take(u) {
		if l.now >= b.deadline { // on a busy machine nobody may have looked at it for long
			b.state = waiting
			b.close()
			continue
		}
		b.state, b.reused, b.deadline = waiting, true, 0
		b.client, c.backend = c, b
		if l.late.on {
			b.late = true
			l.late.requests = append(l.late.requests, b)
			return
		}
		if b.ask() {
			return
		}
	}
	l.dial(to, c)
}

// ask sends the request over a connection that was parked. It reports false when
// nothing was sent: then the connection is closed, and another one will do. A request that
// must not be sent twice is not sent at all where the backend has just closed.
func (b *backendConn) ask() bool {
	c := b.client
	if !c.exchange.Repeatable() && b.gone() {
		b.client, c.backend = nil, nil
		b.close()
		return false
	}
	b.before = b.wrote
	sent, ok := b.send(c.held)
	switch {
	case ok:
		b.retain(c.held[sent:])
		c.pump()
	case sent > 0:
		b.failed()
	default:
		b.client, c.backend = nil, nil
		b.close()
		return false
	}
	return true
}

// gone tells whether the peer has closed a parked connection.
func (b *backendConn) gone() bool {
	var one [1]byte
	_, _, err := unix.Recvfrom(b.fd, one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err != unix.EAGAIN
}

func (l *loop) dial(to *Backend, c *client) {
	b := &backendConn{socket: socket{loop: l, fd: -1}, to: to, client: c}
	c.backend = b
	address, family := sockaddr(to.address)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.dead = true
		b.failed()
		return
	}
	b.fd = fd
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	err = unix.Connect(fd, address)
	if err == nil || err == unix.EINPROGRESS {
		err = l.watch(fd, b, edge)
	}
	if err != nil {
		b.dead = true
		unix.Close(fd)
		b.failed()
		return
	}
	b.deadline = l.now + int64(cmp.Or(c.timeouts.Connect, l.config.ConnectTimeout))
}

func (b *backendConn) due() int64 { return b.deadline }

func (b *backendConn) expire() {
	switch {
	case b.state == connecting:
		b.failed()
	case b.state == answering && len(b.client.out) > 0: // waits for the client
		b.listen()
	case b.state == answering:
		b.failed()
	default:
		b.close() // parked
	}
}

// listen sets the time until which the backend must go on with its response.
func (b *backendConn) listen() {
	if d := b.client.timeouts.Idle; d > 0 {
		b.deadline = b.loop.now + int64(d)
	}
}

func (b *backendConn) ready(events uint32) {
	b.note(events)
	if b.state == parked {
		if b.gone() { // or talks without being asked
			b.close()
		}
		return
	}
	if b.state == connecting {
		if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
			return
		}
		b.connected()
	} else if events&unix.EPOLLOUT != 0 && len(b.out) > 0 {
		if !b.flush() {
			b.stopped()
		} else if len(b.out) == 0 {
			b.client.pump()
		}
	}
	if !b.dead {
		b.read()
	}
}

// connected sends the request over the new connection.
func (b *backendConn) connected() {
	if code, err := unix.GetsockoptInt(b.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
		b.failed()
		return
	}
	b.state, b.deadline = waiting, 0
	if !b.write(b.client.held) {
		b.stopped()
		return
	}
	b.client.pump()
}

// stopped notes that the backend takes no more of the request. It may have
// answered before it closed.
func (b *backendConn) stopped() {
	b.deaf, b.last = true, true
	b.readable, b.closing = true, true
	b.out = b.out[:0]
	b.read()
}

// read takes in as much of the response as the client takes.
func (b *backendConn) read() {
	for b.readable && !b.dead && b.client != nil && b.state != connecting {
		c := b.client
		if len(c.out) > 0 {
			c.progress()
			return // goes on when the client has read
		}
		n, result := b.socket.read(b.loop.buf)
		switch {
		case result == gotNothing:
			return
		case result == gotEnd && b.state == answering && b.body.untilEnd:
			b.last, c.last = true, true
			b.complete()
			return
		case result != gotBytes:
			b.failed()
			return
		}
		if got := b.loop.buf[:n]; b.state == waiting {
			b.head(got)
		} else {
			b.more(got)
		}
	}
}

// head reads the head of the response, which may be preceded by interim ones.
func (b *backendConn) head(p []byte) {
	in := b.in
	if len(in) > 0 {
		in = append(in, p...)
		p, b.in = in, nil
	}
	if in != nil {
		defer b.loop.drop(in)
	}
	h := &b.loop.resp
	for {
		err := http1.ParseResponse(p, h)
		if err == http1.ErrIncomplete && len(p) <= b.loop.config.MaxHead {
			b.keep(p)
			return
		}
		if err != nil || h.Status == http.StatusSwitchingProtocols {
			b.client.fail(Broken)
			return
		}
		if h.Status >= 200 {
			break
		}
		if h.Status != http.StatusContinue { // nobody has asked for that
			b.loop.text = append(h.AppendFields(http1.AppendStatus(b.loop.text[:0], p), p), '\r', '\n')
			if !b.client.deliver(b.loop.text) {
				b.client.abandon()
				return
			}
		}
		p = p[h.Len:]
	}
	b.answer(p, h, in == nil)
}

// keep saves an incomplete head.
func (b *backendConn) keep(p []byte) {
	if b.in == nil {
		b.in = b.loop.grab()
	}
	b.in = append(b.in[:0], p...)
}

// answer sends the head of the response and what has arrived of its body. inPlace
// tells that p is a part of the loop's buffer.
func (b *backendConn) answer(p []byte, h *http1.Head, inPlace bool) {
	c := b.client
	b.body = responseBody(h, c.isHead)
	used, err := b.body.scan(p[h.Len:])
	if err != nil {
		c.fail(Broken)
		return
	}
	passes := c.exchange.PassesResponse()
	var text []byte
	if !passes {
		text = c.exchange.AppendResponse(b.loop.text[:0], p[:h.Len], h, !c.streamed && c.body.done)
	}
	if !passes && text == nil {
		b.last = b.last || h.Close || h.Len+used < len(p) || !b.body.done
		b.leave()
		c.attempt(Refused)
		return
	}
	b.state = answering
	b.listen()
	if c.limit != c.exchangeLimit {
		c.limitTo(c.exchangeLimit) // the attempt was in time
	}
	b.last = b.last || h.Close || h.Len+used < len(p)
	c.status = h.Status
	c.last = c.last || b.body.untilEnd || c.port.closing()
	if passes && inPlace && !c.last && h.Whole() {
		c.sent += int64(used)
		b.pass(p[:h.Len+used])
		return
	}
	if passes {
		text = c.exchange.AppendResponse(b.loop.text[:0], p[:h.Len], h, false)
	}
	if c.last {
		text = append(text, "Connection: close\r\n"...)
	}
	b.loop.text = append(text, '\r', '\n')
	c.sent += int64(used)
	b.pass(b.loop.join(b.loop.text, p[h.Len:h.Len+used], inPlace))
}

// join puts a head before a body. Where there is room for it in the loop's buffer,
// the body stays where it is.
func (l *loop) join(head, body []byte, inPlace bool) []byte {
	at := cap(l.room) - cap(body)
	if !inPlace || at < len(head) {
		l.text = append(head, body...)
		return l.text
	}
	copy(l.room[at-len(head):], head)
	return l.room[at-len(head) : at+len(body)]
}

// more sends the next bytes of the body.
func (b *backendConn) more(p []byte) {
	used, err := b.body.scan(p)
	if err != nil {
		b.failed()
		return
	}
	b.last = b.last || used < len(p)
	b.client.sent += int64(used)
	b.listen()
	b.pass(p[:used])
}

// pass delivers to the client, and completes the exchange when that was all.
func (b *backendConn) pass(p []byte) {
	c := b.client
	if !c.deliver(p) {
		c.abandon()
		return
	}
	if b.body.done {
		b.complete()
		return
	}
	c.progress()
}

// complete ends the exchange.
func (b *backendConn) complete() {
	c := b.client
	b.leave()
	c.finish()
}

// leave takes the connection from its client, and parks it if it can be used again.
func (b *backendConn) leave() {
	c := b.client
	b.client, c.backend = nil, nil
	u := b.loop.unusedOf(b.to)
	if b.last || b.closing || !c.body.done || len(b.out) > 0 || b.to.gone.Load() || b.loop.draining || len(u.conns) >= maxParked {
		b.close()
	} else {
		b.state = parked
		b.deadline = b.loop.now + int64(b.loop.config.BackendIdle)
		u.conns = append(u.conns, b)
		b.loop.parked++
	}
}

// failed ends an attempt. The request goes to another backend if none of its
// effects can be repeated by that.
func (b *backendConn) failed() {
	c := b.client
	fresh := b.state == connecting || b.late // nothing was sent
	answered := b.state == answering || len(b.in) > 0
	unread := !answered && !fresh && b.unread()
	b.client, c.backend = nil, nil
	b.close()
	switch {
	case b.state == answering:
		c.abandon() // the client must see that the response is not whole
	case fresh:
		c.attempt(NotConnected)
	case !answered && c.repeatable():
		c.attempt(Broken)
	case unread && !c.streamed && c.body.done:
		c.attempt(NotConnected)
	default:
		c.fail(Broken)
	}
}

// unread tells whether the connection was reset and the kernel of the other side had acknowledged
// nothing of the request: the backend had closed when it arrived, and nobody will ever read it.
func (b *backendConn) unread() bool {
	if b.dead {
		return false
	}
	info, err := unix.GetsockoptTCPInfo(b.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	const syn = 1 // counts as a byte
	return err == nil && info.State == unix.BPF_TCP_CLOSE && info.Bytes_acked > 0 && info.Bytes_acked <= uint64(b.before)+syn
}

// close closes the connection; its client, if any, is not told.
func (b *backendConn) close() {
	if b.in != nil {
		b.loop.drop(b.in)
		b.in = nil
	}
	if b.dead {
		return
	}
	if b.state == parked {
		b.loop.unpark(b)
	}
	b.shut()
}

func (b *backendConn) cut() { b.close() }

// unpark takes a connection off the list of the unused ones.
func (l *loop) unpark(b *backendConn) {
	u := l.unusedOf(b.to)
	if i := slices.Index(u.conns, b); i >= 0 {
		u.conns = slices.Delete(u.conns, i, i+1)
		l.parked--
	}
}

// forget closes the unused connections to a backend.
func (l *loop) forget(to *Backend) {
	for _, b := range slices.Clone(l.unusedOf(to).conns) {
		b.close()
	}
}
