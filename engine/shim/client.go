package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// abortTimeout is how long the shim may take to abort a start.
const abortTimeout = 10 * time.Second

// Client talks to the shim of one directory. All methods are safe for
// concurrent use.
type Client struct {
	dir    string
	binary func() (string, error) // path of the executable

	starting sync.Mutex // held while a shim is being started

	mu       sync.Mutex
	features []string // of the shim that was greeted last
}

// New returns a client for the shim of dir. binary returns the path of the
// shim's executable; it is called when a shim must be started.
func New(dir string, binary func() (string, error)) *Client {
	return &Client{dir: dir, binary: binary}
}

// unavailable means that nobody listens.
func unavailable(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

// dial connects to the shim and starts one if there is none.
func (c *Client) dial(ctx context.Context) (*net.UnixConn, error) {
	conn, err := protocol.Dial(c.dir, protocol.SocketName)
	if err == nil || !unavailable(err) {
		return conn, err
	}
	if err := c.Ensure(ctx); err != nil {
		return nil, err
	}
	return protocol.Dial(c.dir, protocol.SocketName)
}

// call sends one request and reads the first reply. The connection stays open;
// ending ctx cancels the request, until stop is called.
func (c *Client) call(ctx context.Context, req protocol.Request, files ...*os.File) (conn *net.UnixConn, reply protocol.Reply, stop func() bool, err error) {
	conn, reply, received, stop, err := c.callFiles(ctx, req, files...)
	for _, f := range received {
		f.Close()
	}
	return conn, reply, stop, err
}

// callFiles is call for a reply that descriptors may come with.
func (c *Client) callFiles(ctx context.Context, req protocol.Request, files ...*os.File) (conn *net.UnixConn, reply protocol.Reply, received []*os.File, stop func() bool, err error) {
	conn, err = c.dial(ctx)
	if err != nil {
		return nil, reply, nil, nil, fmt.Errorf("reach the container shim: %w", err)
	}
	stop = context.AfterFunc(ctx, func() { cancel(conn, req.Op) })
	req.Version = protocol.Version
	if err = protocol.Write(conn, req, files...); err == nil {
		reply, received, err = receiveFiles(conn)
	}
	if err != nil {
		stop()
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
	}
	return conn, reply, received, stop, err
}

// cancel ends a request. A start is ended by closing only our half, so that its
// reply tells when the shim has let go of the container's directory.
func cancel(conn *net.UnixConn, op string) {
	if op != protocol.OpStart {
		conn.Close()
		return
	}
	conn.CloseWrite()
	conn.SetReadDeadline(time.Now().Add(abortTimeout))
}

// receive reads one reply and turns its error into one of ours.
func receive(conn *net.UnixConn) (protocol.Reply, error) {
	reply, files, err := receiveFiles(conn)
	for _, f := range files {
		f.Close() // nobody expects one
	}
	return reply, err
}

// receiveFiles is receive for a reply that descriptors may come with.
func receiveFiles(conn *net.UnixConn) (protocol.Reply, []*os.File, error) {
	var reply protocol.Reply
	files, err := protocol.Read(conn, &reply)
	if err != nil {
		if disconnected(err) {
			return reply, nil, fmt.Errorf("the shim was killed in the middle of it: %w", err)
		}
		return reply, nil, fmt.Errorf("hear from the container shim: %w", err)
	}
	return reply, files, refusal(reply)
}

// refusal is the error in a reply, or nil.
func refusal(reply protocol.Reply) error {
	if e := reply.Error; e != nil {
		switch e.Code {
		case protocol.CodeNotFound:
			return fmt.Errorf("%w (%w)", e, fs.ErrNotExist)
		case protocol.CodeExists:
			return fmt.Errorf("%w (%w)", e, fs.ErrExist)
		}
		return e
	}
	return nil
}

// do is call for requests with one reply that can be sent twice: when the shim
// dies in between the next one answers.
func (c *Client) do(ctx context.Context, req protocol.Request) (protocol.Reply, error) {
	reply, err := c.once(ctx, req)
	if err != nil && disconnected(err) && ctx.Err() == nil {
		reply, err = c.once(ctx, req)
	}
	return reply, err
}

func (c *Client) once(ctx context.Context, req protocol.Request, files ...*os.File) (protocol.Reply, error) {
	conn, reply, stop, err := c.call(ctx, req, files...)
	if err == nil {
		stop()
		conn.Close()
		err = ctx.Err() // it may have succeeded all the same
	}
	return reply, err
}

// disconnected means that the shim went away in the middle.
func disconnected(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// Start starts a container and returns its state. Files are those of a launch.
// Ending ctx aborts the start; then, and after any error, the caller removes what
// may have been left.
func (c *Client) Start(ctx context.Context, id string, start protocol.Start, timeout time.Duration, launch ...LaunchFile) (protocol.State, error) {
	req := protocol.Request{Op: protocol.OpStart, ID: id, Start: &start, Timeout: timeout}
	var files []*os.File
	for _, f := range launch {
		req.Files, files = append(req.Files, f.Name), append(files, f.File)
	}
	reply, err := c.once(ctx, req, files...)
	if err != nil {
		return protocol.State{}, err
	}
	if reply.State == nil {
		return protocol.State{}, fmt.Errorf("start container %q: the shim's answer has no state", id)
	}
	return *reply.State, nil
}

// LaunchFile is a descriptor that accompanies a launch.
type LaunchFile struct {
	Name string
	File *os.File
}

// Release lets a container that was started with Hold go on.
func (c *Client) Release(ctx context.Context, id string) error {
	_, err := c.once(ctx, protocol.Request{Op: protocol.OpRelease, ID: id})
	return err
}

// Can reports whether the shim has a feature. A shim that an earlier release has
// started may lack some.
func (c *Client) Can(ctx context.Context, feature string) (bool, error) {
	c.mu.Lock()
	known := slices.Contains(c.features, feature)
	c.mu.Unlock()
	if known {
		return true, nil
	}
	if err := c.Ensure(ctx); err != nil { // it may be another one by now
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.features, feature), nil
}

// Process is a process that Exec started. Close ends it if it still runs.
type Process struct {
	PID int
	// Terminal is the master side of a launched process's terminal, or nil. The
	// caller closes it.
	Terminal *os.File

	conn *net.UnixConn
	stop func() bool
}

// Wait returns the exit code.
func (p *Process) Wait() (int, error) {
	reply, err := receive(p.conn)
	if err != nil {
		return 0, err
	}
	if reply.ExitCode == nil {
		return 0, errors.New("hear from the container shim: an exit code was expected")
	}
	return *reply.ExitCode, nil
}

// Close kills the process unless it has ended.
func (p *Process) Close() {
	p.stop()
	p.conn.Close()
}

// Files are descriptors that accompany a request; the caller closes its own
// after the call. Nil ones are the null device.
type Files struct{ Stdin, Stdout, Stderr *os.File }

func (f Files) list() (names []string, files []*os.File) {
	for _, e := range []struct {
		name string
		file *os.File
	}{{"stdin", f.Stdin}, {"stdout", f.Stdout}, {"stderr", f.Stderr}} {
		if e.file != nil {
			names, files = append(names, e.name), append(files, e.file)
		}
	}
	return names, files
}

// Exec starts a process in a container. Ending ctx kills it.
func (c *Client) Exec(ctx context.Context, id string, exec protocol.Exec, f Files, launch ...LaunchFile) (*Process, error) {
	names, files := f.list()
	for _, l := range launch {
		names, files = append(names, l.Name), append(files, l.File)
	}
	conn, reply, received, stop, err := c.callFiles(ctx, protocol.Request{Op: protocol.OpExec, ID: id, Exec: &exec, Files: names}, files...)
	if err != nil {
		return nil, err
	}
	p := &Process{PID: reply.PID, conn: conn, stop: stop}
	if len(received) > 0 {
		p.Terminal, err = protocol.Pollable(received[0])
	}
	for _, f := range received {
		f.Close()
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Attach connects files to the container's streams until detach is called or
// ctx ends. The streams' ends are seen on the files.
func (c *Client) Attach(ctx context.Context, id string, f Files) (detach func(), err error) {
	names, files := f.list()
	conn, _, stop, err := c.call(ctx, protocol.Request{Op: protocol.OpAttach, ID: id, Files: names}, files...)
	if err != nil {
		return nil, err
	}
	return func() { stop(); conn.Close() }, nil
}

// Signal sends a signal to the first process. One that has ended is no error.
func (c *Client) Signal(ctx context.Context, id string, signal int) error {
	_, err := c.do(ctx, protocol.Request{Op: protocol.OpSignal, ID: id, Signal: signal})
	return err
}

// Resize sets the size of the container's terminal.
func (c *Client) Resize(ctx context.Context, id string, width, height uint16) error {
	_, err := c.do(ctx, protocol.Request{Op: protocol.OpResize, ID: id, Size: &protocol.Size{Width: width, Height: height}})
	return err
}

// Reopen makes the shim write to a new log file of the same name.
func (c *Client) Reopen(ctx context.Context, id string) error {
	_, err := c.do(ctx, protocol.Request{Op: protocol.OpReopen, ID: id})
	return err
}

// Forget waits until the container has exited and makes the shim let go of it.
func (c *Client) Forget(ctx context.Context, id string, timeout time.Duration) error {
	_, err := c.do(ctx, protocol.Request{Op: protocol.OpForget, ID: id, Timeout: timeout})
	return err
}

// End kills a container's first process, waits for its end and makes the shim let
// go of it. The shim must have protocol.FeatureLaunch.
func (c *Client) End(ctx context.Context, id string, timeout time.Duration) error {
	_, err := c.do(ctx, protocol.Request{Op: protocol.OpForget, ID: id, Signal: int(unix.SIGKILL), Timeout: timeout})
	return err
}

// List returns all containers the shim knows.
func (c *Client) List(ctx context.Context) ([]protocol.State, error) {
	reply, err := c.do(ctx, protocol.Request{Op: protocol.OpList})
	return reply.States, err
}

// Events calls each with every container that exited or was taken over from a shim
// that died, and then with every container that exits or runs out of memory, until
// the shim or ctx ends.
func (c *Client) Events(ctx context.Context, each func(protocol.State)) error {
	conn, reply, stop, err := c.call(ctx, protocol.Request{Op: protocol.OpEvents})
	if err != nil {
		return err
	}
	defer conn.Close()
	defer stop()
	for {
		for _, state := range reply.States {
			each(state)
		}
		if reply, err = receive(conn); err != nil {
			return err
		}
	}
}

// Shutdown ends the shim. It refuses while containers run. No shim is fine.
func (c *Client) Shutdown(ctx context.Context) error {
	conn, err := protocol.Dial(c.dir, protocol.SocketName)
	if unavailable(err) {
		return nil
	}
	if err != nil {
		return err
	}
	conn.Close()
	_, err = c.once(ctx, protocol.Request{Op: protocol.OpShutdown})
	return err
}
