// Package process names processes so that they can be found again later.
//
// A number alone is not enough: the kernel uses process ids again. A [Handle]
// also holds the start time, and every method checks it, so that a handle read
// from a file after a reboot never means a stranger.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Handle is one process of this machine. The zero Handle is no process.
type Handle struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, field 22 of proc(5) stat
	Boot  string `json:"boot"`  // boot id, so that a handle does not outlive a reboot
}

// Find returns the handle of a running process.
func Find(pid int) (Handle, error) {
	start, err := startTime(pid)
	if err != nil {
		return Handle{}, err
	}
	return Handle{pid, start, bootID()}, nil
}

// Alive says whether the process runs (a zombie does not).
func (h Handle) Alive() bool {
	if h.PID <= 0 || h.Boot != bootID() {
		return false
	}
	start, err := startTime(h.PID)
	return err == nil && start == h.Start
}

// Signal sends sig; a process that has ended is no error.
func (h Handle) Signal(sig unix.Signal) error {
	fd, err := h.open()
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", h.PID, err)
	}
	return nil
}

// Wait returns nil when the process has ended, or ctx's error.
func (h Handle) Wait(ctx context.Context) error {
	fd, err := h.open()
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", h.PID, err)
	}
	defer unix.Close(wake)
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-woken // the descriptor must stay open until it was written to
		}
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", h.PID, err)
		}
		if fds[0].Revents != 0 {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// open returns a pidfd, or -1 when the process has ended.
func (h Handle) open() (int, error) {
	if !h.Alive() {
		return -1, nil
	}
	fd, err := unix.PidfdOpen(h.PID, 0)
	// The number of a process that has gone may be a thread's now, which is refused
	// with ENOENT, or EINVAL by older kernels.
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", h.PID, err)
	}
	if !h.Alive() { // checked after opening: the descriptor cannot change hands
		unix.Close(fd)
		return -1, nil
	}
	return fd, nil
}

func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("look at process %d: %w", pid, err)
	}
	// The second field is the program's name in parentheses and may hold anything.
	_, rest, _ := strings.Cut(string(data[strings.LastIndexByte(string(data), ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, fmt.Errorf("look at process %d: it has ended", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}
