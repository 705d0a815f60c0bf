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
	s.RSSBytes, s.CacheBytes, s.SwapBytes = detail["total_rss"], detail["total_cache"], detail["total_swap"]
	s.PageFaults, s.MajorPageFaults = detail["total_pgfault"], detail["total_pgmajfault"]
	if pids := t.Dir("pids", path); pids != "" {
		s.Pids, _ = readNumber(filepath.Join(pids, "pids.current"))
		s.Processes = countLines(filepath.Join(pids, "cgroup.procs"))
	}
	if throttled, err := readTable(filepath.Join(t.Dir("cpu", path), "cpu.stat")); err == nil {
		s.Periods, s.ThrottledPeriods, s.ThrottledNanos = throttled["nr_periods"], throttled["nr_throttled"], throttled["throttled_time"]
	}
	if by, err := readTable(filepath.Join(cpu, "cpuacct.stat")); err == nil {
		s.UserNanos, s.SystemNanos = by["user"]*tick, by["system"]*tick
	}
	if oom, err := readTable(filepath.Join(memory, "memory.oom_control")); err == nil {
		s.OOMKills = oom["oom_kill"]
	}
	return s, nil
}

// tick is the unit of times in cpuacct.stat (USER_HZ), nanoseconds.
const tick = uint64(time.Second / 100)

func (t *Tree) statsV2(path string) (runtime.Stats, error) {
	dir := t.Dir("", path)
	s := runtime.Stats{At: time.Now()}
	cpu, err := readTable(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return s, err
	}
	s.CPUNanos, s.UserNanos, s.SystemNanos = cpu["usage_usec"]*1000, cpu["user_usec"]*1000, cpu["system_usec"]*1000
	s.Periods, s.ThrottledPeriods, s.ThrottledNanos = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_usec"]*1000
	if s.MemoryBytes, err = readNumber(filepath.Join(dir, "memory.current")); err != nil {
		return s, err
	}
	detail, err := readTable(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return s, err
	}
	s.WorkingSetBytes = s.MemoryBytes - min(s.MemoryBytes, detail["inactive_file"])
	s.RSSBytes, s.CacheBytes = detail["anon"], detail["file"]
	s.PageFaults, s.MajorPageFaults = detail["pgfault"], detail["pgmajfault"]
	s.SwapBytes, _ = readNumber(filepath.Join(dir, "memory.swap.current")) // only with swap accounting
	if events, err := readTable(filepath.Join(dir, "memory.events")); err == nil {
		s.OOMKills = events["oom_kill"]
	}
	readIO(filepath.Join(dir, "io.stat"), &s)
	s.Processes = countLines(filepath.Join(dir, "cgroup.procs"))
	s.Pids, err = readNumber(filepath.Join(dir, "pids.current"))
	return s, err
}

// readIO sums up all devices of an io.stat, whose lines are like "8:0 rbytes=1 wbytes=2 rios=3 wios=4". The
// file exists only with the io controller.
func readIO(path string, s *runtime.Stats) {
	b, _ := os.ReadFile(path)
	for field := range strings.FieldsSeq(string(b)) {
		name, value, _ := strings.Cut(field, "=")
		n, _ := strconv.ParseUint(value, 10, 64)
		switch name {
		case "rbytes":
			s.ReadBytes += n
		case "wbytes":
			s.WrittenBytes += n
		case "rios":
			s.Reads += n
		case "wios":
			s.Writes += n
		}
	}
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

// countLines counts the lines of a file; one that is gone has none.
func countLines(path string) uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	return uint64(bytes.Count(b, []byte{'\n'}))
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
