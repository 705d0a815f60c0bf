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
	// early holds exit codes of processes that ended before their pid was
	// known to anyone; kept only while a command that may announce one runs.
	early    map[int]int
	commands int
}

func newReaper() (*reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl(PR_SET_CHILD_SUBREAPER)", err)
	}
	r := &reaper{waiting: map[int]chan<- int{}, early: map[int]int{}}
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
		} else if r.commands > 0 {
			r.early[pid] = code
		}
	}
}

func exitCode(s unix.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// command starts a command that may leave a process behind. Until release is
// called the exit codes of unknown processes are remembered for claim.
func (r *reaper) command(argv []string, attr *syscall.ProcAttr) (pid int, exit <-chan int, release func(), err error) {
	r.mu.Lock() // a child cannot be reaped before it is registered
	defer r.mu.Unlock()
	pid, err = syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		return 0, nil, nil, &os.PathError{Op: "run", Path: argv[0], Err: err}
	}
	done := make(chan int, 1)
	r.waiting[pid] = done
	r.commands++
	return pid, done, r.release, nil
}

func (r *reaper) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.commands--; r.commands == 0 {
		clear(r.early)
	}
}

// claim returns where the exit code of a process that a command left behind
// arrives, even when it ended already.
func (r *reaper) claim(pid int) <-chan int {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := make(chan int, 1)
	if code, ok := r.early[pid]; ok {
		delete(r.early, pid)
		done <- code
		return done
	}
	r.waiting[pid] = done
	return done
}
