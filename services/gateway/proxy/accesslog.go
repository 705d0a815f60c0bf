package proxy

import (
	"encoding/json"
	"io"
	"strconv"
	"sync"
	"time"
)

// Lines are written together: one write for each request would cost as much as
// forwarding it.
const (
	logBatch = 32 << 10
	logDelay = 100 * time.Millisecond
)

// accessLog writes one JSON line for each request. The query is left out:
// people put secrets there. A nil log writes nothing.
type accessLog struct {
	mu      sync.Mutex
	to      io.Writer
	lines   []byte
	pending *time.Timer // writes what has been collected, or nil
}

// logLine is what is said about a request.
type logLine struct {
	start                      time.Time
	client, method, host, path string
	protocol                   string
	status                     int
	bytes                      int64
	took                       time.Duration
	route, endpoint, agent     string
}

// newAccessLog returns nil without a writer.
func newAccessLog(w io.Writer) *accessLog {
	if w == nil {
		return nil
	}
	return &accessLog{to: w}
}

func (l *accessLog) write(line *logLine) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = line.append(l.lines)
	switch {
	case len(l.lines) >= logBatch:
		l.flush()
	case l.pending == nil:
		l.pending = time.AfterFunc(logDelay, l.Flush)
	}
}

// Flush writes what has been collected.
func (l *accessLog) Flush() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
}

// flush needs the lock. A log that cannot be written must not fail the requests
// that it is about.
func (l *accessLog) flush() {
	if l.pending != nil {
		l.pending.Stop()
		l.pending = nil
	}
	if len(l.lines) > 0 {
		_, _ = l.to.Write(l.lines)
		l.lines = l.lines[:0]
	}
}

// append writes the line as JSON. It is written out by hand because it is a
// considerable part of what a request costs.
func (e *logLine) append(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = e.start.AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	b = appendText(b, "client", e.client)
	b = appendText(b, "method", e.method)
	b = appendText(b, "host", e.host)
	b = appendText(b, "path", e.path)
	b = appendText(b, "protocol", e.protocol)
	b = strconv.AppendInt(append(b, `,"status":`...), int64(e.status), 10)
	b = strconv.AppendInt(append(b, `,"bytes":`...), e.bytes, 10)
	b = strconv.AppendFloat(append(b, `,"seconds":`...), float64(e.took.Microseconds())/1e6, 'f', -1, 64)
	b = appendText(b, "route", e.route)
	b = appendText(b, "endpoint", e.endpoint)
	b = appendText(b, "agent", e.agent)
	return append(b, '}', '\n')
}

func appendText(b []byte, key, value string) []byte {
	b = append(append(append(b, `,"`...), key...), `":`...)
	for i := range len(value) {
		if c := value[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			text, _ := json.Marshal(value) // cannot fail
			return append(b, text...)
		}
	}
	return append(append(append(b, '"'), value...), '"')
}
