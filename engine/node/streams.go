package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	goruntime "runtime"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

const (
	streamIdle     = 4 * time.Hour
	streamCreation = remotecommand.DefaultStreamCreationTimeout
)

func (n *Node) serveExec(w http.ResponseWriter, r *http.Request) {
	id, err := n.findRunning(r)
	if err != nil {
		answerError(w, err)
		return
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	command := r.Form["command"]
	if len(command) == 0 {
		http.Error(w, "you must specify a command", http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, r, streamer{n}, r.PathValue("pod"), r.PathValue("uid"), id, command, opts,
		streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

func (n *Node) serveAttach(w http.ResponseWriter, r *http.Request) {
	id, err := n.findRunning(r)
	if err != nil {
		answerError(w, err)
		return
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeAttach(w, r, streamer{n}, r.PathValue("pod"), r.PathValue("uid"), id, opts,
		streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

func (n *Node) servePortForward(w http.ResponseWriter, r *http.Request) {
	wk, err := n.find(r)
	if err != nil {
		answerError(w, err)
		return
	}
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, streamer{n}, r.PathValue("pod"), string(wk.uid), opts,
		streamIdle, streamCreation, portforward.SupportedProtocols)
}

// streamer carries streams between a client and a container, for the packages
// that speak SPDY and WebSocket.
type streamer struct{ n *Node }

func (s streamer) ExecInContainer(ctx context.Context, _, _ string, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	code, err := s.n.cfg.Driver.Exec(ctx, id, runtime.Exec{Args: cmd}, streams(ctx, in, out, errOut, tty, resize))
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

func (s streamer) AttachContainer(ctx context.Context, _, _ string, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return s.n.cfg.Driver.Attach(ctx, id, streams(ctx, in, out, errOut, tty, resize))
}

func streams(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) runtime.Streams {
	st := runtime.Streams{Stdin: in, TTY: tty}
	// A nil WriteCloser must not become a Writer that is not nil.
	if out != nil {
		st.Stdout = out
	}
	if errOut != nil {
		st.Stderr = errOut
	}
	if resize == nil {
		return st
	}
	sizes := make(chan runtime.Size)
	st.Resize = sizes
	go func() {
		defer close(sizes)
		for {
			select {
			case <-ctx.Done():
				return
			case size, ok := <-resize:
				if !ok {
					return
				}
				select {
				case sizes <- runtime.Size{Width: size.Width, Height: size.Height}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return st
}

// PortForward connects a stream with a port on the loopback of the pod.
func (s streamer) PortForward(ctx context.Context, _ string, uid string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	var wk *worker
	for _, w := range s.n.allWorkers() {
		if string(w.uid) == uid {
			wk = w
		}
	}
	if wk == nil {
		return errors.New("the pod is gone")
	}
	wk.mu.Lock()
	sb := wk.sandbox
	wk.mu.Unlock()
	if sb == nil {
		return errors.New("the pod has no network yet")
	}
	conn, err := dialIn(ctx, sb.NetNS, strconv.Itoa(int(port)))
	if err != nil {
		return fmt.Errorf("connect to port %d of the pod: %w", port, err)
	}
	defer conn.Close()
	return pipe(stream, conn)
}

// pipe copies both ways until the remote end is done.
func pipe(stream io.ReadWriteCloser, conn net.Conn) error {
	var g errgroup.Group
	g.Go(func() error {
		_, err := io.Copy(conn, stream)
		if c, ok := conn.(*net.TCPConn); ok {
			_ = c.CloseWrite()
		}
		return err
	})
	_, err := io.Copy(stream, conn)
	stream.Close() // ends the other direction
	conn.Close()
	if gerr := g.Wait(); err == nil && gerr != nil && !errors.Is(gerr, net.ErrClosed) {
		err = gerr
	}
	return err
}

// dialIn connects to a loopback port inside a network namespace. The socket is
// made on a thread that has entered it and belongs to it from then on.
func dialIn(ctx context.Context, netns, port string) (net.Conn, error) {
	dial := func() (net.Conn, error) {
		d := net.Dialer{Timeout: 10 * time.Second}
		conn, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			if c6, err6 := d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", port)); err6 == nil {
				return c6, nil
			}
		}
		return conn, err
	}
	if netns == "" {
		return dial()
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends in the other namespace
		if err := enterNetNS(netns); err != nil {
			done <- result{err: err}
			return
		}
		conn, err := dial()
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
