package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// tick is the unit of CPU times in /proc: USER_HZ, 100 on every Linux port in use.
const tick = 10 * time.Millisecond

// part is what a process does for an orchestrator.
type part int

const (
	nobody     part = iota // it belongs to someone else
	control                // it decides and serves: Gantry without the shim, dockerd and containerd
	containers             // it is a container or makes and keeps them: the shim, the OCI runtime
)

// usage is CPU time used: up to now as measure returns it, in between as since does.
type usage struct {
	control    time.Duration // by its processes and their ended children
	containers time.Duration // by its processes and their ended children
	kernel     time.Duration // by the kernel's threads, for whoever caused the work
	machine    time.Duration // by everything, this program included

	// inner are processes inside containers but their first ones. With its container such a
	// one ends without anybody inheriting its time.
	inner map[int]time.Duration

	threads map[int]time.Duration // of the kernel, by process ID; they come and go, and nobody inherits their time
}

// since is what was used after before.
func (u usage) since(before usage) usage {
	used := usage{control: u.control - before.control, containers: u.containers - before.containers, machine: u.machine - before.machine}
	for pid, cpu := range before.inner {
		if _, lives := u.inner[pid]; !lives {
			used.containers += cpu
		}
	}
	for pid, cpu := range u.threads {
		used.kernel += max(0, cpu-before.threads[pid])
	}
	return used
}

// add counts more to u.
func (u *usage) add(more usage) {
	u.control += more.control
	u.containers += more.containers
	u.kernel += more.kernel
	u.machine += more.machine
}

// process is one line of the process table.
type process struct {
	parent  int
	cpu     time.Duration // own and of ended children it waited for
	command string        // arguments, each ended by a NUL
}

// kernelThreads is the parent of the kernel's threads.
const kernelThreads = 2

// processes reads the process table. Processes may end meanwhile.
func processes() map[int]process {
	table := map[int]process{}
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// The name, in parentheses, may contain anything; what follows are fields 3 and up.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		p := process{}
		p.parent, _ = strconv.Atoi(fields[1])
		for _, field := range fields[11:15] { // utime, stime, cutime, cstime
			ticks, _ := strconv.Atoi(field)
			p.cpu += time.Duration(ticks) * tick
		}
		// A container's process that has just started has used less than a tick, which counts
		// as nothing there. The scheduler knows it to the nanosecond, of one thread.
		p.cpu = max(p.cpu, scheduled(filepath.Join(filepath.Dir(path), "schedstat")))
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		p.command = string(command)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		table[pid] = p
	}
	return table
}

// scheduled is how long the first thread of a process has run, or 0.
func scheduled(schedstat string) time.Duration {
	text, err := os.ReadFile(schedstat)
	if err != nil {
		return 0 // ended, or a kernel that does not count
	}
	ns, _, _ := strings.Cut(string(text), " ")
	n, _ := strconv.ParseInt(ns, 10, 64)
	return time.Duration(n)
}

// keeps says whether a command is one that keeps containers, which inherits the time of
// their first processes.
func keeps(command string) bool {
	program, _, _ := strings.Cut(command, "\x00")
	return isShim(command) || filepath.Base(program) == "containerd-shim-runc-v2"
}

// measure reads the CPU time that a system and the machine have used.
func measure(t testing.TB, s system) usage {
	t.Helper()
	u, table := usage{threads: map[int]time.Duration{}, inner: map[int]time.Duration{}}, processes()
	for pid, p := range table {
		if p.parent == kernelThreads {
			u.threads[pid] = p.cpu
			continue
		}
		switch s.part(table, pid) {
		case control:
			u.control += p.cpu
		case containers:
			u.containers += p.cpu
			if parent := table[p.parent]; !keeps(p.command) && !keeps(parent.command) && s.part(table, p.parent) == containers {
				u.inner[pid] = p.cpu
			}
		}
	}
	text, err := os.ReadFile("/proc/stat")
	must(t, err)
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:9] {
		if idle := i == 3 || i == 4; !idle { // idle and waiting for the disk
			ticks, _ := strconv.Atoi(field)
			u.machine += time.Duration(ticks) * tick
		}
	}
	return u
}

// memory is what a system's processes hold, without the containers.
type memory struct {
	Replicas    int     `json:"replicas"`
	AllMB       float64 `json:"allMB"`       // proportional set size of all of them
	ServeMB     float64 `json:"serveMB"`     // proportional set size of `gantry serve`
	ServeAnonMB float64 `json:"serveAnonMB"` // the part of it that is not files: heap and stacks
	ShimMB      float64 `json:"shimMB"`      // resident set size of the shim: the larger of the two
}

// memorySizes sums a field of smaps_rollup, in MB, over processes.
func memorySizes(field string, pids ...int) float64 {
	total := 0
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(text)) {
			if kb, ok := strings.CutPrefix(line, field+":"); ok {
				n, _ := strconv.Atoi(strings.Fields(kb)[0])
				total += n
			}
		}
	}
	return float64(total) / 1024
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
