package initd

import (
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// report is what the processes on the way into a container tell the one that
// stays outside.
type report struct{ kind, at, value int32 }

const (
	reportPID    = iota // value is the pid of the container's new process
	reportJoin          // value is the error of the joining call at
	reportClone         // value is the error of the second clone
	reportBecome        // value is the error of the call at
)

// enter starts the recipe's process in the container of TargetFD. A user
// namespace can be joined by a process with one thread only, and a pid
// namespace only by a new process. So this process, which has the threads of
// the Go runtime, stays outside; a copy with one thread joins everything and
// gives up the host's rights while the container does not see it yet; and its
// copy, which exists in the container, only becomes the program: even a
// container that may trace all its processes gets hold of this recipe and of
// nothing that it has not itself.
func enter(r *recipe.Recipe) error {
	if err := begin(r); err != nil {
		return err
	}
	if err := fromOutside(r); err != nil {
		return err
	}
	if err := ownStreams(r); err != nil {
		return err
	}
	joins, program := &plan{memory: &ownMemory{}}, &plan{memory: &ownMemory{}}
	joins.add(fatal, "enter the container's namespaces", "", unix.SYS_SETNS, recipe.TargetFD, uintptr(r.Namespaces))
	if name := r.Process.Keyring; name != "" {
		const joinSessionKeyring = 1
		joins.add(ignored, "", "", unix.SYS_KEYCTL, joinSessionKeyring, joins.cstring(name))
	}
	if err := joins.ownNull(); err != nil {
		return err
	}
	joins.rights(&r.Process)
	var none [8]byte
	program.add(fatal, "accept signals", "", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, program.memory.hold(none[:]), 0, 8)
	program.session(r)
	program.labels(&r.Process)
	program.execute(&r.Process)

	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return fail("make a pipe", "", err)
	}
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return fail("hold signals", "", err)
	}
	if errno := fork(joins.calls, program.calls, pipe[1]); errno != 0 {
		return fail("clone", "", errno)
	}
	unix.Close(pipe[1])
	err := hear(pipe[0], joins, program)
	runtime.KeepAlive(joins)
	runtime.KeepAlive(program)
	return err
}

// fromOutside does what looks into the container's files.
func fromOutside(r *recipe.Recipe) error {
	pid, err := targetPID()
	if err != nil {
		return fail("find the container's process", "", err)
	}
	fd, err := unix.Open("/proc/"+pid+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open the container's root", "", err)
	}
	defer unix.Close(fd)
	// The number may have gone to another process only if this one has ended.
	if err := unix.PidfdSendSignal(recipe.TargetFD, 0, nil, 0); err != nil {
		return fail("find the container's process", "", err)
	}
	root := rootDir{fd}
	root.home(&r.Process)
	if r.Process.Terminal {
		return fail("open a terminal", "", root.terminal(&r.Process, false))
	}
	return nil
}

// targetPID is the pid of the process that TargetFD stands for.
func targetPID() (string, error) {
	fd, err := unix.Open("/proc/self/fdinfo/"+strconv.Itoa(recipe.TargetFD), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	b := make([]byte, 4096)
	n, err := unix.Read(fd, b)
	if err != nil {
		return "", err
	}
	for _, line := range strings.Split(string(b[:n]), "\n") {
		if pid, ok := strings.CutPrefix(line, "Pid:\t"); ok && pid != "-1" && pid != "0" {
			return pid, nil
		}
	}
	return "", unix.ESRCH
}

// fork makes the two copies. In them nothing of the Go runtime works any more:
// only what these functions do themselves.
//
//go:nosplit
//go:norace
func fork(joins, program []call, pipe int) unix.Errno {
	pid, errno := clone()
	if errno != 0 || pid != 0 {
		return errno
	}
	if at, errno := run(joins); errno != 0 {
		leave(pipe, reportJoin, at, int(errno))
	}
	pid, errno = clone()
	if errno != 0 {
		leave(pipe, reportClone, 0, int(errno))
	}
	if pid != 0 {
		leave(pipe, reportPID, 0, int(pid))
	}
	at, errno := run(program)
	leave(pipe, reportBecome, at, int(errno))
	return 0
}

// clone makes a copy of this process that is the shim's child.
//
//go:nosplit
//go:norace
func clone() (pid uintptr, errno unix.Errno) {
	pid, _, errno = unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_PARENT|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	return pid, errno
}

// leave ends a copy with a report.
//
//go:nosplit
//go:norace
func leave(pipe, kind, at, value int) {
	r := report{int32(kind), int32(at), int32(value)}
	unix.RawSyscall(unix.SYS_WRITE, uintptr(pipe), uintptr(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// hear reads reports until the program runs, which closes the pipe.
func hear(pipe int, joins, program *plan) error {
	var failed error
	for {
		var r report
		n, err := unix.Read(pipe, unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r)))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fail("hear from the container's process", "", err)
		case n == 0:
			return failed
		}
		errno := unix.Errno(r.value)
		switch r.kind {
		case reportPID:
			send(recipe.MessagePID, strconv.Itoa(int(r.value)))
		case reportJoin:
			failed = joins.explain(int(r.at), errno)
		case reportClone:
			failed = fail("clone in the container's namespaces", "", errno)
		case reportBecome:
			failed = program.explain(int(r.at), errno)
		}
	}
}
