package restart

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Client and server of this file speak just enough HTTP to cost little: what they use of
// the processor is missing where restarts are looked at.

const greeting = "still here\n"

var answer = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(greeting), greeting)

// workTime is what the server takes for a request with a body.
const workTime = 10 * time.Millisecond

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
			head := buf[:end+2]
			if key, ok := field(head, "Sec-WebSocket-Key: "); ok {
				echo(c, key)
				return
			}
			text, _ := field(head, "Content-Length: ")
			length, _ := strconv.Atoi(text)
			if have < end+4+length {
				break
			}
			have = copy(buf, buf[end+4+length:have])
			if length > 0 {
				<-time.After(workTime)
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}
}

// field finds the value behind a name, in any case, in a head.
func field(head []byte, name string) (string, bool) {
	at := bytes.Index(bytes.ToLower(head), bytes.ToLower([]byte(name)))
	if at < 0 {
		return "", false
	}
	value, _, _ := bytes.Cut(head[at+len(name):], []byte("\r\n"))
	return string(value), true
}

// asker sends requests to a web server.
type asker struct {
	addr  string
	host  string // name that it is asked by
	fresh bool   // a connection for every request, else they are used again
	body  string // not "": it is a POST
	// careful looks whether a connection was closed before it is used again, as every
	// client does.
	careful bool
	tls     *tls.Config // or nil

	mu   sync.Mutex
	idle []*conn
}

type conn struct {
	net.Conn
	socket *net.TCPConn // below it
	in     *bufio.Reader
	used   time.Time
}

// closed tells whether the peer has closed the connection.
func (c *conn) closed() bool {
	closed := true
	raw, err := c.socket.SyscallConn()
	if err != nil {
		return true
	}
	_ = raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		closed = err != unix.EAGAIN
		return true
	})
	return closed
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
	last, err := a.converse(c, deadline)
	if err != nil {
		c.Close()
		return err
	}
	if a.fresh {
		// A reset: the port would rest for a minute otherwise, and they would run out.
		return errors.Join(c.socket.SetLinger(0), c.socket.Close())
	}
	if last {
		return c.Close()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c.used = time.Now()
	a.idle = append(a.idle, c)
	for len(a.idle) > 0 && time.Since(a.idle[0].used) > keepIdle {
		a.idle[0].Close()
		a.idle = a.idle[1:]
	}
	return nil
}

func (a *asker) connect(ctx context.Context) (*conn, error) {
	for {
		a.mu.Lock()
		k := len(a.idle)
		if k == 0 {
			a.mu.Unlock()
			break
		}
		c := a.idle[k-1]
		a.idle = a.idle[:k-1]
		a.mu.Unlock()
		if !a.careful || !c.closed() {
			return c, nil
		}
		c.Close()
	}
	var d net.Dialer
	socket, err := d.DialContext(ctx, "tcp4", a.addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: socket, socket: socket.(*net.TCPConn)}
	if a.tls != nil {
		secure := tls.Client(socket, a.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			socket.Close()
			return nil, err
		}
		c.Conn = secure
	}
	c.in = bufio.NewReaderSize(c, 1<<10)
	return c, nil
}

// converse asks, and tells whether the answer says that it is the connection's last.
func (a *asker) converse(c *conn, deadline time.Time) (last bool, err error) {
	if err := c.SetDeadline(deadline); err != nil {
		return false, err
	}
	text := fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\n\r\n", a.host)
	if a.body != "" {
		text = fmt.Sprintf("POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", a.host, len(a.body), a.body)
	}
	if _, err := io.WriteString(c, text); err != nil {
		return false, err
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return false, fmt.Errorf("read answer: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return false, fmt.Errorf("read answer: %w", err)
	}
	if res.StatusCode != http.StatusOK || string(body) != greeting {
		return false, fmt.Errorf("%s: %.80q", res.Status, body)
	}
	return res.Close, nil
}
