package runc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// Update changes the limits of a running container. Limits that are zero stay
// as they are.
func (d *Driver) Update(ctx context.Context, id string, limits runtime.Resources) error {
	r, err := d.record(id)
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	resources, err := d.resources(&limits)
	if err != nil {
		return fmt.Errorf("update container %q: %w", id, err)
	}
	resources.Devices, resources.HugepageLimits = nil, nil // runc can change neither
	text, err := json.Marshal(resources)
	if err != nil {
		return err
	}
	log := filepath.Join(d.dir(id), d.execName()+".log")
	defer os.Remove(log)
	command := append(d.runtimeCommand(r, log), "update", "--resources", "-", id)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = runtimeEnv(r.Runtime)
	cmd.Stdin = bytes.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		message := lastError(log)
		if message == "" {
			message = strings.TrimSpace(string(out))
		}
		return fmt.Errorf("update container %q: %w: %s", id, err, message)
	}
	return nil
}

// Stats reads the container's control group. An exited container has no numbers
// once its group is empty of meaning; what is left of them is returned.
func (d *Driver) Stats(_ context.Context, id string) (runtime.Stats, error) {
	r, err := d.record(id)
	if err != nil {
		return runtime.Stats{}, fmt.Errorf("statistics: %w", err)
	}
	read := d.cgroups.statsV1
	if d.cgroups.unified != "" {
		read = d.cgroups.statsV2
	}
	stats, err := read(r.Cgroup)
	if err != nil {
		return stats, fmt.Errorf("statistics of container %q: %w", id, err)
	}
	return stats, nil
}

func (g *cgroups) statsV1(path string) (runtime.Stats, error) {
	memory, cpu := g.dir("memory", path), g.dir("cpuacct", path)
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
	if pids := g.dir("pids", path); pids != "" {
		s.Pids, _ = readNumber(filepath.Join(pids, "pids.current"))
	}
	if throttled, err := readTable(filepath.Join(g.dir("cpu", path), "cpu.stat")); err == nil {
		s.ThrottledPeriods = throttled["nr_throttled"]
	}
	return s, nil
}

func (g *cgroups) statsV2(path string) (runtime.Stats, error) {
	dir := g.dir("", path)
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
