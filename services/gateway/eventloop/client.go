package eventloop

import (
	"bytes"
	"crypto/tls"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/services/gateway/http1"
)

type clientState uint8

const (
	betweenRequests clientState = iota // or in the middle of a request's head
	inExchange
	flushing  // the last response waits for the client to read it
	lingering // everything is sent; the client may still be sending
)

// linger is how long a connection that ends early is read on, so that the answer
// is not lost with a reset (RFC 9112, section 9.6).
const linger = time.Second

// client is one client's connection and the exchange that goes on there.
type client struct {
	socket
	port *Port
	peer netip.AddrPort
	// introduced says that peer was named by a proxy.
	introduced bool
	state      clientState
	deadline   int64
	in         []byte // what was read of requests that have not begun
	fresh      bool   // in holds bytes that were not looked at
	reading    bool   // readRequests is at work
	secure     *tls.Conn
	record     *record

	exchange Exchange
	backend  *backendConn
	held     []byte // the request as far as it was read at first: for another attempt
	body     body
	streamed bool // more of the body than is held has gone to a backend
	isHead   bool // HEAD: the response has no body whatever its fields say
	last     bool // the connection ends with this exchange
	status   int  // of the response; 0 before its head
	sent     int64
	began    int64 // when the exchange did

	timeouts      Timeouts
	exchangeLimit int64 // when the exchange is given up; 0 is never
	limit         int64 // when it or the attempt is
	timer         int   // place in the loop's timers, counted from 1
	waits         bool  // for a backend
	waited        int   // how often it has begun to
	pausing       bool  // until the time of the next attempt
}

// begin takes the connection in.
func (c *client) begin() {
	if c.loop.quit {
		unix.Close(c.fd)
		c.loop.clients.Add(-1)
		return
	}
	c.deadline = c.loop.now + int64(c.loop.config.HeaderTimeout)
	if err := c.loop.watch(c.fd, c, edge); err != nil {
		unix.Close(c.fd)
		c.loop.clients.Add(-1)
		return
	}
	if c.secure != nil {
		c.readable = true // records may have arrived with the handshake
		c.readRequests()
	}
}

func (c *client) due() int64 { return c.deadline }

// expire ends a client that was too slow.
func (c *client) expire() {
	switch {
	case c.state == betweenRequests && len(c.in) > 0:
		c.refuse(requestTimeout)
	case c.exchange != nil:
		c.abandon()
	case c.state == betweenRequests:
		c.lastLook()
	default:
		c.close()
	}
}

// lastLook closes a connection that was not used for long enough, unless a request has
// arrived just now: closing it unread would reset it.
func (c *client) lastLook() {
	c.readable = true
	if c.record != nil {
		c.record.readable = true
	}
	c.readRequests()
	if !c.dead && c.state == betweenRequests && len(c.in) == 0 {
		c.close()
	}
}

func (c *client) ready(events uint32) {
	c.note(events)
	if c.record != nil && c.readable {
		c.record.readable = true
	}
	if events&unix.EPOLLOUT != 0 && len(c.out) > 0 {
		c.sendKept()
	}
	if c.dead {
		return
	}
	if c.broken || c.waits && c.closing { // who waits for a backend must not do so for a client that is gone
		c.abandon()
		return
	}
	switch c.state {
	case betweenRequests:
		c.readRequests()
	case inExchange:
		c.pump()
	case lingering:
		c.discard()
	}
}

// sendKept sends what was kept, and goes on when that was all.
func (c *client) sendKept() {
	if !c.flush() {
		c.abandon()
		return
	}
	c.progress()
	if len(c.out) == 0 {
		c.flushed()
	}
}

// flushed goes on where a slow client had stopped it.
func (c *client) flushed() {
	switch {
	case c.state == flushing:
		c.leave()
	case c.backend != nil:
		c.backend.read()
	}
}

// readPlain reads what the client says, decrypted.
func (c *client) readPlain(p []byte) (int, readResult) {
	if c.secure == nil {
		return c.read(p)
	}
	return c.readSecure(p)
}

// deliver sends to the client, encrypted where it must be.
func (c *client) deliver(p []byte) bool {
	if c.secure == nil {
		return c.writeLate(p)
	}
	return c.writeSecure(p)
}

// readRequests reads heads until an exchange begins or nothing more has arrived.
func (c *client) readRequests() {
	if c.reading {
		return // the one who is at it goes on
	}
	c.reading = true
	defer func() { c.reading = false }()
	for c.state == betweenRequests && !c.dead {
		if c.fresh {
			c.fresh = false
			if c.parse(c.in) {
				continue
			}
		}
		if !c.readable {
			return
		}
		n, result := c.readPlain(c.loop.buf)
		switch result {
		case gotNothing:
			return
		case gotEnd:
			c.last = true
			c.goodbye() // the client may still read the response before
			return
		case gotError:
			c.close()
			return
		}
		got := c.loop.buf[:n]
		if len(c.in) == 0 {
			c.parse(got)
			continue
		}
		// Looked at again only when it can have become whole, so that a head which
		// arrives byte by byte costs no more than another.
		before := max(0, len(c.in)-3)
		c.in = append(c.in, got...)
		c.fresh = bytes.Contains(c.in[before:], []byte("\n\r\n")) || bytes.Contains(c.in[before:], []byte("\n\n"))
		if !c.fresh && len(c.in) > c.loop.config.MaxHead {
			c.refuse(tooLarge(c.in))
		}
	}
}

