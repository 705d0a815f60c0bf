package shimd

import (
	"net"
	"os"
	"path/filepath"
	"time"

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
	return protocol.AcceptTerminal(s.listener)
}

func (s *consoleSocket) close() {
	s.listener.Close()
	os.Remove(s.path)
}
