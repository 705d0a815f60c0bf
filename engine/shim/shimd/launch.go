package shimd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/protocol"
	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// launchTimeout bounds a launch for which the client named no limit. It takes
// milliseconds; an init that a full machine keeps waiting is no failure yet.
const launchTimeout = 30 * time.Second

// initEnv has the init run with one thread of work and without collecting
// garbage: it ends before there is any worth collecting.
var initEnv = []string{"GOMAXPROCS=1", "GOGC=off"}

// newborn is a process that has been launched or is being so.
type newborn struct {
	*birth
	control  *os.File // to the init, closed once it is the program
	pidfd    int      // of the process that was cloned
	process  int      // pid of the container's process
	executed bool     // it has become the program, or is about to
	held     bool     // it waits for a release
	failure  string   // what the init could not do
	terminal *os.File // or nil
	message  [1024]byte
}

// launch clones a process and has it become what its recipe says. After an
// error nothing is left of it but what is in its control groups. With one, end
// must be called.
func (s *Server) launch(conn *net.UnixConn, l *protocol.Launch, stdio [3]*os.File, files map[string]*os.File, target *os.File, timeout time.Duration) (*newborn, error) {
	n, err := s.clone(l, stdio, files, target)
	if err != nil {
		return nil, err
	}
	if timeout <= 0 {
		timeout = launchTimeout
	}
	n.control.SetReadDeadline(time.Now().Add(timeout))
	stop := whenClosed(conn, func() { n.control.SetReadDeadline(time.Unix(1, 0)) })
	err = n.settle(l)
	stop()
	if err == nil {
		return n, nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("it was given up: the client closed the connection, or it took longer than %v", timeout)
	}
	n.abort()
	return nil, err
}

// clone starts the init.
func (s *Server) clone(l *protocol.Launch, stdio [3]*os.File, files map[string]*os.File, target *os.File) (*newborn, error) {
	program, recipeFile := files[protocol.FileInit], files[protocol.FileRecipe]
	if program == nil || recipeFile == nil {
		return nil, protocol.Errorf(protocol.CodeInvalid, "launch: the descriptors of the init and of its recipe are needed")
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	unix.SetNonblock(pair[0], true)
	n := &newborn{control: os.NewFile(uintptr(pair[0]), "init"), pidfd: -1}

	attr := &syscall.ProcAttr{
		Env: initEnv,
		Sys: &syscall.SysProcAttr{Setsid: true, Cloneflags: uintptr(l.CloneFlags), PidFD: &n.pidfd},
	}
	for _, f := range stdio {
		attr.Files = append(attr.Files, f.Fd())
	}
	attr.Files = append(attr.Files, uintptr(pair[1]), recipeFile.Fd())
	if target != nil {
		attr.Files = append(attr.Files, target.Fd())
	}
	for i := 0; files[protocol.FileAttached+strconv.Itoa(i)] != nil; i++ {
		attr.Files = append(attr.Files, files[protocol.FileAttached+strconv.Itoa(i)].Fd())
	}
	if l.CgroupDir != "" {
		group, err := unix.Open(l.CgroupDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			n.control.Close()
			return nil, &os.PathError{Op: "open", Path: l.CgroupDir, Err: err}
		}
		defer unix.Close(group)
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, group
	}
	executable, err := clearOf(attr.Files, program)
	if err != nil {
		n.control.Close()
		return nil, err
	}
	defer unix.Close(executable)
	err = s.spawner.do(files[protocol.FilePad], func() (err error) {
		n.birth, err = s.reaper.command("/proc/self/fd/"+strconv.Itoa(executable), []string{"gantry-init"}, attr)
		return err
	})
	if err != nil {
		n.control.Close()
		return nil, fmt.Errorf("execute gantry-init: %w", err)
	}
	n.process = n.birth.pid
	return n, nil
}

// clearOf duplicates the descriptor of a program so far up that a child can execute
// it after it was given files. On the way to their places syscall moves those, and a
// pipe of its own, to the numbers above the highest of them, whatever is there.
func clearOf(files []uintptr, program *os.File) (int, error) {
	lowest := max(int(slices.Max(files)), len(files)) + len(files) + 3
	fd, err := unix.FcntlInt(program.Fd(), unix.F_DUPFD_CLOEXEC, lowest)
	if err != nil {
		return -1, os.NewSyscallError("dup", err)
	}
	return fd, nil
}

// settle puts the process into its groups, lets it begin, and follows it until
// it has become the program or is held.
func (n *newborn) settle(l *protocol.Launch) error {
	pid := []byte(strconv.Itoa(n.birth.pid))
	for _, file := range l.CgroupProcs {
		if err := writeExisting(file, pid); err != nil {
			return err
		}
	}
	if _, err := n.control.Write([]byte{recipe.MessageGo}); err != nil {
		return err
	}
	if err := n.listen(); err != nil || n.held {
		return err
	}
	n.control.Close()
	return n.verdict()
}

// verdict is how it went, once the init has closed its side.
func (n *newborn) verdict() error {
	switch {
	case n.failure != "":
		return errors.New(n.failure)
	case !n.executed:
		return errors.New("gantry-init ended before it was done: it was killed, or memory is short")
	}
	return nil
}

func writeExisting(path string, text []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, text); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// listen takes messages until the init closes its side or is held.
func (n *newborn) listen() error {
	for !n.held {
		message, file, err := n.receive()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		body := string(message[1:])
		switch message[0] {
		case recipe.MessagePID:
			if err := n.named(body); err != nil {
				return err
			}
		case recipe.MessageTerminal:
			if n.terminal, file = file, nil; n.terminal != nil {
				unix.SetNonblock(int(n.terminal.Fd()), true)
			}
		case recipe.MessageReady:
			n.held = true
		case recipe.MessageExec:
			n.executed = true
		case recipe.MessageError:
			n.failure = body
		}
		if file != nil {
			file.Close()
		}
	}
	return nil
}

// receive reads one message and the descriptor that may come with it.
func (n *newborn) receive() (message []byte, file *os.File, err error) {
	raw, err := n.control.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	rights := make([]byte, unix.CmsgSpace(4))
	var size, rightsSize int
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		for {
			size, rightsSize, _, _, readErr = unix.Recvmsg(int(fd), n.message[:], rights, unix.MSG_CMSG_CLOEXEC)
			if readErr != unix.EINTR {
				return readErr != unix.EAGAIN
			}
		}
	})
	if err = errors.Join(err, readErr); err != nil {
		return nil, nil, err
	}
	if rightsSize > 0 {
		file = received(rights[:rightsSize])
	}
	if size == 0 {
		return nil, nil, io.EOF
	}
	return n.message[:size], file, nil
}