// parse looks for a whole head in b, which is c.in or the loop's buffer. It
// reports whether it got further: an exchange, a refusal or a hand-over.
func (c *client) parse(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	h := &c.loop.req
	switch err := http1.ParseRequest(b, h); {
	case err == http1.ErrIncomplete && len(b) <= c.loop.config.MaxHead:
		c.keep(b)
		return false
	case err == http1.ErrIncomplete, err == nil && h.Len > c.loop.config.MaxHead:
		c.refuse(tooLarge(b[:min(len(b), c.loop.config.MaxHead)]))
	case err != nil:
		c.refuse(badRequest)
	case h.Unusual != 0:
		c.handOver(b)
	default:
		c.start(b, h)
	}
	return true
}

// keep saves bytes for which the time has not come.
func (c *client) keep(b []byte) {
	if len(c.in) == 0 {
		c.deadline = c.loop.now + int64(c.loop.config.HeaderTimeout)
	}
	if c.in == nil {
		c.in = c.loop.grab()
	}
	c.in = append(c.in[:0], b...) // b may be a part of it
}

// forgetIn drops what was kept.
func (c *client) forgetIn() {
	if c.in != nil {
		c.loop.drop(c.in)
		c.in = nil
	}
	c.fresh = false
}

// start begins an exchange with the request at the beginning of b.
func (c *client) start(b []byte, h *http1.Head) {
	request := c.about()
	request.Head, request.Raw = h, b[:h.Len]
	exchange := c.port.Policy.Begin(request)
	if exchange == nil {
		c.handOver(b)
		return
	}
	c.exchange, c.state = exchange, inExchange
	c.last, c.streamed, c.status, c.sent = h.Close, false, 0, 0
	c.isHead = string(h.Method) == "HEAD"
	c.body = requestBody(h)
	c.began = c.loop.now
	held := append(exchange.AppendRequest(c.loop.grab(), request), '\r', '\n')
	used, err := c.body.scan(b[h.Len:])
	if err != nil {
		c.loop.drop(held)
		c.refuse(badRequest)
		return
	}
	c.held = append(held, b[h.Len:h.Len+used]...)
	if rest := b[h.Len+used:]; len(rest) > 0 {
		c.keep(rest)
		c.fresh = true
	} else {
		c.forgetIn()
	}
	c.progress()
	if c.timeouts = exchange.Timeouts(); c.timeouts.Exchange > 0 {
		c.exchangeLimit = c.loop.now + int64(c.timeouts.Exchange)
	}
	c.attempt(NoBackend)
}

// about is the loop's request, with what is known of it by its connection.
func (c *client) about() *Request {
	l := c.loop
	l.request = Request{Client: c.peer, Time: l.time(), Loop: l.number}
	if c.secure != nil {
		l.request.TLS, l.request.ServerName = true, c.record.serverName
	}
	return &l.request
}

// progress sets the time until which the client must do something more.
func (c *client) progress() {
	switch {
	case c.state == inExchange && c.body.done && len(c.out) == 0:
		c.deadline = 0 // nothing is expected of the client
	case c.state == inExchange || c.state == flushing:
		c.deadline = c.loop.now + int64(c.loop.config.StallTimeout)
	}
}

// attempt sends the request to the next backend, or fails for want of one.
func (c *client) attempt(after Failure) {
	to, wait := c.exchange.Next(after)
	switch {
	case to != nil:
		c.loop.connect(to, c)
		return
	case wait > 0:
		c.pause(wait)
		return
	}
	if w, ok := c.exchange.(Waiter); ok && after == NoBackend {
		var waits bool
		if after, waits = c.wait(w); waits {
			return
		}
	}
	c.fail(after)
}

// repeatable tells whether the request may be sent once more, although a backend may
// have acted on it, and is still there.
func (c *client) repeatable() bool {
	return !c.streamed && c.body.done && c.exchange.Repeatable()
}

// pump sends the body of the request on, or reads what is left of one that was answered
// without a backend.
func (c *client) pump() {
	if c.state == inExchange && c.status != 0 && c.backend == nil {
		c.discardBody()
		return
	}
	for c.state == inExchange && !c.body.done && c.readable {
		b := c.backend
		if b == nil || b.state == connecting || b.late || len(b.out) > 0 || b.deaf {
			return
		}
		got, ok, err := c.readBody()
		if err != nil {
			c.spoiled()
			return
		}
		if !ok {
			return
		}
		c.streamed = true
		c.progress()
		if !b.write(got) {
			b.stopped()
			return
		}
	}
}

