package bench

import (
	"bufio"
	"bytes"
	"debug/elf"
	"debug/gosym"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

// BenchmarkSplit says which part of Gantry uses the CPU time of a scale-out from 1
// to 200: perf samples `gantry serve`, each sample belongs to the innermost
// function of a known part, and the samples' shares divide the time that was
// measured. Node path is what is left when deciding is free: the node agent with
// its driver and network, the shim, the containers' start and the kernel's threads.
// What belongs to no part (the Go runtime: collector, scheduler) is divided as the rest.
func BenchmarkSplit(b *testing.B) {
	testenv.NeedContainers(b)
	perf := testenv.NeedProgram(b, "perf", "linux-perf")
	many := max(2, number(b, "BENCH_MANY", 200))
	for b.Loop() {
		in := instance.Start(b, instance.Options{})
		in.BaseImages(b)
		d := newDeployment(b, in)
		d.scale(many) // what happens once in a life is over
		d.scale(0)
		d.scale(1)
		record := filepath.Join(b.TempDir(), "samples")
		sampling := exec.Command(perf, "record", "-q", "-F", "499", "-g", "-p", strconv.Itoa(in.PID()), "-o", record)
		var complaint bytes.Buffer
		sampling.Stderr = &complaint
		must(b, sampling.Start())
		before := measure(b, d)
		began := time.Now()
		d.scale(many)
		took := time.Since(began)
		used := measure(b, d).since(before)
		must(b, sampling.Process.Signal(syscall.SIGINT))
		_ = sampling.Wait() // ends with the signal it was sent
		if complaint.Len() > 0 {
			b.Logf("perf: %s", complaint.String())
		}
		shares := readSamples(b, perf, record, in.Program)
		printSplit(shares, used, many-1, took)
		d.scale(0)
	}
}

// ofParts are the packages of each part of serve, by the beginning of their names.
var ofParts = map[string][]string{
	"node agent":  {"github.com/gantryhq/gantry/engine/node", "github.com/gantryhq/gantry/engine/image", "github.com/gantryhq/gantry/engine/shim"},
	"network":     {"github.com/gantryhq/gantry/engine/network", "github.com/vishvananda/netlink"},
	"API":         {"github.com/gantryhq/gantry/engine/apiserver", "github.com/gantryhq/gantry/engine/store", "k8s.io/apiserver", "k8s.io/kubernetes/pkg/registry", "sigs.k8s.io/structured-merge-diff", "go.etcd.io/bbolt"},
	"controllers": {"github.com/gantryhq/gantry/engine/controllers", "k8s.io/kubernetes/pkg/controller", "k8s.io/kubernetes/pkg/scheduler"},
	"services":    {"github.com/gantryhq/gantry/services"},
}

// nodePath are the parts that start a container, in contrast to those that decide it.
var nodePath = []string{"node agent", "network"}

// nowhere is for samples of no part.
const nowhere = "other"

// partOf is the part of a function, or "".
func partOf(function string) string {
	for part, packages := range ofParts {
		for _, name := range packages {
			if strings.HasPrefix(function, name) {
				return part
			}
		}
	}
	return ""
}

// readSamples counts the samples of each part.
func readSamples(t testing.TB, perf, record, program string) map[string]int {
	t.Helper()
	table, base := functions(t, program)
	out, err := exec.Command(perf, "script", "-i", record, "-F", "ip").Output()
	must(t, err)
	counts, part, inSample := map[string]int{}, "", false
	for lines := bufio.NewScanner(bytes.NewReader(append(out, '\n'))); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" { // the end of a sample
			if inSample {
				if part == "" {
					part = nowhere
				}
				counts[part]++
			}
			part, inSample = "", false
			continue
		}
		inSample = true
		address, err := strconv.ParseUint(strings.Fields(line)[0], 16, 64)
		if f := table.PCToFunc(address + base); err == nil && part == "" && f != nil {
			part = partOf(f.Name)
		}
	}
	return counts
}

// functions reads the names of a program's functions, which are in stripped ones,
// too, and what has to be added to perf's addresses, which are offsets in the file.
func functions(t testing.TB, program string) (table *gosym.Table, base uint64) {
	t.Helper()
	file, err := elf.Open(program)
	must(t, err)
	defer file.Close()
	lines, text := file.Section(".gopclntab"), file.Section(".text")
	if lines == nil || text == nil {
		t.Fatalf("%s is no Go program", program)
	}
	data, err := lines.Data()
	must(t, err)
	table, err = gosym.NewTable(nil, gosym.NewLineTable(data, text.Addr))
	must(t, err)
	return table, text.Addr - text.Offset
}

func printSplit(counts map[string]int, used usage, pods int, took time.Duration) {
	perPod := func(d time.Duration) float64 { return milliseconds(d) / float64(pods) }
	known := 0
	for part, n := range counts {
		if part != nowhere {
			known += n
		}
	}
	fmt.Printf("1 to %d in %.0f ms, sampled; CPU ms per pod:\n", pods+1, milliseconds(took))
	node := perPod(used.containers + used.kernel)
	for _, part := range slices.Sorted(maps.Keys(counts)) {
		if part == nowhere || known == 0 {
			continue
		}
		cpu := perPod(used.control) * float64(counts[part]) / float64(known)
		fmt.Printf("  %-12s %6.2f  (%d samples)\n", part, cpu, counts[part])
		if slices.Contains(nodePath, part) {
			node += cpu
		}
	}
	fmt.Printf("  %-12s %6.2f\n  %-12s %6.2f\n", "shim, init", perPod(used.containers), "kernel", perPod(used.kernel))
	fmt.Printf("  %d samples of no part were divided among the parts\n", counts[nowhere])
	whole := perPod(used.control + used.containers + used.kernel)
	fmt.Printf("whole path %.2f, at most 8; node path %.2f, at most 4\n", whole, node)
}
