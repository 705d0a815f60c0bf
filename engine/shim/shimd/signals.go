package shimd

import (
	"os"
	"os/signal"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lastSignal is the highest signal of Linux.
const lastSignal = 64

// kernelAction is struct sigaction of the system call rt_sigaction(2).
type kernelAction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const (
	defaultHandler = 0 // SIG_DFL
	ignoreHandler  = 1 // SIG_IGN
)

// acceptSignals undoes what the shim inherited: signals that its starter ignores, as
// nohup and some shells do, would be ignored by every container too, because that
// outlives the execution of a program. Handled signals do not.
func acceptSignals() {
	for n := 1; n <= lastSignal; n++ {
		var action kernelAction
		if sigaction(n, nil, &action) != 0 || action.handler != ignoreHandler {
			continue
		}
		signal.Notify(make(chan os.Signal, 1), syscall.Signal(n))
		// The Go runtime leaves a few signals to the C library's threads.
		if sigaction(n, nil, &action); action.handler == ignoreHandler {
			sigaction(n, &kernelAction{handler: defaultHandler}, nil)
		}
	}
}

func sigaction(n int, set, old *kernelAction) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), unsafe.Sizeof(kernelAction{}.mask), 0, 0)
	return errno
}
