package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// Stats reads a group's numbers. Errors for a group that is gone satisfy
// errors.Is(err, fs.ErrNotExist).
func (t *Tree) Stats(path string) (runtime.Stats, error) {
	if t.unified != "" {
		return t.statsV2(path)
	}
	return t.statsV1(path)
}

func (t *Tree) statsV1(path string) (runtime.Stats, error) {
	memory, cpu := t.Dir("memory", path), t.Dir("cpuacct", path)
	s := runtime.Stats{At: time.Now()}
	var err error
	if s.CPUNanos, err = readNumber(filepath.Join(cpu, "cpuacct.usage")); err != nil {
		return s, err
	}
	if s.MemoryBytes, err = readNumber(filepath.Join(memory, "memory.usage_in_bytes")); err != nil {
		return s, err
	}
	detail, err := readTable(filepath.Join(memory, "memory.stat"))
	if err != nil {
		return s, err
	}
	s.WorkingSetBytes = s.MemoryBytes - min(s.MemoryBytes, detail["total_inactive_file"])
	if pids := t.Dir("pids", path); pids != "" {
		s.Pids, _ = readNumber(filepath.Join(pids, "pids.current"))
	}
	if throttled, err := readTable(filepath.Join(t.Dir("cpu", path), "cpu.stat")); err == nil {
		s.ThrottledPeriods = throttled["nr_throttled"]
	}
	return s, nil
}

func (t *Tree) statsV2(path string) (runtime.Stats, error) {
	dir := t.Dir("", path)
	s := runtime.Stats{At: time.Now()}
	cpu, err := readTable(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return s, err
	}
	s.CPUNanos, s.ThrottledPeriods = cpu["usage_usec"]*1000, cpu["nr_throttled"]
	if s.MemoryBytes, err = readNumber(filepath.Join(dir, "memory.current")); err != nil {
		return s, err
	}
	detail, err := readTable(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return s, err
	}
	s.WorkingSetBytes = s.MemoryBytes - min(s.MemoryBytes, detail["inactive_file"])
	s.Pids, err = readNumber(filepath.Join(dir, "pids.current"))
	return s, err
}

// gone turns the error of reading a removed control group into one that says so.
func gone(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w (%w)", err, fs.ErrNotExist)
	}
	return err
}

func readNumber(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, gone(err)
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// readTable reads lines of a name and a number.
func readTable(path string) (map[string]uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, gone(err)
	}
	table := map[string]uint64{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok {
			if n, err := strconv.ParseUint(value, 10, 64); err == nil {
				table[name] = n
			}
		}
	}
	return table, nil
}
