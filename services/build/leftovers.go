package build

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/services/build/sandbox"
)

// cgroupParent names the cgroup of all steps of this instance.
func cgroupParent(dataDir string) string {
	return fmt.Sprintf("gantry-build-%x", sha256.Sum256([]byte(dataDir)))[:len("gantry-build-")+8]
}

// removeLeftovers removes what a worker that was killed left in the kernel:
// steps that still run, their mounts and their cgroups. The caller holds the
// worker's lock, so nothing here belongs to a living one.
func removeLeftovers(dataDir string) error {
	if err := killSteps(dataDir); err != nil {
		return err
	}
	if err := sandbox.Remove(cgroupParent(dataDir)); err != nil {
		return err
	}
	p := pathsOf(dataDir)
	if err := unmountBelow(p.dir); err != nil {
		return err
	}
	if err := os.RemoveAll(p.tmp); err != nil {
		return fmt.Errorf("remove temporary files: %w", err)
	}
	return nil
}

// unmountBelow unmounts what is below dir, but not dir itself, which may be a
// file system of its own.
func unmountBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return fmt.Errorf("list mounts below %s: %w", dir, err)
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", mounts[i].Mountpoint, err)
		}
	}
	return nil
}

// killSteps ends the processes in our cgroups and waits until they are gone.
func killSteps(dataDir string) error {
	const patience, poll = 5 * time.Second, 10 * time.Millisecond
	for deadline := time.Now().Add(patience); ; time.Sleep(poll) {
		pids := stepPIDs(dataDir)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v of a former build do not end", pids)
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("end process %d of a former build: %w", pid, err)
			}
		}
	}
}

// cgroupDirs are our cgroups in the unified hierarchy or in each of v1's.
func cgroupDirs(dataDir string) []string {
	var dirs []string
	for _, pattern := range []string{"/sys/fs/cgroup/%s", "/sys/fs/cgroup/*/%s"} {
		found, err := filepath.Glob(fmt.Sprintf(pattern, cgroupParent(dataDir)))
		if err == nil { // the patterns are constant and valid
			dirs = append(dirs, found...)
		}
	}
	return dirs
}

func stepPIDs(dataDir string) []int {
	var pids []int
	for _, dir := range cgroupDirs(dataDir) {
		files, err := filepath.Glob(filepath.Join(dir, "buildkit", "*", "cgroup.procs"))
		if err != nil {
			continue
		}
		for _, f := range files {
			blob, err := os.ReadFile(f)
			if err != nil {
				continue // the cgroup went away
			}
			for _, field := range strings.Fields(string(blob)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}
