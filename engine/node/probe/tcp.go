package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/kubernetes/pkg/probe"
	tcpprobe "k8s.io/kubernetes/pkg/probe/tcp"
)

// connector probes TCP ports as upstream's prober does, with its socket options and
// its words. A pod of this machine answers while the kernel still works on the
// question, so an address is asked with a few system calls and without waiting;
// names, and answers that take their time, are left to upstream's prober and to Go.
type connector struct{ names tcpprobe.Prober }

// Probe implements upstream's interface.
func (c connector) Probe(host string, port int, timeout time.Duration) (probe.Result, string, error) {
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() != "" || port < 1 || port > 65535 {
		return c.names.Probe(host, port, timeout)
	}
	if err := connect(netip.AddrPortFrom(ip.Unmap(), uint16(port)), timeout); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
			err = errors.New("i/o timeout")
		}
		return probe.Failure, "dial tcp " + net.JoinHostPort(ip.String(), strconv.Itoa(port)) + ": " + err.Error(), nil
	}
	return probe.Success, "", nil
}

// connect opens a connection and closes it.
func connect(to netip.AddrPort, timeout time.Duration) error {
	if timeout <= 0 {
		return context.DeadlineExceeded
	}
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	// Upstream's: the socket lingers for a second instead of a minute.
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
	err = unix.Connect(fd, address)
	if err == nil || err != unix.EINPROGRESS && err != unix.EINTR {
		unix.Close(fd)
		return os.NewSyscallError("connect", err)
	}
	if answered(fd) {
		defer unix.Close(fd)
		return outcome(fd)
	}
	return await(fd, timeout)
}

// answered reports whether it is known how the connection went.
func answered(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n == 1
}

// outcome is how the connection went.
func outcome(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return os.NewSyscallError("connect", err)
}

// await waits for the answer on the runtime's poller, and closes fd.
func await(fd int, timeout time.Duration) error {
	f := os.NewFile(uintptr(fd), "probe") // pollable, because it does not block
	defer f.Close()
	if err := f.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Write(func(fd uintptr) bool {
		if !answered(int(fd)) {
			return false
		}
		result = outcome(int(fd))
		return true
	})
	if err != nil {
		return err
	}
	return result
}
