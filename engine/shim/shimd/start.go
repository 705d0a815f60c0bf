package shimd

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// defaultTimeout bounds a command for which the client named no limit.
const defaultTimeout = 2 * time.Minute

// start starts a container: by the command that creates it, whose first process
// is taken over, or by itself.
func (s *Server) start(conn *net.UnixConn, req *protocol.Request, files map[string]*os.File) error {
	if req.Start == nil || req.Start.Launch == nil && (len(req.Start.Command) == 0 || req.Start.PIDFile == "") {
		return protocol.Errorf(protocol.CodeInvalid, "start container %q: a command and a pid file are needed", req.ID)
	}
	c := s.newContainer(req.ID)
	if err := s.reserve(c); err != nil {
		return err
	}
	if err := c.start(conn, req, files); err != nil {
		c.release()
		s.drop(c)
		close(c.settled)
		return err
	}
	close(c.settled)
	state := c.snapshot()
	return protocol.Write(conn, protocol.Reply{State: &state})
}

func (c *container) start(conn *net.UnixConn, req *protocol.Request, files map[string]*os.File) error {
	streams, err := c.openStreams(req.Start)
	if err != nil {
		return protocol.Errorf(protocol.CodeFailed, "start container %q: %v", c.id, err)
	}
	defer streams.closeChild()
	begin := c.command
	if req.Start.Launch != nil {
		begin = c.launch
	}
	if err = begin(conn, req, streams, files); err == nil {
		return nil
	}
	var refusal *protocol.Error
	if !errors.As(err, &refusal) {
		err = protocol.Errorf(protocol.CodeFailed, "start container %q: %v", c.id, err)
	}
	streams.closeShim()
	return err
}

// command has the request's command create the container.
func (c *container) command(conn *net.UnixConn, req *protocol.Request, streams *streams, _ map[string]*os.File) error {
	result, err := c.server.run(conn, command{
		argv:    req.Start.Command,
		env:     req.Start.Env,
		dir:     c.dir,
		stdio:   streams.child,
		timeout: req.Timeout,
	})
	if err != nil {
		return err
	}
	defer result.end()
	if result.status != 0 || result.stopped != "" {
		return &protocol.Error{
			Code:       protocol.CodeFailed,
			Message:    "start container \"" + c.id + "\": " + result.failure(req.Start.Command),
			ExitStatus: result.status,
			Output:     streams.output(),
		}
	}
	pid, err := readPID(c.path(req.Start.PIDFile))
	if err != nil {
		return err
	}
	if streams.console != nil {
		if streams.stdout, err = streams.console.wait(); err != nil {
			return err
		}
	}
	return c.begun(pid, protocol.Running, req.Start, streams, result.claim(pid))
}

// launch clones the container.
func (c *container) launch(conn *net.UnixConn, req *protocol.Request, streams *streams, files map[string]*os.File) error {
	born, err := c.server.launch(conn, req.Start.Launch, streams.child, files, nil, req.Timeout)
	if err != nil {
		return err
	}
	defer born.end()
	phase := protocol.Running
	if born.held {
		phase = protocol.Held
		c.held = born
	}
	if born.terminal != nil {
		streams.stdout = born.terminal
	}
	return c.begun(born.process, phase, req.Start, streams, born.exited())
}

// begun records a container that runs, and follows its output and its end.
func (c *container) begun(pid int, phase string, start *protocol.Start, streams *streams, exit <-chan int) error {
	r := record{
		PID:        pid,
		StartTicks: startTicks(pid),
		Boot:       c.server.boot,
		StartedAt:  time.Now().UTC(),
		LogPath:    start.LogPath,
		Terminal:   streams.terminal,
		Stdin:      start.Stdin,
		StdinOnce:  start.StdinOnce,
		OOMFile:    start.OOMFile,
		Leftover:   start.LeftoverFile,
		PipeDir:    start.PipeDir,
	}
	// Not in one step: a start whose record is not whole has not happened.
	if err := writeJSONDirectly(c.path(recordFile), r); err != nil {
		return err
	}
	c.log = openLog(r.LogPath)
	c.connect(streams)
	c.running(r, phase, exit)
	return nil
}

// connect begins to read the container's output.
func (c *container) connect(streams *streams) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if streams.terminal {
		streams.stdin = streams.stdout
		c.console = streams.stdout
	}
	c.stdin = streams.stdin
	c.follow(streams.stdout, stdoutFIFO)
	if streams.stderr != nil {
		c.follow(streams.stderr, stderrFIFO)
	}
}

// pipeDir is where a container's named pipes are.
func (c *container) pipeDir(dir string) string {
	if dir == "" {
		return c.dir
	}
	return dir
}

