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

// The collector runs when the heap has grown by an allowance beyond what was in use
// after the last time, within the bounds of these percentages of that; the
// allowance is smaller on a small machine.
const (
	// Bursts is the allowance of a process that has much to do at times.
	Bursts = 192 << 20
	// Steady is that of one which should be small also in a burst: what grows between two
	// collections is left full of holes when many objects that came meanwhile stay. Where the
	// collector takes more than tooBusy of the time, it is doubled until it does not.
	Steady           = 12 << 20
	tooBusy          = 0.2
	shareOfMachine   = 32
	leastPercent     = 50
	mostPercent      = 400
	percentTolerance = 10 // smaller changes are not worth stopping the world for
)

// percent is the growth, in percent of the live heap, to collect after.
func percent(live, machine, allowance uint64) int {
	if live == 0 {
		return mostPercent
	}
	return int(min(max(min(allowance, machine/shareOfMachine)*100/live, leastPercent), mostPercent))
}

// Limit ends what Starting began: from now on the heap may grow by the allowance
// (Bursts or Steady, in bytes) between collections.
func Limit(allowance uint64) { (&pacing{least: allowance, allowance: allowance}).adjust() }

// pacing sets how far the heap may grow.
type pacing struct {
	least, allowance uint64
	percent          int
	collecting       float64 // seconds of processor time so far
}

// follow adapts the allowance to what the collector has taken of the processor time
// that was used since the last call.
func (p *pacing) follow(collecting float64, used time.Duration) {
	share := (collecting - p.collecting) / max(used.Seconds(), idleShare)
	switch p.collecting = collecting; {
	case share > tooBusy:
		p.allowance = min(2*p.allowance, Bursts)
	case share < tooBusy/8:
		p.allowance = max(p.allowance/2, p.least)
	}
}

func (p *pacing) adjust() {
	if os.Getenv("GOGC") != "" {
		return
	}
	want := percent(read(liveHeap), machineMemory(), p.allowance)
	if want >= p.percent+percentTolerance || want <= p.percent-percentTolerance {
		debug.SetGCPercent(want)
		p.percent = want
	}
}

// What the runtime tells about the heap.
const (
	liveHeap    = "/gc/heap/live:bytes"                // in use after the last collection
	currentHeap = "/memory/classes/heap/objects:bytes" // and what has come since, used or not
	// collectorTime is what the collector has used of the processors, in seconds, without
	// what it had for nothing.
	collectorTime = "/cpu/classes/gc/total:cpu-seconds"
	collectorIdle = "/cpu/classes/gc/mark/idle:cpu-seconds"
)

func readSeconds(metric string) float64 {
	sample := []metrics.Sample{{Name: metric}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindFloat64 {
		return 0
	}
	return sample[0].Value.Float64()
}

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
	// that a collection pays: by this share of the allowance.
	worthwhile = 12
	// tidy is how many idle breaths lie between two times that pages of the
	// executable are given back, and steadyTidy how many for a process that should always
	// be small. The kernel maps sixteen for each that is touched, 30 MB within ten seconds
	// of doing nothing; mapping those in use again takes about a millisecond.
	tidy, steadyTidy = 3, 1
)

// watcher decides what to give back.
type watcher struct {
	allowance uint64

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
	return w.calm >= rest && w.since >= pause && heap > w.heap+w.allowance/worthwhile, w.calm%w.tidy() == 0
}

func (w *watcher) tidy() int {
	if w.allowance <= Steady {
		return steadyTidy
	}
	return tidy
}

// gaveBack notes that memory has been given back, at the expense of some
// processor time.
func (w *watcher) gaveBack(used time.Duration, heap uint64) {
	w.used, w.heap, w.since = used, heap, 0
}

// KeepSmall trims now and, until ctx ends, whenever the process is idle, and
// keeps the heap to the allowance (Bursts or Steady).
func KeepSmall(ctx context.Context, allowance uint64) error {
	if err := Trim(); err != nil {
		return err
	}
	w, p, last := &watcher{allowance: allowance, used: processorTime(), heap: read(currentHeap), since: pause}, &pacing{least: allowance, allowance: allowance}, time.Now()
	p.adjust()
	tick := time.NewTicker(breath)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		before := w.used
		giveBack, tidyUp := w.breathe(processorTime(), time.Since(last), read(currentHeap))
		p.follow(readSeconds(collectorTime)-readSeconds(collectorIdle), w.used-before)
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
