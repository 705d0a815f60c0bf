package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/http1"
)

// errMalformed is what net/http reads where a client's HTTP/1.1 is malformed or
// ambiguous. It answers 400 and closes the connection.
var errMalformed = errors.New("the request is malformed")

// strictConn has net/http read no HTTP/1.1 that the event loop would refuse: it
// takes line ends, lengths and chunks from others than the specification allows,
// and a connection that was handed over for one odd request stays with it. What
// is malformed never arrives whole.
type strictConn struct {
	net.Conn
	maxHead int

	read    []byte // read from Conn and not by net/http
	allowed int    // bytes of it that net/http may have
	end     error  // io.EOF when the client has closed its side
	raw     bool   // no HTTP/1.1 (any more)
	later   bool   // a request was read before
	head    []byte // of the request that is being read
	inBody  bool
	chunked bool
	chunks  http1.Chunks
	left    int64
	parsed  http1.Head

	bad atomic.Bool // what follows must not be read

	mu    sync.Mutex    // guards following
	wake  chan struct{} // closed when awake
	awake bool
}

// strict wraps a connection that was handed over, unless it is HTTP/2 by TLS.
func strict(c net.Conn, maxHead int) net.Conn {
	switch c.(type) {
	case *eventloop.Conn, *eventloop.TLSConn:
		return &strictConn{Conn: c, maxHead: maxHead}
	}
	return c
}

// Read returns what is well-formed.
func (c *strictConn) Read(p []byte) (int, error) {
	if c.raw && c.allowed == 0 {
		return c.Conn.Read(p)
	}
	for c.allowed == 0 {
		err := c.end
		if c.bad.Load() {
			err = errMalformed
		}
		if err == nil {
			err = c.more(p)
		}
		if err != nil && c.ahead(p) {
			timer := time.NewTimer(aheadMax)
			defer timer.Stop()
			select {
			case <-c.woken():
				return 0, os.ErrDeadlineExceeded
			case <-timer.C:
			}
		}
		if err != nil {
			return 0, err
		}
	}
	n := copy(p, c.read[:c.allowed])
	c.allowed -= n
	if c.read = c.read[:copy(c.read, c.read[n:])]; len(c.read) == 0 {
		c.read = nil
	}
	return n, nil
}

// more reads as much as p holds.
func (c *strictConn) more(p []byte) error {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.read = append(c.read, p[:n]...)
		c.judge()
		return nil
	}
	if err == io.EOF {
		c.end = err
	}
	return err
}

// aheadMax is how long a request may take whose client has closed its side: it may
// be waiting for the answer, or be gone.
const aheadMax = time.Minute

// ahead tells whether net/http only looks one byte ahead while it serves a request.
// It takes an error there for the client's leaving and gives the request up; but
// the client may have closed its side only, or made a mistake after it.
func (c *strictConn) ahead(p []byte) bool {
	return len(p) == 1 && c.later && (c.bad.Load() || c.end != nil)
}

// woken is closed when net/http does not look ahead any more.
func (c *strictConn) woken() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wake == nil {
		c.wake = make(chan struct{})
	}
	return c.wake
}

// SetReadDeadline also ends the looking ahead.
func (c *strictConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	past := !t.IsZero() && !t.After(time.Now())
	if c.wake == nil {
		c.wake = make(chan struct{})
	}
	if past && !c.awake {
		close(c.wake)
	} else if !past && c.awake {
		c.wake = make(chan struct{})
	}
	c.awake = past
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline is for both directions.
func (c *strictConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.Conn.SetWriteDeadline(t))
}