func received(rights []byte) *os.File {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return nil
	}
	unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), "terminal")
}

// named takes over the pid of the container's process. There is one such message:
// of several, one may be from somebody in the container who got hold of the
// socket, and names a process of the host to have it killed.
func (n *newborn) named(pid string) error {
	number, err := strconv.Atoi(pid)
	if err != nil || number <= 1 || n.process != n.birth.pid {
		n.process = n.birth.pid
		return fmt.Errorf("gantry-init named %q as a pid, or not the first one", pid)
	}
	n.process = number
	return nil
}

// proceed lets a held process become the program.
func (n *newborn) proceed() error {
	n.held = false
	defer n.control.Close()
	n.control.SetReadDeadline(time.Now().Add(launchTimeout))
	if _, err := n.control.Write([]byte{recipe.MessageStart}); err != nil {
		return err
	}
	if err := n.listen(); err != nil {
		return err
	}
	return n.verdict()
}

// abort ends a process that did not get as far as it should.
func (n *newborn) abort() {
	n.control.Close()
	if n.terminal != nil {
		n.terminal.Close()
	}
	if n.process != n.birth.pid {
		if pidfd, err := unix.PidfdOpen(n.process, 0); err == nil {
			unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
			unix.Close(pidfd)
		}
	}
	if n.pidfd >= 0 {
		unix.PidfdSendSignal(n.pidfd, unix.SIGKILL, nil, 0)
	}
	<-n.birth.exit
	n.end()
}

// exited is where the exit code of the process arrives.
func (n *newborn) exited() <-chan int {
	if n.process == n.birth.pid {
		return n.birth.exit
	}
	return n.claim(n.process)
}

// end lets go of what the launch needed.
func (n *newborn) end() {
	if n.pidfd >= 0 {
		unix.Close(n.pidfd)
		n.pidfd = -1
	}
	n.birth.end()
}

// whenClosed calls f when the peer closes the connection before stop.
func whenClosed(conn *net.UnixConn, f func()) (stop func()) {
	stopped, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		conn.Read(make([]byte, 1))
		select {
		case <-stopped:
		default:
			f()
		}
	}()
	return func() {
		close(stopped)
		conn.SetReadDeadline(time.Unix(1, 0))
		<-ended
		conn.SetReadDeadline(time.Time{})
	}
}
