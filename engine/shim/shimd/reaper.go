package shimd

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// reaper waits for every child of this process, its own and those the kernel
// gave to it, and tells whoever claimed the pid.
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan<- int
	// early holds exit codes of processes that ended before anyone claimed
	// them, as long as a command that was running then may still announce one.
	early map[int]earlyExit
	// commands are the numbers of the running commands, the latest is last.
	commands map[uint64]bool
	last     uint64
}

type earlyExit struct {
	code    int
	command uint64 // the latest one started before
}

func newReaper() (*reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl(PR_SET_CHILD_SUBREAPER)", err)
	}
	r := &reaper{waiting: map[int]chan<- int{}, early: map[int]earlyExit{}, commands: map[uint64]bool{}}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	go func() {
		for range children {
			r.reap()
		}
	}()
	return r, nil
}

// reap collects all children that have ended.
func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		code := exitCode(status)
		if waiter, ok := r.waiting[pid]; ok {
			delete(r.waiting, pid)
			waiter <- code
		} else if len(r.commands) > 0 {
			r.early[pid] = earlyExit{code, r.last}
		}
	}
}

func exitCode(s unix.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// birth is a command that may announce a process.
type birth struct {
	reaper *reaper
	number uint64
	pid    int
	exit   <-chan int // of the command
}

// command starts a command that may leave a process behind. The process is
// claimed, or not, before end.
func (r *reaper) command(path string, argv []string, attr *syscall.ProcAttr) (*birth, error) {
	r.mu.Lock() // a child cannot be reaped before it is registered
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, &os.PathError{Op: "run", Path: argv[0], Err: err}
	}
	done := make(chan int, 1)
	r.waiting[pid] = done
	r.last++
	r.commands[r.last] = true
	return &birth{reaper: r, number: r.last, pid: pid, exit: done}, nil
}

// end forgets exits that no command can announce any more: a later process may
// have the same pid.
func (b *birth) end() {
	r := b.reaper
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.commands, b.number)
	oldest := r.last + 1
	for number := range r.commands {
		oldest = min(oldest, number)
	}
	for pid, e := range r.early {
		if e.command < oldest {
			delete(r.early, pid)
		}
	}
}

// claim returns where the exit code of the process that the command left behind
// arrives, even when it ended already.
func (b *birth) claim(pid int) <-chan int {
	r := b.reaper
	r.mu.Lock()
	defer r.mu.Unlock()
	done := make(chan int, 1)
	if e, ok := r.early[pid]; ok && e.command >= b.number {
		delete(r.early, pid)
		done <- e.code
		return done
	}
	r.waiting[pid] = done
	return done
}
