package registry

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Listeners are where a registry is reached.
type Listeners struct {
	// Plain takes connections over loopback that begin without TLS.
	Plain net.Listener
	// TLS takes all others; nil when the registry listens on loopback only.
	TLS net.Listener
	// Name is host:port of image names that work on this machine.
	Name string
}

// Listen listens on an address. Without TLS the registry is reached over loopback only;
// an address that is not loopback has TLS, and then the registry listens on loopback too,
// so that the same image names work on this machine whatever the address is.
func Listen(address string) (Listeners, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return Listeners{}, err
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	host := at.Addr().Unmap()
	if host.IsLoopback() {
		return Listeners{Plain: l, Name: at.String()}, nil
	}
	loopback := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port())
	if host.IsUnspecified() {
		s := newSplit(l)
		return Listeners{Plain: s.plain, TLS: s.other, Name: loopback.String()}, nil
	}
	plain, err := net.Listen("tcp", loopback.String())
	if err != nil {
		return Listeners{}, errors.Join(fmt.Errorf("listen for this machine's own requests: %w", err), l.Close())
	}
	return Listeners{Plain: plain, TLS: l, Name: loopback.String()}, nil
}

// split sorts the connections of one listener by where they come from and how they begin.
type split struct {
	net.Listener
	plain, other *half
	ended        chan struct{}
	end          sync.Once
	err          error // why it ended
}

// half is a listener for one sort.
type half struct {
	*split
	conns chan net.Conn
}

func newSplit(l net.Listener) *split {
	s := &split{Listener: l, ended: make(chan struct{})}
	s.plain, s.other = &half{s, make(chan net.Conn)}, &half{s, make(chan net.Conn)}
	go s.run()
	return s
}

func (s *split) run() {
	for {
		c, err := s.Listener.Accept()
		if err != nil {
			s.end.Do(func() { s.err = err; close(s.ended) })
			return
		}
		from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if from.IsLoopback() {
			go s.sort(c)
			continue
		}
		s.give(s.other, c)
	}
}

// helloTimeout bounds how long a connection may say nothing.
const helloTimeout = 10 * time.Second

// sort looks at the first byte: 22 begins a TLS handshake and no request.
func (s *split) sort(c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(helloTimeout))
	r := bufio.NewReaderSize(c, 16)
	first, err := r.Peek(1)
	if err != nil {
		_ = c.Close() // it ended, or said nothing
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	peeked := &peekedConn{TCPConn: c.(*net.TCPConn), first: r}
	if first[0] == 22 {
		s.give(s.other, peeked)
	} else {
		s.give(s.plain, peeked)
	}
}

func (s *split) give(to *half, c net.Conn) {
	select {
	case to.conns <- c:
	case <-s.ended:
		_ = c.Close()
	}
}

// Close ends both halves.
func (s *split) Close() error {
	err := net.ErrClosed
	s.end.Do(func() { s.err, err = net.ErrClosed, s.Listener.Close(); close(s.ended) })
	return err
}

// Accept returns the next connection of this sort.
func (h *half) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.ended:
		return nil, h.err
	}
}

// peekedConn is a connection whose first bytes were read.
type peekedConn struct {
	*net.TCPConn
	first *bufio.Reader // until it is empty
}

func (c *peekedConn) Read(p []byte) (int, error) {
	if c.first != nil {
		if c.first.Buffered() > 0 {
			return c.first.Read(p)
		}
		c.first = nil
	}
	return c.TCPConn.Read(p)
}
