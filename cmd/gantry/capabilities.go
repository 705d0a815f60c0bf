package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// keepCapabilities takes from this process, and from whatever it might execute, all
// capabilities but those named, for good. What it does not have it does not get.
// Call it before anything listens or connects.
func keepCapabilities(kept ...uint) error {
	last, err := lastCapability()
	if err != nil {
		return err
	}
	var mask uint64
	for _, c := range kept {
		mask |= 1 << c
	}
	if err := everyThread(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("refuse new privileges: %w", err)
	}
	for c := range last + 1 {
		if mask&(1<<c) != 0 {
			continue
		}
		// Who may not change the bounding set could gain nothing by it either.
		if err := everyThread(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0); err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for i := range sets {
		permitted := sets[i].Permitted & uint32(mask>>(32*i))
		sets[i] = unix.CapUserData{Effective: permitted, Permitted: permitted}
	}
	if err := everyThread(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}

// everyThread makes a system call in all threads of the process.
//
//go:uintptrescapes
func everyThread(call, a, b, c uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall(call, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

// lastCapability is the highest one that the kernel knows.
func lastCapability() (uint, error) {
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return 0, fmt.Errorf("find out the kernel's capabilities: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 6)
	if err != nil {
		return 0, fmt.Errorf("find out the kernel's capabilities: %w", err)
	}
	return uint(n), nil
}
