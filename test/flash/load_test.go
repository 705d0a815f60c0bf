package flash

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// answer is what became of one request.
type answer struct {
	due  time.Duration // since the load began
	took time.Duration // from when it was due
	err  error
}

// load sends requests at the times that a plan says, whether or not others are answered.
type load struct {
	address string
	request string // as it is sent
	timeout time.Duration

	began   time.Time
	mu      sync.Mutex // guards following
	answers []answer
	idle    []*conn
	open    atomic.Int32
	most    atomic.Int32 // connections at the same time
}

// conn is a connection that carries one request at a time.
type conn struct {
	net.Conn
	read *bufio.Reader
}

// phase is a part of a plan.
type phase struct {
	rate int // requests a second
	last time.Duration
}

// run carries out a plan and returns when everything is answered.
func (l *load) run(plan []phase) {
	l.began = time.Now()
	var sending sync.WaitGroup
	due := time.Duration(0)
	for _, p := range plan {
		end := due + p.last
		gap := time.Second / time.Duration(p.rate)
		for ; due < end; due += gap {
			if ahead := due - time.Since(l.began); ahead > 500*time.Microsecond {
				time.Sleep(ahead)
			}
			at := due
			sending.Go(func() { l.send(at) })
		}
		due = end
	}
	sending.Wait()
	for _, c := range l.idle {
		c.Close()
	}
}

func (l *load) send(due time.Duration) {
	err := l.exchange()
	a := answer{due: due, took: time.Since(l.began) - due, err: err}
	l.mu.Lock()
	l.answers = append(l.answers, a)
	l.mu.Unlock()
}

func (l *load) exchange() error {
	c, err := l.connection()
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(l.timeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, l.request); err != nil {
		c.Close()
		return err
	}
	status, last, err := c.response()
	if err == nil && status != 200 {
		err = fmt.Errorf("status %d", status)
	}
	if err != nil || last {
		c.Close()
		return err
	}
	l.mu.Lock()
	l.idle = append(l.idle, c)
	l.mu.Unlock()
	l.open.Add(-1)
	return nil
}

// response reads a response, with as little work as possible: the generator
// shares the machine with what it measures.
func (c *conn) response() (status int, last bool, err error) {
	length, chunked := 0, false
	for first := true; ; first = false {
		line, err := c.read.ReadSlice('\n')
		if err != nil {
			return 0, true, err
		}
		line = bytes.TrimRight(line, "\r\n")
		switch name, value, _ := bytes.Cut(line, []byte(":")); {
		case first:
			fields := bytes.Fields(line)
			if len(fields) < 2 {
				return 0, true, fmt.Errorf("a response begins with %q", line)
			}
			status, _ = strconv.Atoi(string(fields[1]))
		case len(line) == 0 && chunked:
			return status, last, c.chunks()
		case len(line) == 0:
			_, err := c.read.Discard(length)
			return status, last, err
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, true, err
			}
		case bytes.EqualFold(name, []byte("Connection")):
			last = bytes.EqualFold(bytes.TrimSpace(value), []byte("close"))
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		}
	}
}

// chunks reads over a chunked body without trailers.
func (c *conn) chunks() error {
	for {
		line, err := c.read.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return err
		}
		if _, err := c.read.Discard(int(size) + 2); err != nil || size == 0 {
			return err
		}
	}
}

// connection is an unused one, or a new one.
func (l *load) connection() (*conn, error) {
	if n := l.open.Add(1); n > l.most.Load() {
		l.most.Store(n)
	}
	l.mu.Lock()
	if n := len(l.idle); n > 0 {
		c := l.idle[n-1]
		l.idle = l.idle[:n-1]
		l.mu.Unlock()
		return c, nil
	}
	l.mu.Unlock()
	raw, err := net.DialTimeout("tcp", l.address, l.timeout)
	if err != nil {
		return nil, err
	}
	return &conn{raw, bufio.NewReaderSize(raw, 4<<10)}, nil
}

// summary is what clients saw of some requests.
type summary struct {
	Requests, Failed int
	P50, P99, Max    time.Duration
	Errors           map[string]int
}

// between sums up the requests that were due in a time.
func (l *load) between(from, to time.Duration) summary {
	s := summary{Errors: map[string]int{}}
	var took []time.Duration
	for _, a := range l.answers {
		if a.due < from || a.due >= to {
			continue
		}
		s.Requests++
		if a.err != nil {
			s.Failed++
			s.Errors[kindOf(a.err)]++
			continue
		}
		took = append(took, a.took)
	}
	if len(took) > 0 {
		slices.Sort(took)
		s.P50, s.P99, s.Max = took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
	}
	return s
}

// kindOf is an error without what differs between connections.
func kindOf(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// calm is when, after a time, the answers became quick for good: from then on the slowest
// of a hundred in each half second took no longer than limit. False if that never came.
func (l *load) calm(from, to, limit time.Duration) (time.Duration, bool) {
	const slot = 500 * time.Millisecond
	calm, found := from, false
	for at := from; at+slot <= to; at += slot {
		if s := l.between(at, at+slot); s.Failed > 0 || s.P99 > limit {
			found = false
		} else if !found {
			calm, found = at, true
		}
	}
	return calm, found
}
