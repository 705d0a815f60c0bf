package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// setting is one value to write into a group, and the controller it belongs to.
type setting struct {
	controller, file, value string
	// optional settings exist only on some kernels.
	optional bool
}

// Create makes a group with its parents and sets the limits of a container. It
// refuses limits that it does not know, rather than leave them out.
func (t *Tree) Create(path string, r *specs.LinuxResources) error {
	settings, err := t.settings(r)
	if err != nil {
		return fmt.Errorf("make cgroup %s: %w", path, err)
	}
	if t.unified != "" {
		err = t.createV2(path, settings)
	} else {
		err = t.createV1(path, settings)
	}
	if err == nil {
		err = t.limitDevices(path, r)
	}
	if err != nil {
		return fmt.Errorf("make cgroup %s: %w", path, err)
	}
	return nil
}

// Update changes limits of a group that exists. Zero values stay as they are.
func (t *Tree) Update(path string, r *specs.LinuxResources) error {
	settings, err := t.settings(r)
	if err == nil {
		err = t.write(path, settings)
	}
	if errors.Is(err, unix.EINVAL) {
		// A limit of memory may not exceed the one of memory and swap: when both
		// rise, the second comes first.
		slices.Reverse(settings)
		err = t.write(path, settings)
	}
	if err != nil {
		return fmt.Errorf("update cgroup %s: %w", path, err)
	}
	return nil
}

// Procs returns the files that a pid is written to in order to put a process
// into a group; on v2 the process is born into Dir instead.
func (t *Tree) Procs(path string) []string {
	var files []string
	for _, controller := range t.joined() {
		files = append(files, filepath.Join(t.v1[controller], path, "cgroup.procs"))
	}
	return files
}

// always are the v1 controllers that every container is in: those that limit it
// and by which it is measured and ended. Each costs a migration, so others are
// joined by nobody.
var always = []string{"memory", "cpu", "cpuacct", "pids", "devices", "hugetlb"}

// telling are those that programs read their limits from.
var telling = []string{"memory", "cpu", "cpuacct", "pids", "hugetlb"}

// joined returns the controllers that containers are in.
func (t *Tree) joined() []string { return t.mounted(always) }

// mounted returns those of some controllers that the host has, each hierarchy once.
func (t *Tree) mounted(some []string) []string {
	var controllers, mounts []string
	for _, c := range some {
		if mount := t.v1[c]; mount != "" && !slices.Contains(mounts, mount) {
			controllers, mounts = append(controllers, c), append(mounts, mount)
		}
	}
	return controllers
}

func (t *Tree) createV1(path string, settings []setting) error {
	for _, controller := range t.joined() {
		if err := makeGroup(filepath.Join(t.v1[controller], path)); err != nil {
			return err
		}
	}
	return t.write(path, settings)
}

