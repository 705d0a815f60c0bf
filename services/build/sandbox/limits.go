package sandbox

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"
)

const (
	defaultProcesses = 8192
	// cpuShares of all steps together is the kernel's default for one group: in a
	// contest they have as much as all pods together. With less, a build on a busy
	// machine would starve beside every single process that is in no group.
	cpuShares = 1024
)

// limit makes the control group of all steps, with limits.
func limit(cfg Config) error {
	memory := cfg.Memory
	if memory == 0 {
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil {
			return err
		}
		memory = int64(info.Totalram) * int64(info.Unit) / 4 * 3
	}
	processes := cmp.Or(cfg.Processes, defaultProcesses)
	group := &cgroups.Cgroup{
		Path: filepath.Join("/", cfg.Name),
		Resources: &cgroups.Resources{
			Memory: memory, PidsLimit: &processes, CpuShares: cpuShares,
			CpuWeight: cgroups.ConvertCPUSharesToCgroupV2Value(cpuShares), SkipDevices: true,
		},
	}
	m, err := manager.New(group)
	if err != nil {
		return err
	}
	if err := m.Apply(-1); err != nil { // -1: no process yet
		return err
	}
	return m.Set(group.Resources)
}

// groupDirs are the groups of a name in the unified hierarchy or in each of v1's.
func groupDirs(name string) []string {
	var dirs []string
	for _, pattern := range []string{"/sys/fs/cgroup/%s", "/sys/fs/cgroup/*/%s"} {
		found, err := filepath.Glob(fmt.Sprintf(pattern, name))
		if err == nil { // the patterns are constant and valid
			dirs = append(dirs, found...)
		}
	}
	return dirs
}

// removeGroups removes the empty groups that runc leaves behind. One with a process
// in it stays, rightly: the kernel refuses.
func removeGroups(name string) {
	for _, dir := range groupDirs(name) {
		steps, err := filepath.Glob(filepath.Join(dir, "buildkit", "*"))
		if err != nil {
			continue
		}
		for _, path := range append(steps, filepath.Join(dir, "buildkit"), dir) {
			_ = os.Remove(path)
		}
	}
}

var stepID = regexp.MustCompile(`^[a-z0-9]{25}$`)

// removeStates removes what runc noted of steps whose runner was killed. A step's
// id is the name of its group.
func removeStates(name string) {
	for _, dir := range groupDirs(name) {
		steps, err := filepath.Glob(filepath.Join(dir, "buildkit", "*"))
		if err != nil {
			continue
		}
		for _, path := range steps {
			if id := filepath.Base(path); stepID.MatchString(id) {
				_ = os.RemoveAll(filepath.Join("/run/runc", id))
			}
		}
	}
}
