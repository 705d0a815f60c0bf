package shimd

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// outputGrace is how long an exited container's output may stay open before the
// exit is published: processes outside of its pid namespace can hold it.
const outputGrace = 200 * time.Millisecond

// leftoverRounds bounds the fight against processes that multiply.
const leftoverRounds = 100

// container is one container, from the request to start it until forget.
type container struct {
	server  *Server
	id      string
	dir     string
	log     *criLog
	settled chan struct{} // closed when the start has succeeded or failed
	exited  chan struct{} // closed when state says exited and exit.json is written

	outputs sync.WaitGroup // open output streams

	mu     sync.Mutex
	state  protocol.State
	record record
	pidfd  int // -1 when there is none
	// console is the terminal's master side, or nil.
	console *os.File
	// stdin is where attached clients' input goes, or nil. It is the console
	// when there is one.
	stdin   *os.File
	readers []*os.File // pipes being read
	ended   []string   // streams at their end
	sinks   map[*sink]struct{}
	early   []chunk   // what it said before the first client, if it takes input
	oom     *oomWatch // or nil
	lost    string    // why the exit code may be unknown
	held    *newborn  // waits for a release, or nil
}

func (s *Server) newContainer(id string) *container {
	return &container{
		server:  s,
		id:      id,
		dir:     s.containerDir(id),
		log:     &criLog{},
		settled: make(chan struct{}),
		exited:  make(chan struct{}),
		state:   protocol.State{ID: id, Phase: protocol.Starting},
		pidfd:   -1,
		sinks:   map[*sink]struct{}{},
	}
}

func (c *container) snapshot() protocol.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// running enters the running phase, or the one before it, and follows the
// process to its end, which exit announces.
func (c *container) running(r record, phase string, exit <-chan int) {
	pidfd, err := unix.PidfdOpen(r.PID, 0)
	if err != nil {
		pidfd = -1 // it has ended, and exit says so in a moment
	}
	c.mu.Lock()
	c.record = r
	c.pidfd = pidfd
	c.state.Phase = phase
	c.state.PID = r.PID
	c.state.StartedAt = r.StartedAt
	c.oom = c.server.watchOOM(c, r.OOMFile)
	c.mu.Unlock()
	go func() {
		c.finish(<-exit)
	}()
}

// finish records the end of the process: on disk first, then for everyone.
func (c *container) finish(code int) {
	finished := time.Now().UTC()
	c.killLeftover()
	c.waitOutput(outputGrace)

	state := c.snapshot()
	state.Phase = protocol.Exited
	state.FinishedAt = finished
	state.ExitCode = code
	if code == exitUnknown {
		state.ExitCode = 255
		state.Message = "the exit code was lost: " + c.lost
	}
	state.OOMKilled = state.OOMKilled || oomKills(c.record.OOMFile) > 0
	if err := writeJSON(filepath.Join(c.dir, exitFile), state); err != nil {
		c.server.logf("container %s: keep exit code %d: %v", c.id, state.ExitCode, err)
	}

	c.mu.Lock()
	c.state = state
	c.closeInput()
	if c.pidfd >= 0 {
		unix.Close(c.pidfd)
		c.pidfd = -1
	}
	oom := c.oom
	c.oom = nil
	c.mu.Unlock()
	oom.stop()
	close(c.exited)
	c.server.publish(state)
	c.server.endIfUnwanted()
}

// outOfMemory publishes that the kernel killed a process of the container.
func (c *container) outOfMemory() {
	c.mu.Lock()
	if c.state.Phase != protocol.Running || c.state.OOMKilled {
		c.mu.Unlock()
		return
	}
	c.state.OOMKilled = true
	state := c.state
	c.mu.Unlock()
	c.server.publish(state)
}

// waitOutput waits until all output streams are at their end.
func (c *container) waitOutput(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		c.outputs.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
	}
}

// killLeftover ends what would outlive the first process.
func (c *container) killLeftover() {
	for range leftoverRounds {
		pids := readPIDs(c.record.Leftover)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
}

// proceed lets a held container run.
func (c *container) proceed() error {
	c.mu.Lock()
	born := c.held
	c.held = nil
	c.mu.Unlock()
	if born == nil {
		return protocol.Errorf(protocol.CodeInvalid, "release container %q: it is %s, not held", c.id, c.snapshot().Phase)
	}
	if err := born.proceed(); err != nil {
		return fmt.Errorf("start container %q: %w", c.id, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Phase == protocol.Held {
		c.state.Phase = protocol.Running
	}
	return nil
}

// process returns a descriptor of the first process.
func (c *container) process() (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pidfd < 0 {
		return nil, protocol.Errorf(protocol.CodeInvalid, "enter container %q: its first process has ended", c.id)
	}
	fd, err := unix.FcntlInt(uintptr(c.pidfd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

func (c *container) signal(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pidfd < 0 {
		return nil // it has ended: nobody is left to be told
	}
	err := unix.PidfdSendSignal(c.pidfd, unix.Signal(n), nil, 0)
	if err != nil && err != unix.ESRCH {
		return protocol.Errorf(protocol.CodeFailed, "signal container %q: %v", c.id, err)
	}
	return nil
}

func (c *container) resize(size protocol.Size) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.console == nil {
		return protocol.Errorf(protocol.CodeInvalid, "resize container %q: it has no terminal", c.id)
	}
	return setSize(c.console, size)
}

func setSize(terminal *os.File, size protocol.Size) error {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return err
	}
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
	})
	if err != nil {
		return err
	}
	return ioctlErr
}

// closeInput closes stdin; a terminal stays open for its output. Holds c.mu.
func (c *container) closeInput() {
	if c.stdin != nil && c.stdin != c.console {
		c.stdin.Close()
	}
	c.stdin = nil
}

// release closes everything that is still open.
func (c *container) release() {
	c.mu.Lock()
	if c.held != nil {
		c.held.control.Close()
		c.held = nil
	}
	c.closeInput()
	for _, f := range c.readers {
		f.Close()
	}
	c.readers = nil
	if c.console != nil {
		c.console.Close()
		c.console = nil
	}
	if c.pidfd >= 0 {
		unix.Close(c.pidfd)
		c.pidfd = -1
	}
	c.mu.Unlock()
	c.waitOutput(outputGrace)
	c.log.close()
}