// makeGroup makes a directory; its parents mostly exist.
func makeGroup(dir string) error {
	err := unix.Mkdir(dir, 0o755)
	if err == unix.ENOENT {
		return os.MkdirAll(dir, 0o755)
	}
	if err != nil && err != unix.EEXIST {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return nil
}

func (t *Tree) createV2(path string, settings []setting) error {
	dir := filepath.Join(t.unified, path)
	err := unix.Mkdir(dir, 0o755)
	if err == unix.ENOENT {
		err = t.makeParents(path)
		if err == nil {
			err = unix.Mkdir(dir, 0o755)
		}
	}
	if err != nil && err != unix.EEXIST {
		return fmt.Errorf("mkdir %s: %w", dir, err)
	}
	return t.write(path, settings)
}

// makeParents makes the groups above path, each with the controllers for the
// next one.
func (t *Tree) makeParents(path string) error {
	available, err := os.ReadFile(filepath.Join(t.unified, "cgroup.controllers"))
	if err != nil {
		return err
	}
	dir := t.unified
	for _, name := range strings.Split(strings.Trim(filepath.Dir(path), "/"), "/") {
		for controller := range strings.FieldsSeq(string(available)) {
			// One by one: a controller that others hold back must not hold back all.
			_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
		}
		dir = filepath.Join(dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for controller := range strings.FieldsSeq(string(available)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
	}
	return nil
}

func (t *Tree) write(path string, settings []setting) error {
	for _, s := range settings {
		dir := t.Dir(s.controller, path)
		if dir == "" {
			return fmt.Errorf("set %s: the host has not mounted the %s controller", s.file, s.controller)
		}
		err := writeFile(filepath.Join(dir, s.file), s.value)
		if errors.Is(err, fs.ErrNotExist) && s.optional {
			continue
		}
		if err != nil {
			return fmt.Errorf("set %s to %s: %w", s.file, s.value, err)
		}
	}
	return nil
}

func writeFile(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := writeAll(fd, value); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// writeAll repeats what a signal interrupts: the kernel gives up setting a memory limit
// when one is pending, and the Go runtime sends its threads signals.
func writeAll(fd int, value string) error {
	for {
		if _, err := unix.Write(fd, []byte(value)); err != unix.EINTR {
			return err
		}
	}
}

// settings translates limits into files of this host's version.
func (t *Tree) settings(r *specs.LinuxResources) ([]setting, error) {
	if r == nil {
		return nil, nil
	}
	if err := unknown(r); err != nil {
		return nil, err
	}
	if t.unified != "" {
		return settingsV2(r)
	}
	if len(r.Unified) > 0 {
		return nil, errors.New("settings of cgroup v2 were asked for, and this host has version 1")
	}
	return settingsV1(r), nil
}

// unknown refuses limits that nobody in this package sets.
func unknown(r *specs.LinuxResources) error {
	what := ""
	switch c := r.CPU; {
	case c == nil:
	case c.Cpus != "" || c.Mems != "":
		what = "processor sets"
	case c.RealtimePeriod != nil && *c.RealtimePeriod != 0 || c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0:
		what = "realtime scheduling"
	case c.Burst != nil && *c.Burst != 0 || c.Idle != nil && *c.Idle != 0:
		what = "processor bursts and idle groups"
	}
	switch {
	case r.BlockIO != nil:
		what = "block device limits"
	case r.Network != nil && (r.Network.ClassID != nil || len(r.Network.Priorities) > 0):
		what = "network classes"
	case len(r.Rdma) > 0:
		what = "RDMA limits"
	}
	if what == "" {
		return nil
	}
	return fmt.Errorf("%s are not known to gantry's own launcher: use the RuntimeClass handler runc", what)
}

func settingsV1(r *specs.LinuxResources) (s []setting) {
	number := func(controller, file string, n *int64) {
		if n != nil && *n != 0 {
			s = append(s, setting{controller: controller, file: file, value: strconv.FormatInt(*n, 10)})
		}
	}
	if c := r.CPU; c != nil {
		number("cpu", "cpu.shares", signed(c.Shares))
		number("cpu", "cpu.cfs_period_us", signed(c.Period))
		number("cpu", "cpu.cfs_quota_us", c.Quota)
	}
	if m := r.Memory; m != nil {
		number("memory", "memory.limit_in_bytes", m.Limit)
		number("memory", "memory.memsw.limit_in_bytes", m.Swap)
		number("memory", "memory.soft_limit_in_bytes", m.Reservation)
		if m.Swappiness != nil {
			s = append(s, setting{controller: "memory", file: "memory.swappiness", value: strconv.FormatUint(*m.Swappiness, 10)})
		}
		if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
			s = append(s, setting{controller: "memory", file: "memory.oom_control", value: "1"})
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		s = append(s, setting{controller: "pids", file: "pids.max", value: limit(*p.Limit)})
	}
	for _, h := range r.HugepageLimits {
		value := strconv.FormatUint(h.Limit, 10)
		s = append(s, setting{controller: "hugetlb", file: "hugetlb." + h.Pagesize + ".limit_in_bytes", value: value},
			setting{controller: "hugetlb", file: "hugetlb." + h.Pagesize + ".rsvd.limit_in_bytes", value: value, optional: true})
	}
	return s
}

func signed(n *uint64) *int64 {
	if n == nil {
		return nil
	}
	v := int64(*n)
	return &v
}

// limit writes a number of which 0 and less mean no limit.
func limit(n int64) string {
	if n <= 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// ProcsFile lists the processes of a group.
func (t *Tree) ProcsFile(path string) string {
	return filepath.Join(t.Dir("memory", path), "cgroup.procs")
}

// Hierarchies yields the v1 hierarchies that tell a container its limits, by the
// name of their mount point, with its group in each.
func (t *Tree) Hierarchies(path string) iter.Seq2[string, string] {
	return func(yield func(name, dir string) bool) {
		for _, controller := range t.mounted(telling) {
			if mount := t.v1[controller]; !yield(filepath.Base(mount), filepath.Join(mount, path)) {
				return
			}
		}
	}
}
