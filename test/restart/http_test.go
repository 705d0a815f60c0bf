package restart

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Client and server of this file speak just enough HTTP to cost little: what they use of
// the processor is missing where restarts are looked at.

const greeting = "still here\n"

var answer = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(greeting), greeting)

// answerAll answers every request on the connection with the greeting.
func answerAll(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 4<<10)
	for have := 0; ; {
		n, err := c.Read(buf[have:])
		if err != nil {
			return
		}
		have += n
		for {
			end := bytes.Index(buf[:have], []byte("\r\n\r\n"))
			if end < 0 {
				break
			}
			have = copy(buf, buf[end+4:have])
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}
}

// asker sends requests to a web server.
type asker struct {
	addr  string
	host  string // name that it is asked by
	fresh bool   // a connection for every request, else they are used again

	mu   sync.Mutex
	idle []*conn
}

type conn struct {
	net.Conn
	in   *bufio.Reader
	used time.Time
}

// keepIdle is less than the 75 s after which the gateway closes connections.
const keepIdle = 30 * time.Second

// ask sends one request. A client of a browser's kind would try again on a new connection
// when one that it kept turns out to be closed; this one counts it as a failure.
func (a *asker) ask(ctx context.Context) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	if err := converse(c, a.host, deadline); err != nil {
		c.Close()
		return err
	}
	if a.fresh {
		// A reset: the port would rest for a minute otherwise, and they would run out.
		return errors.Join(c.Conn.(*net.TCPConn).SetLinger(0), c.Close())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c.used = time.Now()
	a.idle = append(a.idle, c)
	for time.Since(a.idle[0].used) > keepIdle {
		a.idle[0].Close()
		a.idle = a.idle[1:]
	}
	return nil
}

func (a *asker) connect(ctx context.Context) (*conn, error) {
	a.mu.Lock()
	if k := len(a.idle); k > 0 {
		c := a.idle[k-1]
		a.idle = a.idle[:k-1]
		a.mu.Unlock()
		return c, nil
	}
	a.mu.Unlock()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", a.addr)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, in: bufio.NewReaderSize(c, 1<<10)}, nil
}

func converse(c *conn, host string, deadline time.Time) error {
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host); err != nil {
		return err
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if res.StatusCode != http.StatusOK || string(body) != greeting {
		return fmt.Errorf("%s: %.80q", res.Status, body)
	}
	return nil
}
