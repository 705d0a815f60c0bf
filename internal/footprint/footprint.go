// Package footprint keeps Gantry's own memory small.
//
// A process of a large program touches far more of its executable while it
// starts (package initialisers, tables of every linked library) than it ever
// does again. Trim hands those pages back once the process is ready: the heap
// that start-up left unused, and the clean pages of the executable, which the
// kernel reads again from the page cache if they are ever needed. It costs a
// millisecond or two and changes nothing that the program can observe.
package footprint

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// startPercent lets start-up use the processors for starting: nearly all that it
// allocates stays in use. Without any collection the heap would be left full of
// holes, which nothing closes later.
const startPercent = 200

// Starting lets the heap grow freely until Limit is called.
func Starting() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(startPercent)
	}
}

// gcPercent trades a little CPU for memory: the heaps here are small and live
// long, so that collections are rare and cheap.
const gcPercent = 50

// Limit makes the collector run at a smaller heap growth than Go's default,
// unless the operator chose one with GOGC.
func Limit() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

const (
	// breath is how often KeepSmall looks whether the process has become idle.
	breath = 20 * time.Second
	// idle is the processor time within a breath below which it is idle.
	idle = breath / 50
)

// KeepSmall trims now and, until ctx ends, whenever the process is idle: the
// pages of the executable each time, because the kernel maps more of them than
// are used; the heap only after there was work, because that takes a collection.
func KeepSmall(ctx context.Context) error {
	if err := Trim(); err != nil {
		return err
	}
	used := processorTime()
	trimmed, tick := used, time.NewTicker(breath)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := processorTime()
		if now-used < idle {
			if now-trimmed > 2*idle {
				debug.FreeOSMemory()
				trimmed = processorTime()
			}
			if err := releaseExecutable(); err != nil {
				return err
			}
		}
		used = now
	}
}

// processorTime is what the process has used so far.
func processorTime() time.Duration {
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		return 0 // cannot happen for ourselves
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// Trim gives back unused heap and the pages of the executable.
func Trim() error {
	debug.FreeOSMemory()
	return releaseExecutable()
}

func releaseExecutable() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("list mappings: %w", err)
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		start, length, ok := cleanMapping(lines.Text(), exe)
		if !ok {
			continue
		}
		// The mapping is a read-only, private view of a file: nothing in it can be lost.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, length, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back pages of %s: %w", exe, errno)
		}
	}
	return nil
}

// cleanMapping returns where a line of proc(5) maps says that the file is mapped
// without the right to write.
func cleanMapping(line, file string) (start, length uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[5] != file || !strings.HasPrefix(fields[1], "r") || fields[1][1] != '-' || fields[1][3] != 'p' {
		return 0, 0, false
	}
	from, to, _ := strings.Cut(fields[0], "-")
	const bits = 8 * int(unsafe.Sizeof(uintptr(0)))
	a, err := strconv.ParseUint(from, 16, bits)
	if err != nil {
		return 0, 0, false
	}
	b, err := strconv.ParseUint(to, 16, bits)
	if err != nil || b <= a {
		return 0, 0, false
	}
	return uintptr(a), uintptr(b - a), true
}
