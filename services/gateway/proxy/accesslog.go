package proxy

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Lines are written together, and not by the event loops: one write for each
// request would cost as much as forwarding it, and a slow disk would stop others.
// Few large writes also let Go's scheduler rest, which looks after each that takes
// longer than some microseconds for a millisecond.
const (
	logBatch = 1 << 20
	logDelay = 100 * time.Millisecond
	// logLimit is how much a lane collects while the disk is slow. Beyond it whoever
	// logs waits for the disk: lines are not lost.
	logLimit = 4 << 20
)

// accessLog writes one JSON line for each request. The query is left out:
// people put secrets there. A nil log writes nothing.
type accessLog struct {
	lanes []logLane
	armed atomic.Bool // a flush is to come

	writing sync.Mutex // guards the following, and is taken before a lane's
	to      io.Writer
}

// logLane collects the lines of one event loop, or those of net/http.
type logLane struct {
	mu    sync.Mutex
	lines []byte
	clock clockText
	spare []byte   // the memory of lines that were written; guarded by accessLog.writing
	_     [64]byte // other loops write beside it
}

// logLine is what is said about a request.
type logLine struct {
	start                      time.Time
	peer                       netip.AddrPort // or invalid, and client says it
	client, method, host, path string
	protocol                   string
	status                     int
	bytes                      int64
	took                       time.Duration
	route, endpoint, agent     string
}

// newAccessLog returns nil without a writer.
func newAccessLog(w io.Writer, lanes int) *accessLog {
	if w == nil {
		return nil
	}
	return &accessLog{to: w, lanes: make([]logLane, lanes)}
}

// write adds a line to a lane. It is written soon.
func (l *accessLog) write(lane int, line *logLine) {
	if l == nil {
		return
	}
	a := &l.lanes[lane]
	a.mu.Lock()
	before := len(a.lines)
	a.lines = line.append(a.lines, &a.clock)
	after := len(a.lines)
	a.mu.Unlock()
	switch {
	case after >= logLimit:
		l.Flush()
	case before < logBatch && after >= logBatch:
		go l.Flush()
	case !l.armed.Load() && l.armed.CompareAndSwap(false, true):
		time.AfterFunc(logDelay, l.Flush)
	}
}

// Flush writes what has been collected.
func (l *accessLog) Flush() {
	if l == nil {
		return
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.armed.Store(false)
	for i := range l.lanes {
		a := &l.lanes[i]
		a.mu.Lock()
		lines := a.lines
		if len(lines) > 0 {
			a.lines = a.spare[:0]
		}
		a.mu.Unlock()
		if len(lines) == 0 {
			continue
		}
		_, _ = l.to.Write(lines) // a log that cannot be written must not fail the requests it is about
		a.spare = nil
		if cap(lines) <= 2*logBatch && len(lines) > cap(lines)/8 { // or it was a burst
			a.spare = lines
		}
	}
}

// append writes the line as JSON. It is written out by hand because it is a
// considerable part of what a request costs.
func (e *logLine) append(b []byte, clock *clockText) []byte {
	b = clock.append(append(b, `{"time":"`...), e.start)
	if e.peer.IsValid() {
		b = append(e.peer.AppendTo(append(b, `","client":"`...)), '"')
	} else {
		b = appendText(append(b, `","client":`...), e.client)
	}
	b = appendText(append(b, `,"method":`...), e.method)
	b = appendText(append(b, `,"host":`...), e.host)
	b = appendText(append(b, `,"path":`...), e.path)
	b = appendText(append(b, `,"protocol":`...), e.protocol)
	b = strconv.AppendInt(append(b, `,"status":`...), int64(e.status), 10)
	b = strconv.AppendInt(append(b, `,"bytes":`...), e.bytes, 10)
	b = strconv.AppendInt(append(b, `,"seconds":`...), int64(e.took/time.Second), 10)
	b = appendMicroseconds(append(b, '.'), int(e.took%time.Second)/1000)
	b = appendText(append(b, `,"route":`...), e.route)
	b = appendText(append(b, `,"endpoint":`...), e.endpoint)
	b = appendText(append(b, `,"agent":`...), e.agent)
	return append(b, '}', '\n')
}

// appendMicroseconds appends six digits.
func appendMicroseconds(b []byte, n int) []byte {
	return append(b, byte('0'+n/100000), byte('0'+n/10000%10), byte('0'+n/1000%10), byte('0'+n/100%10), byte('0'+n/10%10), byte('0'+n%10))
}

// clockText writes times as RFC 3339 with microseconds. It keeps what many of them
// have in common.
type clockText struct {
	second int64
	common []byte // up to the second
	zone   []byte
}

func (c *clockText) append(b []byte, t time.Time) []byte {
	if second := t.Unix(); second != c.second || c.common == nil {
		c.second = second
		c.common = t.AppendFormat(c.common[:0], "2006-01-02T15:04:05.")
		c.zone = t.AppendFormat(c.zone[:0], "Z07:00")
	}
	return append(appendMicroseconds(append(b, c.common...), t.Nanosecond()/1000), c.zone...)
}

func appendText(b []byte, value string) []byte {
	if !plainText(value) {
		text, _ := json.Marshal(value) // cannot fail
		return append(b, text...)
	}
	return append(append(append(b, '"'), value...), '"')
}

// plainText tells whether a string is the same in JSON. It looks at eight bytes at
// a time: x-n has the high bit of a byte set where that is less than n.
func plainText(s string) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	b := unsafe.Slice(unsafe.StringData(s), len(s))
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		quote, backslash, del := x^ones*'"', x^ones*'\\', x^ones*0x7f
		if (x|(x-ones*0x20)|(quote-ones)|(backslash-ones)|(del-ones))&highs != 0 {
			return plainBytes(b) // or a neighbour's borrow
		}
		b = b[8:]
	}
	return plainBytes(b)
}

func plainBytes(b []byte) bool {
	for _, c := range b {
		if c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
