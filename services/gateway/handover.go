package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/services/gateway/proxy"
)

// A successor gets the very sockets its predecessor listens on, over the admin
// socket (SCM_RIGHTS, unix(7)). Two sockets that share a port would do for most
// connections, but those that wait in the queue of a socket are reset when it is
// closed; this way nothing is closed before both processes are done with it.

// maxHandedOver bounds the sockets that fit into one message.
const maxHandedOver = 64

// handOver sends the listening sockets to whoever asks: one message with the
// configured addresses as JSON, and the descriptors in their order.
func handOver(dataPlane *proxy.Server) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer conn.Close()
		socket, ok := conn.(*net.UnixConn)
		if !ok {
			return // descriptors travel over unix sockets only
		}
		var addresses []string
		var fds []int
		defer func() {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}()
		for address, listener := range dataPlane.Listeners() {
			if fd, err := duplicate(listener); err == nil && len(fds) < maxHandedOver {
				addresses, fds = append(addresses, address), append(fds, fd)
			}
		}
		text, err := json.Marshal(addresses)
		if err == nil {
			_, _, _ = socket.WriteMsgUnix(text, unix.UnixRights(fds...), nil) // the successor binds anew
		}
	}
}

// duplicate returns another descriptor of the listening socket. net.TCPListener
// has one too (File), but that would make the socket blocking for both.
func duplicate(l *net.TCPListener) (fd int, err error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return -1, err
	}
	failed := raw.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(failed, err)
}

// inherit asks the gateway at the admin socket for its listening sockets, by
// the address that each was configured with.
func inherit(adminSocket string) (map[string]net.Listener, error) {
	conn, err := net.DialTimeout("unix", adminSocket, time.Second)
	if err != nil {
		return nil, fmt.Errorf("take sockets over: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprint(conn, "POST /handover HTTP/1.1\r\nHost: gateway\r\n\r\n"); err != nil {
		return nil, fmt.Errorf("take sockets over: %w", err)
	}
	text, rights := make([]byte, 16<<10), make([]byte, unix.CmsgSpace(4*maxHandedOver))
	n, nRights, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(text, rights)
	if err != nil {
		return nil, fmt.Errorf("take sockets over: %w", err)
	}
	fds, err := descriptors(rights[:nRights])
	if err != nil {
		return nil, fmt.Errorf("take sockets over: %w", err)
	}
	var addresses []string
	if err := json.Unmarshal(text[:n], &addresses); err != nil || len(addresses) != len(fds) {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("take sockets over: the other gateway answers %q", text[:n])
	}
	listeners := map[string]net.Listener{}
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), addresses[i])
		listener, err := net.FileListener(file)
		file.Close() // the listener has its own
		if err == nil {
			listeners[addresses[i]] = listener
		}
	}
	return listeners, nil
}

func descriptors(rights []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		more, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, err
		}
		fds = append(fds, more...)
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return fds, nil
}
