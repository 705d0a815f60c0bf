package main

import (
	"errors"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

func errnoOf(err error) (syscall.Errno, bool) {
	var errno syscall.Errno
	ok := errors.As(err, &errno)
	return errno, ok
}

func errnoName(errno syscall.Errno) string {
	if errno == 0 {
		return "done"
	}
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return "errno " + strconv.Itoa(int(errno))
}

// call makes a system call and names its outcome.
func call(number uintptr, args ...uintptr) string {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	return errnoName(errno)
}

func prctl(option int) string {
	value, _, errno := unix.Syscall6(unix.SYS_PRCTL, uintptr(option), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errnoName(errno)
	}
	return strconv.Itoa(int(value))
}
