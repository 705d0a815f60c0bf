package proxy

import (
	"context"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// listen binds a TCP address with SO_REUSEPORT, so that a successor can bind
// it too while this process drains.
//
// The kernel would also let an unrelated gateway of the same user share the
// port, and split the connections between the two. So unless a take-over is
// meant, the address must be free.
func listen(address string, takeOver bool) (*net.TCPListener, error) {
	if !takeOver {
		probe, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
		if a := probe.Addr().(*net.TCPAddr); a.Port != 0 {
			address = a.String() // keeps the port that was chosen for port 0
		}
		probe.Close()
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		if err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}); err != nil {
			return err
		}
		return failed
	}}
	listener, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return listener.(*net.TCPListener), nil
}
