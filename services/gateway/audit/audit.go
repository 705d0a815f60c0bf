// Package audit writes the gateway's audit log: one JSON line for each request that a
// policy wants to have recorded, with who, what, when and the result.
//
// It guarantees: nobody who records waits for the disk; the memory for lines that
// wait is bounded, and what has to be dropped is counted and said in the log itself;
// there are no queries, headers or bodies in it, so no credentials. Imported by the
// gateway and its data plane only.
package audit

import (
	"encoding/json"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Entry is one line.
type Entry struct {
	Time   time.Time `json:"time"`
	Client string    `json:"client"` // address
	// Who is nil for clients that have not proved who they are.
	Who    *Who   `json:"who,omitempty"`
	Method string `json:"method"`
	Host   string `json:"host"`
	Path   string `json:"path"`
	Route  string `json:"route"`
	Status int    `json:"status"`
	// Refused is the kind of the problem with which the gateway refused it.
	Refused string  `json:"refused,omitempty"`
	Policy  string  `json:"policy,omitempty"`
	Seconds float64 `json:"seconds"`
}

// Who sent a request, and how they proved it.
type Who struct {
	Name   string `json:"name"`
	Method string `json:"method"`
}

// How much may wait for the disk, and how long a line waits at least for others.
const (
	maxWaiting = 4 << 20
	delay      = 50 * time.Millisecond
)

// Log is an audit log. A nil Log records nothing. It may be used concurrently.
type Log struct {
	to      io.Writer
	dropped atomic.Int64 // of all time

	mu      sync.Mutex // guards the following
	waiting []byte
	lines   int
	unsaid  int64 // dropped since the log said so
	armed   bool

	writing sync.Mutex // one batch at a time
}

// New returns a log that writes to w, or nil without one.
func New(w io.Writer) *Log {
	if w == nil {
		return nil
	}
	return &Log{to: w}
}

// Record adds an entry.
func (l *Log) Record(e *Entry) {
	if l == nil {
		return
	}
	line, err := json.Marshal(e)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || len(l.waiting)+len(line) > maxWaiting {
		l.drop(1)
		return
	}
	l.waiting = append(append(l.waiting, line...), '\n')
	l.lines++
	if !l.armed {
		l.armed = true
		time.AfterFunc(delay, l.Flush)
	}
}

// drop counts lines that are lost. The lock is held.
func (l *Log) drop(n int) {
	l.unsaid += int64(n)
	l.dropped.Add(int64(n))
}

// Flush writes what waits.
func (l *Log) Flush() {
	if l == nil {
		return
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	batch, lines, unsaid := l.waiting, l.lines, l.unsaid
	l.waiting, l.lines, l.unsaid, l.armed = nil, 0, 0, false
	l.mu.Unlock()
	if unsaid > 0 {
		said, _ := json.Marshal(struct { // cannot fail
			Time    time.Time `json:"time"`
			Dropped int64     `json:"dropped"`
		}{time.Now(), unsaid})
		batch = append(append(said, '\n'), batch...)
	}
	if len(batch) == 0 {
		return
	}
	if _, err := l.to.Write(batch); err != nil {
		l.mu.Lock()
		l.unsaid += unsaid
		l.drop(lines)
		l.mu.Unlock()
	}
}

// Dropped counts the lines that could not be written.
func (l *Log) Dropped() int64 {
	if l == nil {
		return 0
	}
	return l.dropped.Load()
}
