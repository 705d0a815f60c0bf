package eventloop

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// handshakeTimeout bounds a TLS handshake.
const handshakeTimeout = 10 * time.Second

// record is what a tls.Conn reads from and writes to: an ordinary connection
// during the handshake, the loop's socket after it.
//
// On the loop a read that would block answers with a temporary error, after
// which crypto/tls can be asked again. That is how it behaves, but nowhere
// promised: TestTLSRecordsInPieces guards it.
type record struct {
	net.Conn
	client     *client
	onLoop     bool
	readable   bool // of the socket; client.readable is about decrypted bytes
	serverName string

	diversion Diversion
	seen      []byte // what was read, until it is known that it is not diverted
	keeping   bool
}

// again is the temporary error.
type again struct{}

func (again) Error() string   { return "nothing to read yet" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

func (r *record) Read(p []byte) (int, error) {
	if !r.onLoop {
		n, err := r.Conn.Read(p)
		if r.keeping && r.diversion == NoDiversion {
			r.seen = append(r.seen, p[:n]...)
		}
		return n, err
	}
	if !r.readable {
		return 0, again{}
	}
	s := &r.client.socket
	was := s.readable
	n, result := s.read(p)
	r.readable, s.readable = s.readable, was
	switch result {
	case gotNothing:
		return 0, again{}
	case gotEnd:
		return 0, io.EOF
	case gotError:
		return 0, net.ErrClosed
	}
	return n, nil
}

func (r *record) Write(p []byte) (int, error) {
	if r.diversion == Encrypted || r.diversion == Refuse {
		return len(p), nil
	}
	if !r.onLoop {
		return r.Conn.Write(p)
	}
	l := r.client.loop
	l.cipher = append(l.cipher, p...)
	return len(p), nil
}

// RemoteAddr is the client, also where a proxy stands for it.
func (r *record) RemoteAddr() net.Addr {
	if r.client.introduced {
		return net.TCPAddrFromAddrPort(r.client.peer)
	}
	return r.Conn.RemoteAddr()
}

// kept is what was read of a connection that is diverted as it is.
func (r *record) kept() []byte {
	if r.diversion == Encrypted {
		return r.seen
	}
	return nil
}

// SetWriteDeadline is called by crypto/tls before it closes; the loop never waits.
func (r *record) SetWriteDeadline(t time.Time) error {
	if !r.onLoop {
		return r.Conn.SetWriteDeadline(t)
	}
	return nil
}

// handshake runs beside the loop and then gives the connection to it.
func (c *client) handshake() {
	conn, err := netConn(c.fd)
	if err != nil {
		c.refused()
		return
	}
	c.record = &record{Conn: conn, client: c, keeping: c.port.Divert != nil}
	c.secure = tls.Server(c.record, c.port.TLS)
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	err = c.secure.HandshakeContext(ctx)
	c.record.keeping, c.record.seen = false, c.record.kept()
	switch {
	case err == nil && c.record.diversion == Decrypted, c.record.diversion == Encrypted && errors.Is(err, errDiverted):
		c.stream()
		return
	case err != nil:
		conn.Close()
		c.refused()
		return
	}
	state := c.secure.ConnectionState()
	c.record.serverName = state.ServerName
	if state.NegotiatedProtocol != "" && state.NegotiatedProtocol != "http/1.1" {
		unix.Close(c.fd) // conn has another descriptor of the connection
		c.port.HandOff(c.secure)
		c.loop.clients.Add(-1)
		return
	}
	conn.Close()
	c.record.Conn, c.record.onLoop, c.record.readable = nil, true, true
	c.loop.post(c.begin)
}

// refused forgets a connection that never reached the loop.
func (c *client) refused() {
	unix.Close(c.fd)
	c.loop.clients.Add(-1)
}

// netConn makes an ordinary connection of a duplicate of the descriptor.
func netConn(fd int) (net.Conn, error) {
	duplicate, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(duplicate), "connection")
	defer file.Close()
	return net.FileConn(file)
}

func (c *client) readSecure(p []byte) (int, readResult) {
	l := c.loop
	l.cipher = l.cipher[:0]
	n, err := c.secure.Read(p)
	if len(l.cipher) > 0 && !c.write(l.cipher) { // answers of the protocol itself
		return 0, gotError
	}
	var none again
	switch {
	case n > 0:
		return n, gotBytes
	case errors.As(err, &none):
		c.readable = false
		return 0, gotNothing
	case errors.Is(err, io.EOF):
		return 0, gotEnd
	}
	return 0, gotError
}

func (c *client) writeSecure(p []byte) bool {
	l := c.loop
	l.cipher = l.cipher[:0]
	if _, err := c.secure.Write(p); err != nil {
		return false
	}
	return c.writeLate(l.cipher)
}

// notifyClose tells the client that nothing was cut off.
func (c *client) notifyClose() {
	l := c.loop
	l.cipher = l.cipher[:0]
	if c.secure.CloseWrite() == nil {
		c.write(l.cipher)
	}
}

// handOver gives the connection away, with the bytes that were read from it.
func (c *client) handOver(read []byte) {
	prefix := append([]byte(nil), read...)
	conn, err := netConn(c.fd)
	if err != nil {
		c.close()
		return
	}
	if len(c.out) > 0 {
		// Answers to earlier requests that the client has not read yet come first.
		conn = &lateConn{Conn: conn, first: append([]byte(nil), c.out...)}
	}
	unix.EpollCtl(c.loop.epoll, unix.EPOLL_CTL_DEL, c.fd, nil) // the connection lives on
	secure, r, clients := c.secure, c.record, &c.loop.clients
	clients.Add(1) // it counts until it was taken over
	handOff := func(conn net.Conn) {
		c.port.HandOff(conn)
		clients.Add(-1)
	}
	c.close()
	if secure == nil {
		plain := &Conn{Conn: conn, prefix: prefix}
		if c.introduced {
			plain.peer = net.TCPAddrFromAddrPort(c.peer)
		}
		go handOff(plain)
		return
	}
	r.Conn, r.onLoop = conn, false
	go handOff(&TLSConn{Conn: secure, prefix: prefix})
}

// Conn is a connection of which some bytes had already been read.
type Conn struct {
	net.Conn
	prefix []byte
	peer   net.Addr // whom a proxy named, or nil
}

// RemoteAddr is the client, also where a proxy stands for it.
func (c *Conn) RemoteAddr() net.Addr {
	if c.peer != nil {
		return c.peer
	}
	return c.Conn.RemoteAddr()
}

// CloseWrite ends what is sent, and goes on reading.
func (c *Conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// Read returns the bytes that had been read first.
func (c *Conn) Read(p []byte) (int, error) { return readAfter(&c.prefix, c.Conn, p) }

// TLSConn is a TLS connection of which some bytes had already been read.
type TLSConn struct {
	*tls.Conn
	prefix []byte
}

// Read returns the bytes that had been read first.
func (c *TLSConn) Read(p []byte) (int, error) { return readAfter(&c.prefix, c.Conn, p) }

func readAfter(prefix *[]byte, r io.Reader, p []byte) (int, error) {
	if len(*prefix) == 0 {
		return r.Read(p)
	}
	n := copy(p, *prefix)
	if *prefix = (*prefix)[n:]; len(*prefix) == 0 {
		*prefix = nil
	}
	return n, nil
}

// lateConn sends what was still to be sent before anything else.
type lateConn struct {
	net.Conn
	first []byte
}

func (c *lateConn) Write(p []byte) (int, error) {
	for len(c.first) > 0 {
		n, err := c.Conn.Write(c.first)
		c.first = c.first[n:]
		if err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}
