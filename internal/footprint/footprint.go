// Package footprint keeps Gantry's own memory small.
//
// Two things make a process of a large program bigger than its work. While it
// starts, it touches far more of its executable (package initialisers, tables of
// every linked library) than it ever does again: Trim hands those pages back, the
// clean pages of the executable, which the kernel reads again from the page cache
// if they are ever needed. And the garbage collector trades memory for processor
// time all the time, where this program needs the one at some times and the other
// at others: in a burst the heap may grow by a fixed allowance before it is
// collected, and as soon as the process is idle, all that is given back
// (docs/decisions/0015-collect-when-idle.md).
//
// Nothing here changes what a program can observe but its speed. An operator who
// sets GOGC or GOMEMLIMIT chooses for himself. Any process of ours may use it.
package footprint

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
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

// The collector runs when the heap has grown by allowance beyond what was in use
// after the last time, within the bounds of these percentages of that; the
// allowance is smaller on a small machine.
const (
	allowance        = 192 << 20
	shareOfMachine   = 32
	leastPercent     = 50
	mostPercent      = 400
	percentTolerance = 10 // smaller changes are not worth stopping the world for
)

// percent is the growth, in percent of the live heap, to collect after.
func percent(live, machine uint64) int {
	if live == 0 {
		return mostPercent
	}
	return int(min(max(min(allowance, machine/shareOfMachine)*100/live, leastPercent), mostPercent))
}

// Limit ends what Starting began: from now on the heap may grow by the allowance
// between collections.
func Limit() { (&pacing{}).adjust() }

// pacing sets how far the heap may grow.
type pacing struct{ percent int }

func (p *pacing) adjust() {
	if os.Getenv("GOGC") != "" {
		return
	}
	want := percent(read(liveHeap), machineMemory())
	if want >= p.percent+percentTolerance || want <= p.percent-percentTolerance {
		debug.SetGCPercent(want)
		p.percent = want
	}
}

// What the runtime tells about the heap.
const (
	liveHeap    = "/gc/heap/live:bytes"                // in use after the last collection
	currentHeap = "/memory/classes/heap/objects:bytes" // and what has come since, used or not
)

func read(metric string) uint64 {
	sample := []metrics.Sample{{Name: metric}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}

func machineMemory() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return math.MaxUint64 // cannot happen; then the allowance alone counts
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}

const (
	// breath is how often KeepSmall looks at the process.
	breath = time.Second
	// idleShare is the share of one processor below which the process is idle.
	// Probing some hundred pods once a second takes half of it.
	idleShare = 0.2
	// rest is how many idle breaths follow work before memory is given back, and
	// pause how many lie between two times: who adds ten replicas one by one does
	// not have to wait for it ten times.
	rest, pause = 3, 10
	// worthwhile is by how much the heap must have grown since the last time, so
	// that a collection pays.
	worthwhile = 16 << 20
	// tidy is how many idle breaths lie between two times that pages of the
	// executable are given back. The kernel maps sixteen for each that is touched,
	// 30 MB within ten seconds of doing nothing; mapping those in use again takes
	// about a millisecond.
	tidy = 3
)

// watcher decides what to give back.
type watcher struct {
	used  time.Duration // processor time at the last breath
	calm  int           // idle breaths since the last work
	since int           // breaths since memory was last given back
	heap  uint64        // its size then
}

// breathe answers what to do now, given the processor time used so far, the time
// since the last breath and the size of the heap.
func (w *watcher) breathe(used, since time.Duration, heap uint64) (giveBack, tidyUp bool) {
	idle := float64(used-w.used) < idleShare*float64(since)
	w.used = used
	w.since++
	if !idle {
		w.calm = 0
		return false, false
	}
	w.calm++
	w.heap = min(w.heap, heap) // the collector has run meanwhile
	return w.calm >= rest && w.since >= pause && heap > w.heap+worthwhile, w.calm%tidy == 0
}

// gaveBack notes that memory has been given back, at the expense of some
// processor time.
func (w *watcher) gaveBack(used time.Duration, heap uint64) {
	w.used, w.heap, w.since = used, heap, 0
}

// KeepSmall trims now and, until ctx ends, whenever the process is idle, and
// keeps the allowance of the heap up with what is in use.
func KeepSmall(ctx context.Context) error {
	if err := Trim(); err != nil {
		return err
	}
	w, p, last := &watcher{used: processorTime(), heap: read(currentHeap), since: pause}, &pacing{}, time.Now()
	p.adjust()
	tick := time.NewTicker(breath)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		giveBack, tidyUp := w.breathe(processorTime(), time.Since(last), read(currentHeap))
		last = time.Now()
		if giveBack {
			debug.FreeOSMemory()
			w.gaveBack(processorTime(), read(currentHeap))
		}
		p.adjust()
		if giveBack || tidyUp {
			if err := releaseExecutable(); err != nil {
				return err
			}
		}
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
