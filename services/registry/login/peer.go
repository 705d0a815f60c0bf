package login

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// peerKey is where a connection's peer is in the context of its requests.
type peerKey struct{}

// ConnContext notes whether a connection comes from a process of this machine's user 0.
// It is for http.Server.ConnContext, of the server that serves the registry.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	uid, err := peerUser(c)
	return context.WithValue(ctx, peerKey{}, err == nil && uid == 0)
}

// fromRoot is whether a request's connection does.
func fromRoot(ctx context.Context) bool {
	root, _ := ctx.Value(peerKey{}).(bool)
	return root
}

var errNobody = errors.New("the kernel knows no open socket at the other end")

// peerUser asks the kernel which user has the other end of a connection over loopback.
// The user is whoever made the socket.
func peerUser(c net.Conn) (uid uint32, err error) {
	local, remote := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
	if !local.Addr().IsLoopback() || !remote.Addr().IsLoopback() {
		return 0, errNobody
	}
	if uid, err = socketUser(remote, local); err != nil {
		return 0, err
	}
	// Had the other end gone before the question, its port might be another's by now.
	open, err := established(c)
	if err != nil || !open {
		return 0, errors.Join(errNobody, err)
	}
	return uid, nil
}

// established is whether neither end of a connection has closed it.
func established(c net.Conn) (bool, error) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		c = t.NetConn()
	}
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false, fmt.Errorf("a %T has no socket", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false, err
	}
	var info *unix.TCPInfo
	var infoErr error
	err = raw.Control(func(fd uintptr) { info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err = errors.Join(err, infoErr); err != nil {
		return false, err
	}
	return info.State == tcpEstablished, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		p := tcp.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// socketUser asks by sock_diag(7) for the one socket from local to remote.
func socketUser(local, remote netip.AddrPort) (uint32, error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, fmt.Errorf("ask for a socket's user: %w", err)
	}
	defer unix.Close(s)
	if err := unix.Sendto(s, diagRequest(local, remote), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("ask for a socket's user: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(s, answer, 0)
	if err != nil {
		return 0, fmt.Errorf("ask for a socket's user: %w", err)
	}
	return diagUser(answer[:n])
}

// The structures of linux/inet_diag.h.
const (
	sockDiagByFamily = 20
	headerSize       = unix.SizeofNlMsghdr
	requestSize      = headerSize + 8 + 48 // inet_diag_req_v2
	messageSize      = headerSize + 4 + 48 + 20
)

func diagRequest(local, remote netip.AddrPort) []byte {
	b := make([]byte, requestSize)
	native := binary.NativeEndian
	native.PutUint32(b[0:], requestSize)
	native.PutUint16(b[4:], sockDiagByFamily)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[headerSize:]
	r[0], r[1] = unix.AF_INET, unix.IPPROTO_TCP
	if local.Addr().Is6() {
		r[0] = unix.AF_INET6
	}
	native.PutUint32(r[4:], 1<<tcpEstablished)
	id := r[8:]
	binary.BigEndian.PutUint16(id[0:], local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	copy(id[4:20], local.Addr().AsSlice())
	copy(id[20:36], remote.Addr().AsSlice())
	native.PutUint64(id[40:], ^uint64(0)) // no cookie
	return b
}

const tcpEstablished = 1

// diagUser reads the answer. A socket that its process closed, or that waits for the end
// of its connection, belongs to nobody, and the kernel may call that user 0.
func diagUser(b []byte) (uint32, error) {
	native := binary.NativeEndian
	if len(b) < messageSize || native.Uint16(b[4:]) != sockDiagByFamily {
		return 0, errNobody
	}
	m := b[headerSize:]
	state, uid, inode := m[1], native.Uint32(m[64:]), native.Uint32(m[68:])
	if state != tcpEstablished || inode == 0 {
		return 0, errNobody
	}
	return uid, nil
}
