package shimd

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// exitUnknown stands for an exit code that nobody can tell any more.
const exitUnknown = -1

// adopt takes over what an earlier shim left: exited containers from their
// files, running ones as far as the kernel lets a process that is not their
// parent. Directories without a record belong to starts that never finished;
// the client removes them.
func (s *Server) adopt() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, protocol.ContainersDir))
	if err != nil {
		return err
	}
	var running []record
	defer func() { s.killStrays(running) }()
	for _, e := range entries {
		if !validID(e.Name()) {
			continue
		}
		c := s.newContainer(e.Name())
		close(c.settled)
		var r record
		if found, err := readJSON(c.path(recordFile), &r); err != nil || !found {
			if err != nil {
				s.logf("container %s: %v", c.id, err)
			}
			continue
		}
		exited, err := readJSON(c.path(exitFile), &c.state)
		if err != nil {
			s.logf("container %s: %v", c.id, err)
		}
		s.containers[c.id] = c
		if exited {
			c.record = r
			close(c.exited)
			continue
		}
		if r.Boot == bootID() {
			running = append(running, r)
		}
		c.adoptRunning(r)
	}
	return nil
}

func (c *container) adoptRunning(r record) {
	c.state.PID, c.state.StartedAt, c.record = r.PID, r.StartedAt, r
	if r.Boot != c.server.boot {
		c.lost = "the machine was restarted while the container ran"
		c.record.Leftover = ""
		c.finish(exitUnknown)
		return
	}
	c.lost = "the shim was killed while the container ran"
	c.state.AdoptedAt = time.Now().UTC()
	c.server.logf("container %s: taking over process %d", c.id, r.PID)
	c.log = openLog(r.LogPath)
	c.mu.Lock()
	c.reconnect(r)
	c.mu.Unlock()

	pidfd, err := unix.PidfdOpen(r.PID, unix.PIDFD_NONBLOCK)
	if err != nil || startTicks(r.PID) != r.StartTicks {
		if err == nil {
			unix.Close(pidfd)
		}
		go c.finish(exitUnknown)
		return
	}
	exit := make(chan int, 1)
	go func() { exit <- waitForeign(os.NewFile(uintptr(pidfd), "pidfd")) }()
	c.running(r, protocol.Running, exit)
}

// reconnect reads the container's pipes again. Holds c.mu.
func (c *container) reconnect(r record) {
	if r.Terminal {
		c.state.Message = "the terminal was lost: the shim was killed while the container ran"
		return
	}
	for _, stream := range []string{stdoutFIFO, stderrFIFO} {
		f, err := openFIFO(filepath.Join(c.pipeDir(r.PipeDir), stream), unix.O_RDONLY)
		if err != nil {
			c.server.logf("container %s: %v", c.id, err)
			continue
		}
		c.follow(f, stream)
	}
	if r.Stdin {
		c.state.Message = "its standard input came to an end: the shim was killed while the container ran"
		// Refused when the container has closed its side since.
		c.stdin, _ = openFIFO(filepath.Join(c.pipeDir(r.PipeDir), stdinFIFO), unix.O_WRONLY)
	}
}

// waitForeign waits for the end of a process that is not a child. Kernels from
// 6.15 tell its exit code.
func waitForeign(pidfd *os.File) int {
	defer pidfd.Close()
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return exitUnknown
	}
	ended := func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || (err != nil && err != unix.EINTR)
	}
	if err := raw.Read(ended); err != nil {
		return exitUnknown
	}
	// The code can be read once its parent has collected the process.
	for range 50 {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		var infoErr error
		raw.Control(func(fd uintptr) { infoErr = unix.IoctlPidfdInfo(int(fd), &info) })
		if infoErr == unix.ENOTTY || infoErr == unix.EINVAL {
			break
		}
		if infoErr == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			return exitCode(unix.WaitStatus(info.Exit_code))
		}
		time.Sleep(2 * time.Millisecond)
	}
	return exitUnknown
}