func (c *container) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.dir, name)
}

// streams are both sides of a container's standard streams.
type streams struct {
	child                 [3]*os.File
	stdin, stdout, stderr *os.File // the shim's sides, or nil
	terminal              bool     // stdout is, or will be, a terminal's master side
	console               *consoleSocket
	outputPath            string // of the command's own output with a terminal
}

func (c *container) openStreams(req *protocol.Start) (*streams, error) {
	st := &streams{}
	var err error
	switch {
	case req.Launch != nil && req.Launch.Terminal:
		st.terminal = true
		err = st.openNull()
	case req.Console != "":
		st.terminal = true
		st.outputPath = c.path(outputFile)
		err = st.openTerminal(c.dir, req.Console)
	default:
		err = st.openPipes(c.pipeDir(req.PipeDir), req)
	}
	if err != nil {
		st.closeChild()
		st.closeShim()
		return nil, err
	}
	return st, nil
}

func (st *streams) openTerminal(dir, name string) (err error) {
	if st.console, err = listenConsole(dir, name); err != nil {
		return err
	}
	if st.child[0], err = os.Open(os.DevNull); err != nil {
		return err
	}
	st.child[1], err = os.OpenFile(st.outputPath, os.O_CREATE|os.O_TRUNC|os.O_RDWR|os.O_APPEND, 0o600)
	st.child[2] = st.child[1]
	return err
}

// openNull is for a process that opens its terminal itself.
func (st *streams) openNull() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	st.child = [3]*os.File{null, null, null}
	return err
}

// openPipes makes named pipes. The container's ends of its output are open for
// reading too: with no shim its writes wait until the next one reads on,
// instead of ending it with SIGPIPE.
func (st *streams) openPipes(dir string, req *protocol.Start) (err error) {
	if !req.Stdin {
		st.child[0], err = os.Open(os.DevNull)
	} else {
		st.child[0], st.stdin, err = openPipe(dir, stdinFIFO, req, unix.O_RDONLY, unix.O_WRONLY)
	}
	if err != nil {
		return err
	}
	if st.child[1], st.stdout, err = openPipe(dir, stdoutFIFO, req, unix.O_RDWR, unix.O_RDONLY); err != nil {
		return err
	}
	st.child[2], st.stderr, err = openPipe(dir, stderrFIFO, req, unix.O_RDWR, unix.O_RDONLY)
	return err
}

func openPipe(dir, name string, req *protocol.Start, childMode, shimMode int) (child, ours *os.File, err error) {
	path := filepath.Join(dir, name)
	err = unix.Mkfifo(path, 0o600)
	if err == unix.EEXIST {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		err = unix.Mkfifo(path, 0o600)
	}
	if err != nil {
		return nil, nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	if req.OwnerUID != 0 || req.OwnerGID != 0 {
		if err := os.Chown(path, req.OwnerUID, req.OwnerGID); err != nil {
			return nil, nil, err
		}
	}
	fd, err := unix.Open(path, childMode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	unix.SetNonblock(fd, false) // the container expects ordinary blocking streams
	child = os.NewFile(uintptr(fd), path)
	if ours, err = openFIFO(path, shimMode); err != nil {
		child.Close()
		return nil, nil, err
	}
	return child, ours, nil
}

// openFIFO opens the shim's side of a named pipe, which never blocks a thread.
func openFIFO(path string, mode int) (*os.File, error) {
	fd, err := unix.Open(path, mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// closeChild closes the container's sides in this process.
func (st *streams) closeChild() {
	for _, f := range st.child {
		if f != nil {
			f.Close()
		}
	}
	if st.console != nil {
		st.console.close()
	}
	if st.outputPath != "" {
		os.Remove(st.outputPath)
	}
}

func (st *streams) closeShim() {
	for _, f := range []*os.File{st.stdin, st.stdout, st.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// output returns the last that a failed command said, and closes the shim's sides.
func (st *streams) output() string {
	defer st.closeShim()
	b := make([]byte, 4096)
	var text []byte
	if st.outputPath != "" {
		n, _ := st.child[1].ReadAt(b, 0)
		return string(b[:n])
	}
	for _, f := range []*os.File{st.stdout, st.stderr} {
		n, err := readNow(f, b)
		if err == nil {
			text = append(text, b[:n]...)
		}
	}
	return string(text)
}

// readNow reads what is there without waiting.
func readNow(f *os.File, b []byte) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var readErr error
	err = raw.Control(func(fd uintptr) { n, readErr = unix.Read(int(fd), b) })
	if err == nil {
		err = readErr
	}
	return max(n, 0), err
}