// readBody reads on in the request's body, into the loop's buffer; what comes behind the body is kept. It is not
// ok when nothing was there, or the client is gone and has been abandoned. An error is one of the body's form.
func (c *client) readBody() (got []byte, ok bool, err error) {
	n, result := c.readPlain(c.loop.buf)
	switch result {
	case gotNothing:
		return nil, false, nil
	case gotEnd, gotError:
		c.abandon()
		return nil, false, nil
	}
	got = c.loop.buf[:n]
	used, err := c.body.scan(got)
	if err != nil {
		return nil, false, err
	}
	if used < n {
		c.keep(got[used:])
		c.fresh = true
	}
	return got[:used], true, nil
}

// smallBody is what is read of a request that has been refused, so that its connection can
// go on.
const smallBody = 64 << 10

// small tells whether the client will have sent all of the request soon.
func (c *client) small() bool {
	return c.body.done || !c.body.chunked && !c.body.untilEnd && c.body.left <= smallBody
}

func (c *client) discardBody() {
	for !c.body.done && c.readable {
		_, ok, err := c.readBody()
		if err != nil {
			c.abandon()
		}
		if err != nil || !ok {
			return
		}
	}
	if c.body.done {
		c.finish()
	}
}

// spoiled ends an exchange whose request turned out malformed in its body.
func (c *client) spoiled() {
	if c.status != 0 {
		c.abandon()
		return
	}
	c.dropBackend()
	c.refuse(badRequest)
}

// finish ends an exchange whose response was delivered.
func (c *client) finish() {
	complete := c.body.done
	c.endExchange()
	if c.last || !complete {
		c.goodbye()
		return
	}
	c.state = betweenRequests
	c.deadline = c.loop.now + int64(c.loop.config.IdleTimeout)
	if farewell := c.port.farewell.Load(); farewell > 0 { // since the head was sent, which did not say so
		c.deadline = c.loop.now + farewell
	}
	if len(c.in) > 0 {
		c.deadline = c.loop.now + int64(c.loop.config.HeaderTimeout)
	}
	c.readRequests()
}

func (c *client) endExchange() {
	if c.exchange != nil {
		c.exchange.End(c.status, c.sent, time.Duration(c.loop.now-c.began))
		c.exchange = nil
		c.exchangeLimit, c.pausing = 0, false
		if c.limit != 0 {
			c.limitTo(0)
		}
	}
	c.waits = false
	if c.held != nil {
		c.loop.drop(c.held)
		c.held = nil
	}
}

// fail answers an exchange for which no backend answered. The connection goes on if no
// backend was asked and there is little left of the request to come: who sends a wrong
// credential, or too much, need not connect anew.
func (c *client) fail(f Failure) {
	c.dropBackend()
	asked := f != NoBackend && f != Crowded && f != Waited
	last := asked || c.last || !c.small() || c.port.closing()
	c.loop.text = c.exchange.AppendFailure(c.loop.text[:0], f, last)
	if c.isHead { // whose answer has no body
		head, _, _ := bytes.Cut(c.loop.text, []byte("\r\n\r\n"))
		c.loop.text = c.loop.text[:len(head)+4]
	}
	if last {
		c.answerLast(c.loop.text)
		return
	}
	if !c.deliver(c.loop.text) {
		c.abandon()
		return
	}
	if c.status = statusOf(c.loop.text); c.body.done {
		c.finish()
		return
	}
	c.progress()
	c.discardBody()
}

// refuse answers a request that cannot be understood.
func (c *client) refuse(r refusal) {
	if c.exchange == nil {
		c.port.Policy.Refused(c.about(), r.status)
	}
	c.loop.text = AppendProblem(c.loop.text[:0], r.status, r.detail, Close)
	c.answerLast(c.loop.text)
}

// answerLast sends a response after which the connection ends.
func (c *client) answerLast(text []byte) {
	ok := c.deliver(text)
	c.status = statusOf(text)
	c.endExchange()
	if !ok {
		c.close()
		return
	}
	c.goodbye()
}

// abandon ends everything because the client is gone or does not keep to the
// protocol.
func (c *client) abandon() {
	c.dropBackend()
	c.endExchange()
	c.close()
}

// dropBackend closes the backend's connection in the middle of an exchange.
func (c *client) dropBackend() {
	if b := c.backend; b != nil {
		c.backend, b.client = nil, nil
		b.close()
	}
}

// goodbye closes the connection once the client has got everything.
func (c *client) goodbye() {
	if c.secure != nil {
		c.notifyClose()
	}
	if len(c.out) > 0 {
		c.state = flushing
		c.progress()
		return
	}
	c.leave()
}

// leave closes the connection, whose client may still be sending.
func (c *client) leave() {
	if c.closing || (c.body.done && len(c.in) == 0 && !c.readable) {
		c.close()
		return
	}
	unix.Shutdown(c.fd, unix.SHUT_WR)
	c.state = lingering
	c.deadline = c.loop.now + int64(linger)
	c.discard()
}

func (c *client) discard() {
	for c.readable {
		if _, result := c.read(c.loop.buf); result == gotEnd || result == gotError {
			c.close()
			return
		}
	}
}

// close closes the connection now.
func (c *client) close() {
	if c.dead {
		return
	}
	c.forgetIn()
	c.shut()
	c.loop.clients.Add(-1)
}

func (c *client) cut() { c.abandon() }
