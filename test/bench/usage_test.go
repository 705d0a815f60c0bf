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

// usage is CPU time used up to now.
type usage struct {
	serve   time.Duration // by Gantry's processes but the shim, and their ended children
	shim    time.Duration // by the shim, its ended children and the containers
	machine time.Duration // by everything on the machine, the kernel's own work included
}

func (u usage) since(before usage) usage {
	return usage{serve: u.serve - before.serve, shim: u.shim - before.shim, machine: u.machine - before.machine}
}

// process is one line of the process table.
type process struct {
	parent int
	cpu    time.Duration // own and of ended children it waited for
	ours   bool          // its command line names the data directory
	shim   bool
}

// processes reads the process table. Processes may end meanwhile.
func processes(dataDir string) map[int]process {
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
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		p.ours = bytes.Contains(command, []byte(dataDir))
		p.shim = p.ours && bytes.Contains(command, []byte("gantry-shim\x00serve"))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		table[pid] = p
	}
	return table
}

// measure reads the CPU time that an instance and the machine have used.
func measure(t testing.TB, dataDir string) usage {
	t.Helper()
	u := usage{}
	table := processes(dataDir)
	for pid, p := range table {
		for up := pid; up > 1; up = table[up].parent {
			if table[up].shim { // itself a child of serve, or of nobody
				u.shim += p.cpu
				break
			}
			if table[up].ours {
				u.serve += p.cpu
				break
			}
		}
	}
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:9] {
		if idle := i == 3 || i == 4; !idle { // idle and waiting for the disk
			ticks, _ := strconv.Atoi(field)
			u.machine += time.Duration(ticks) * tick
		}
	}
	return u
}

// memory is the proportional set size of Gantry's own processes in MB, without
// the containers.
func memory(t testing.TB, dataDir string) float64 {
	t.Helper()
	total := 0
	for pid, p := range processes(dataDir) {
		if !p.ours {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(text)) {
			if kb, ok := strings.CutPrefix(line, "Pss:"); ok {
				n, _ := strconv.Atoi(strings.Fields(kb)[0])
				total += n
			}
		}
	}
	return float64(total) / 1024
}
