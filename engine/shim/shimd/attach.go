package shimd

import (
	"net"
	"os"
	"time"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// deliveryGrace is how long an attached client may take for the last output
// after the container exited.
const deliveryGrace = 2 * time.Second

// attach connects the client's files to the container's streams until the
// client closes the connection or the streams end.
func (s *Server) attach(conn *net.UnixConn, req *protocol.Request, files map[string]*os.File) error {
	c, err := s.find(req.ID)
	if err != nil {
		return err
	}
	for name, f := range files {
		if files[name], err = protocol.Pollable(f); err != nil {
			return err
		}
		f.Close()
	}
	client := newSink(files["stdout"], files["stderr"])
	defer client.close()

	c.mu.Lock()
	if c.state.Phase != protocol.Running {
		phase := c.state.Phase
		c.mu.Unlock()
		return protocol.Errorf(protocol.CodeInvalid, "attach to container %q: it is %s, not running", c.id, phase)
	}
	c.sinks[client] = struct{}{}
	for _, k := range c.takeEarly() {
		client.queue <- k
	}
	for _, stream := range c.ended {
		client.queue <- chunk{stream: stream}
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.sinks, client)
		c.mu.Unlock()
	}()

	if input := files["stdin"]; input != nil {
		defer input.Close()
		go c.copyInput(input)
	}
	if err := protocol.Write(conn, protocol.Reply{}); err != nil {
		return nil // it has gone again
	}
	closed := watchClose(conn)
	select {
	case <-closed:
		return nil
	case <-client.gone: // only input is left, or nothing
	case <-c.exited: // what was read before the exit is still to be delivered
		select {
		case <-closed:
		case <-client.gone:
		case <-time.After(deliveryGrace):
		}
		return nil
	}
	select {
	case <-closed:
	case <-c.exited:
	}
	return nil
}

// copyInput copies a client's input to the container. The container's stdin
// stays open for the next client unless it asked for one client only.
func (c *container) copyInput(input *os.File) {
	for {
		var data []byte
		if err := readReady(input, func(b []byte) { data = append(data, b...) }); err != nil {
			break
		}
		c.mu.Lock()
		stdin := c.stdin
		c.mu.Unlock()
		if stdin == nil {
			return
		}
		if _, err := stdin.Write(data); err != nil {
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.record.StdinOnce || c.stdin == nil {
		return
	}
	if c.stdin == c.console {
		c.stdin.Write([]byte{4}) // end of file, as a person types it
	}
	c.closeInput()
}
