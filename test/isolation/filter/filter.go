// Package filter reads the seccomp filter that a running process has and says
// what it answers to a call, without making the call.
//
// It is how tests compare what a runtime installed with what was asked for. The
// interpreter knows the instructions that libseccomp and Gantry emit and gives
// an error for all others. Reading needs root, and a caller that no filter
// confines itself. Only tests import this package.
package filter

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Event is one call as a filter sees it: struct seccomp_data without the
// instruction pointer.
type Event struct {
	Number, Audit uint32
	Args          [6]uint64
}

func (e Event) String() string {
	return fmt.Sprintf("call %d (%#x) of architecture %#x with %#x", e.Number, e.Number, e.Audit, e.Args)
}

// Offsets in struct seccomp_data, little-endian.
const (
	offsetNumber    = 0
	offsetArch      = 4
	offsetArguments = 16
)

func (e Event) word(offset uint32) (uint32, error) {
	switch {
	case offset == offsetNumber:
		return e.Number, nil
	case offset == offsetArch:
		return e.Audit, nil
	case offset >= offsetArguments && offset < offsetArguments+48 && offset%4 == 0:
		return uint32(e.Args[(offset-offsetArguments)/8] >> (offset % 8 * 8)), nil
	}
	return 0, fmt.Errorf("load of offset %d", offset)
}

// Run interprets a filter as the kernel does and returns its answer.
func Run(filter []unix.SockFilter, e Event) (uint32, error) {
	var acc uint32
	for pc := 0; pc < len(filter); pc++ {
		i := filter[pc]
		holds := false
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			var err error
			if acc, err = e.word(i.K); err != nil {
				return 0, err
			}
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= i.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return i.K, nil
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			holds = acc == i.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			holds = acc >= i.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			holds = acc > i.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			holds = acc&i.K != 0
		default:
			return 0, fmt.Errorf("instruction %d has the unexpected code %#x", pc, i.Code)
		}
		if holds {
			pc += int(i.Jt)
		} else {
			pc += int(i.Jf)
		}
	}
	return 0, errors.New("the filter ends without a return")
}

// ErrNone means that a process has no filter.
var ErrNone = errors.New("the process has no seccomp filter")

// Installed returns the filters of a process, the newest first. It stops the
// process for a moment.
func Installed(pid int) ([][]unix.SockFilter, error) {
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0); errno != 0 {
		return nil, fmt.Errorf("trace process %d: %w", pid, errno)
	}
	defer unix.PtraceDetach(pid)
	if err := unix.PtraceInterrupt(pid); err != nil {
		return nil, fmt.Errorf("stop process %d: %w", pid, err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		return nil, fmt.Errorf("wait for process %d to stop: %w", pid, err)
	}
	var filters [][]unix.SockFilter
	for {
		filter := make([]unix.SockFilter, 4096)
		n, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(pid), uintptr(len(filters)), uintptr(unsafe.Pointer(&filter[0])), 0, 0)
		switch {
		case errno == unix.ENOENT && len(filters) > 0:
			return filters, nil
		case errno == unix.EINVAL || errno == unix.ENOENT:
			return nil, ErrNone
		case errno != 0:
			return nil, fmt.Errorf("read the filter of process %d: %w", pid, errno)
		}
		filters = append(filters, filter[:n])
	}
}
