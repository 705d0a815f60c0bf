package eventloop

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is a connection to a server, as the loop has it, and the server's side.
func pair(t *testing.T) (*backendConn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	address, family := sockaddr(netip.MustParseAddrPort(l.Addr().String()))
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Connect(fd, address); err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return &backendConn{socket: socket{fd: fd}}, server
}

// ends sends a request and waits until the other side has ended the connection.
func (b *backendConn) ends(t *testing.T, request string) {
	t.Helper()
	b.before = b.wrote
	b.send([]byte(request))
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		fds := []unix.PollFd{{Fd: int32(b.fd)}}
		if _, err := unix.Poll(fds, 0); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
		if fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the connection goes on")
		}
	}
}

func TestWhatAClosedConnectionHasNotReadIsKnown(t *testing.T) {
	reset := func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() }
	t.Run("closed before the first request", func(t *testing.T) {
		b, server := pair(t)
		server.Close()
		if b.ends(t, "POST 1"); !b.unread() {
			t.Error("nobody can have read it")
		}
	})
	t.Run("closed between two requests", func(t *testing.T) {
		b, server := pair(t)
		b.send([]byte("POST 1"))
		io.ReadFull(server, make([]byte, 6))
		server.Write([]byte("answer"))
		var answer [6]byte
		if _, _, err := unix.Recvfrom(b.fd, answer[:], unix.MSG_WAITALL); err != nil {
			t.Fatal(err)
		}
		server.Close()
		if b.ends(t, "POST 2"); !b.unread() {
			t.Error("nobody can have read the second one")
		}
	})
	t.Run("half-closed, which may still be read", func(t *testing.T) {
		b, server := pair(t)
		server.(*net.TCPConn).CloseWrite()
		b.before = b.wrote
		b.send([]byte("POST 1"))
		if b.unread() {
			t.Error("it may be read")
		}
	})
	t.Run("closed after it was read", func(t *testing.T) {
		b, server := pair(t)
		go func() {
			io.ReadFull(server, make([]byte, 6))
			reset(server)
		}()
		if b.ends(t, "POST 1"); b.unread() {
			t.Error("it was read")
		}
	})
}
