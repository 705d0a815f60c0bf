package eventloop

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// edge is how connections are watched: an event tells of a change, and the
// fields of socket remember the state.
const edge = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// socket is one connection's descriptor.
type socket struct {
	loop *loop
	fd   int
	// readable says that there may be bytes, or the end, to be read.
	readable bool
	// closing says that the peer has closed its side: a short read does not mean
	// that there is no more.
	closing bool
	broken  bool // reset, or closed in both directions
	dead    bool
	wrote   int64  // bytes that the kernel took
	out     []byte // what the kernel did not take yet
}

func (s *socket) note(events uint32) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.readable = true
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.closing = true
	}
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.broken = true
	}
}

type readResult int

const (
	gotBytes readResult = iota
	gotNothing
	gotEnd
	gotError
)

// The system calls are those for sockets: read and write are for all files, and go
// a longer way in the kernel for that.

// read reads once. It clears readable when there is no more for now.
func (s *socket) read(p []byte) (int, readResult) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), 0, 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			s.readable = false
			return 0, gotNothing
		case errno != 0:
			return 0, gotError
		case n == 0:
			return 0, gotEnd
		}
		if int(n) < len(p) && !s.closing {
			s.readable = false
		}
		return int(n), gotBytes
	}
}

// write sends p, or keeps what the kernel does not take. It reports whether the
// connection still works.
func (s *socket) write(p []byte) bool {
	if len(s.out) > 0 {
		s.retain(p)
		return true
	}
	n, ok := s.send(p)
	if ok {
		s.retain(p[n:])
	}
	return ok
}

// retain keeps what the kernel does not take yet.
func (s *socket) retain(p []byte) {
	if len(p) == 0 {
		return
	}
	if s.out == nil {
		s.out = s.loop.grab()
	}
	s.out = append(s.out, p...)
}

// send writes until the kernel takes no more.
func (s *socket) send(p []byte) (sent int, ok bool) {
	for sent < len(p) {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(&p[sent])), uintptr(len(p)-sent), unix.MSG_NOSIGNAL, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			return sent, true
		case errno != 0:
			return sent, false
		default:
			sent += int(n)
			s.wrote += int64(n)
		}
	}
	return sent, true
}

// flush sends what was kept.
func (s *socket) flush() bool {
	if len(s.out) == 0 {
		return true
	}
	n, ok := s.send(s.out)
	if !ok {
		return false
	}
	s.out = s.out[:copy(s.out, s.out[n:])]
	if len(s.out) == 0 {
		s.loop.drop(s.out)
		s.out = nil
	}
	return true
}

// shut closes the descriptor.
func (s *socket) shut() {
	s.dead = true
	s.loop.unwatch(s.fd)
	unix.Close(s.fd)
	if s.out != nil {
		s.loop.drop(s.out)
		s.out = nil
	}
}

// sockaddr is made anew for each use: unix.Connect writes to it.
func sockaddr(a netip.AddrPort) (unix.Sockaddr, int) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}, unix.AF_INET6
}

func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
