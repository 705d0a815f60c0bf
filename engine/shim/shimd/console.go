package shimd

import (
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// consoleTimeout bounds the wait for the terminal after its command succeeded.
const consoleTimeout = 10 * time.Second

// consoleSocket receives a terminal's master side, as the console socket of the
// OCI runtime command line does.
type consoleSocket struct {
	path     string
	listener *net.UnixListener
}

func listenConsole(dir, name string) (*consoleSocket, error) {
	l, err := protocol.Listen(dir, name)
	if err != nil {
		return nil, err
	}
	return &consoleSocket{path: filepath.Join(dir, name), listener: l}, nil
}

func (s *consoleSocket) wait() (*os.File, error) {
	if err := s.listener.SetDeadline(time.Now().Add(consoleTimeout)); err != nil {
		return nil, err
	}
	conn, err := s.listener.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	name := make([]byte, 4096)
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, rights)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return nil, protocol.Errorf(protocol.CodeFailed, "no terminal arrived on the console socket")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, protocol.Errorf(protocol.CodeFailed, "no terminal arrived on the console socket")
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

func (s *consoleSocket) close() {
	s.listener.Close()
	os.Remove(s.path)
}
