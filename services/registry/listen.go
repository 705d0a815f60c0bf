package registry

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Listeners are where a registry is reached.
type Listeners struct {
	// Plain takes connections over loopback.
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

// split sorts the connections of one listener by where they come from.
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

// acceptPause is how long to wait when connections cannot be accepted.
const acceptPause = 50 * time.Millisecond

func (s *split) run() {
	for {
		c, err := s.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			s.end.Do(func() { s.err = err; close(s.ended) })
			return
		}
		if err != nil { // no descriptor left, say: that passes
			time.Sleep(acceptPause)
			continue
		}
		if c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().IsLoopback() {
			s.give(s.plain, c)
		} else {
			s.give(s.other, c)
		}
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