// What a client goes on sending after a mistake is read for so long, and so much of it.
const (
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

// Close also ends the looking ahead. Closing while the client is still sending would
// reset the connection, and the answer that says why might be lost with it (RFC 9112,
// section 9.6).
func (c *strictConn) Close() error {
	_ = c.SetReadDeadline(time.Unix(1, 0))
	if !c.bad.Load() {
		return c.Conn.Close()
	}
	go func() {
		_ = c.CloseWrite()
		_ = c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
		_ = c.Conn.Close()
	}()
	return nil
}

// judge allows what is well-formed of what was read.
func (c *strictConn) judge() {
	for c.allowed < len(c.read) && !c.bad.Load() {
		rest := c.read[c.allowed:]
		switch {
		case c.raw:
			c.allowed = len(c.read)
		case c.inBody:
			c.body(rest)
		default:
			c.heading(rest)
		}
	}
}

// body allows the body up to its end.
func (c *strictConn) body(rest []byte) {
	if !c.chunked {
		n := min(int64(len(rest)), c.left)
		c.allowed += int(n)
		c.left -= n
		c.inBody = c.left > 0
		return
	}
	used, done, err := c.chunks.Scan(rest)
	if err != nil {
		c.bad.Store(true)
		used = max(0, used-1) // the last byte is the one that is wrong
	}
	c.allowed += used
	c.inBody = !done
}

// heading allows a head; its last bytes only if the whole of it is well-formed.
func (c *strictConn) heading(rest []byte) {
	had := len(c.head)
	from := max(0, had-3)
	c.head = append(c.head, rest...)
	end := bytes.Index(c.head[from:], []byte("\n\r\n"))
	if end >= 0 {
		c.head = c.head[:from+end+3]
	}
	h := &c.parsed
	switch {
	case bareLF(c.head, from):
		c.spoil(had)
		return
	case end < 0:
		if len(c.head) > c.maxHead+(8<<10) { // net/http has answered 431 before
			c.spoil(had)
			return
		}
		c.allowed += len(rest)
		return
	case http1.ParseRequest(c.head, h) != nil:
		c.spoil(had)
		return
	case h.Unusual&http1.Preface != 0:
		c.preface(had)
		return
	}
	c.allowed += h.Len - had
	c.head, c.later = nil, true
	c.chunked, c.chunks, c.left = h.Chunked, http1.Chunks{}, max(h.ContentLength, 0)
	c.inBody = c.chunked || c.left > 0
	// What follows is another protocol, or the connection ends: see recorder.
	c.raw = h.Unusual&http1.Upgrade != 0
}

// preface lets HTTP/2 without TLS begin, as the first on a connection.
func (c *strictConn) preface(had int) {
	if c.later {
		c.spoil(had)
		return
	}
	c.allowed += len(c.head) - had
	c.raw, c.head = true, nil
}

// peeked is how much of a request net/http must see to answer it: what it looks at
// while it serves the one before, and before it begins with this one.
const peeked = 4

// spoil keeps what came last of a malformed head.
func (c *strictConn) spoil(had int) {
	c.bad.Store(true)
	c.allowed += min(max(0, peeked-had), len(c.head)-had)
}

// bareLF finds a line end after from, in b, that is no CRLF.
func bareLF(b []byte, from int) bool {
	for at := from; ; at++ {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return false
		}
		if at += i; at == 0 || b[at-1] != '\r' {
			return true
		}
	}
}

// CloseWrite lets net/http close in two steps, so that its last answer is not lost
// with a reset.
func (c *strictConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// readDeadlines are set while a request is served. The Transport may read the body
// on after that, when the backend has answered early; there is no response writer
// to ask any more then.
type readDeadlines struct {
	control *http.ResponseController

	mu   sync.Mutex // guards following
	over bool
}

func (d *readDeadlines) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.over {
		_ = d.control.SetReadDeadline(t) // both kinds of connection can
	}
}

func (d *readDeadlines) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
}

// clientBody bounds how long the client's body may stand still, if stall is not 0,
// and notes whether it is malformed, rather than cut off.
type clientBody struct {
	io.ReadCloser
	deadlines *readDeadlines
	stall     time.Duration
	malformed *atomic.Bool
}

func (b clientBody) Read(p []byte) (int, error) {
	if b.stall > 0 {
		b.deadlines.set(time.Now().Add(b.stall))
	}
	n, err := b.ReadCloser.Read(p)
	if b.stall > 0 && (err == nil || err == io.EOF) {
		// The answer may take longer. After an error net/http reads on, to be able to
		// keep the connection; it must not wait then.
		b.deadlines.set(time.Time{})
	}
	var network net.Error
	if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &network) {
		b.malformed.Store(true)
	}
	return n, err
}
