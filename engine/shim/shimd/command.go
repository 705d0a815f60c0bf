package shimd

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// command is a program that the client asked for and that is expected to end soon.
type command struct {
	argv    []string
	env     []string
	dir     string
	stdio   [3]*os.File
	timeout time.Duration
	// settle lets the command come to its end for a moment before it is killed: what
	// it has started in a container could not be found afterwards.
	settle bool
}

// settleTime is how long a command that settles may take.
const settleTime = 5 * time.Second

// result is how a command ended. end must be called once the pid that it may
// have announced was claimed.
type result struct {
	*birth
	status  int
	stopped string // why it was killed, or ""
}

func (r result) failure(argv []string) string {
	if r.stopped != "" {
		return fmt.Sprintf("%s was stopped: %s", filepath.Base(argv[0]), r.stopped)
	}
	return fmt.Sprintf("%s ended with status %d", filepath.Base(argv[0]), r.status)
}

// run runs a command to its end. It kills it when the client closes the
// connection or the time is over.
func (s *Server) run(conn *net.UnixConn, cmd command) (result, error) {
	files := make([]uintptr, len(cmd.stdio))
	for i, f := range cmd.stdio {
		files[i] = f.Fd()
	}
	born, err := s.reaper.command(cmd.argv[0], cmd.argv, &syscall.ProcAttr{
		Dir:   cmd.dir,
		Env:   cmd.env,
		Files: files,
		// A session of its own: no terminal reaches it, and all of it can be killed.
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return result{}, err
	}
	r := result{birth: born}
	timeout := cmd.timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	closed, stopWatching := watchCloseUntil(conn)
	defer stopWatching()
	select {
	case r.status = <-born.exit:
		return r, nil
	case <-timer.C:
		r.stopped = fmt.Sprintf("it took longer than %v", timeout)
	case <-closed:
		r.stopped = "the client closed the connection"
	}
	if cmd.settle && r.stopped != "" {
		select {
		case r.status = <-born.exit:
			r.stopped = ""
			return r, nil
		case <-time.After(settleTime):
		}
	}
	// Its session, so also the helpers that it started in it.
	unix.Kill(-born.pid, unix.SIGKILL)
	r.status = <-born.exit
	return r, nil
}

// watchClose returns a channel that is closed when the peer closes the
// connection, on which it must send nothing more.
func watchClose(conn *net.UnixConn) <-chan struct{} {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		conn.Read(make([]byte, 1))
	}()
	return closed
}

// watchCloseUntil is watchClose for a while: stop ends it and leaves the
// connection usable.
func watchCloseUntil(conn *net.UnixConn) (closed <-chan struct{}, stop func()) {
	ended := watchClose(conn)
	return ended, func() {
		conn.SetReadDeadline(time.Unix(1, 0))
		<-ended
		conn.SetReadDeadline(time.Time{})
	}
}

// exec starts a further process in a container, by a command or by itself, and
// tells its pid and then its exit code. When the client goes first the process
// is killed.
func (s *Server) exec(conn *net.UnixConn, req *protocol.Request, files map[string]*os.File) error {
	if req.Exec == nil || req.Exec.Launch == nil && (len(req.Exec.Command) == 0 || req.Exec.PIDFile == "") {
		return protocol.Errorf(protocol.CodeInvalid, "exec in container %q: a command and a pid file are needed", req.ID)
	}
	c, err := s.find(req.ID)
	if err != nil {
		return err
	}
	if state := c.snapshot(); state.Phase != protocol.Running {
		return protocol.Errorf(protocol.CodeInvalid, "exec in container %q: it is %s, not running", c.id, state.Phase)
	}
	stdio, closeStdio, err := execStdio(files)
	if err != nil {
		return err
	}
	enter := s.enterByCommand
	if req.Exec.Launch != nil {
		enter = s.enter
	}
	pid, exit, terminal, err := enter(conn, c, req, stdio, files)
	closeStdio()
	if err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		defer unix.Close(pidfd)
	}
	reply := protocol.Write(conn, protocol.Reply{PID: pid}, terminal...)
	for _, f := range terminal {
		f.Close()
	}
	if reply == nil {
		select {
		case code := <-exit:
			return protocol.Write(conn, protocol.Reply{ExitCode: &code})
		case <-watchClose(conn):
		}
	}
	if err == nil { // nobody would ever end it
		unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	}
	<-exit
	return nil
}

// enter launches the process of an exec.
func (s *Server) enter(conn *net.UnixConn, c *container, req *protocol.Request, stdio [3]*os.File, files map[string]*os.File) (pid int, exit <-chan int, terminal []*os.File, err error) {
	target, err := c.process()
	if err != nil {
		return 0, nil, nil, err
	}
	defer target.Close()
	born, err := s.launch(conn, req.Exec.Launch, stdio, files, target, req.Timeout)
	if err != nil {
		return 0, nil, nil, protocol.Errorf(protocol.CodeFailed, "exec in container %q: %v", c.id, err)
	}
	defer born.end()
	if born.terminal != nil {
		terminal = []*os.File{born.terminal}
	}
	return born.process, born.exited(), terminal, nil
}

// enterByCommand has a command start the process of an exec.
func (s *Server) enterByCommand(conn *net.UnixConn, c *container, req *protocol.Request, stdio [3]*os.File, _ map[string]*os.File) (pid int, exit <-chan int, terminal []*os.File, err error) {
	result, err := s.run(conn, command{argv: req.Exec.Command, env: req.Exec.Env, dir: c.dir, stdio: stdio, timeout: req.Timeout, settle: true})
	if err != nil {
		return 0, nil, nil, protocol.Errorf(protocol.CodeFailed, "exec in container %q: %v", c.id, err)
	}
	pid, exit, err = s.born(c, req, result)
	return pid, exit, nil, err
}

// born claims the process that an exec's command has started.
func (s *Server) born(c *container, req *protocol.Request, result result) (pid int, exit <-chan int, err error) {
	defer result.end()
	if result.status != 0 || result.stopped != "" {
		return 0, nil, &protocol.Error{
			Code:       protocol.CodeFailed,
			Message:    "exec in container \"" + c.id + "\": " + result.failure(req.Exec.Command),
			ExitStatus: result.status,
		}
	}
	if pid, err = readPID(c.path(req.Exec.PIDFile)); err != nil {
		return 0, nil, protocol.Errorf(protocol.CodeFailed, "exec in container %q: %v", c.id, err)
	}
	return pid, result.claim(pid), nil
}

// execStdio completes the received files with the null device.
func execStdio(files map[string]*os.File) (stdio [3]*os.File, closeAll func(), err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return stdio, nil, err
	}
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		if stdio[i] = files[name]; stdio[i] == nil {
			stdio[i] = null
		}
	}
	return stdio, func() {
		null.Close()
		for _, f := range files {
			f.Close()
		}
	}, nil
}
