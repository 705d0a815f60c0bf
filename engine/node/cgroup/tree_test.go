package cgroup

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantryhq/gantry/engine/node/mountinfo"
)

// unified stands in for a cgroup v2 host: files where the kernel has them.
func unified(t *testing.T, files map[string]string) *Tree {
	t.Helper()
	g := &Tree{root: "/gantry-test", unified: t.TempDir(), parents: &parents{use: map[string]int{}}}
	for name, text := range files {
		path := filepath.Join(g.unified, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func TestStatisticsOfCgroupV2(t *testing.T) {
	g := unified(t, map[string]string{
		"gantry-test/pod/c/cpu.stat":       "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 9\nnr_throttled 2\n",
		"gantry-test/pod/c/memory.current": "1000\n",
		"gantry-test/pod/c/memory.stat":    "anon 600\ninactive_file 300\n",
		"gantry-test/pod/c/pids.current":   "3\n",
	})
	s, err := g.statsV2("/gantry-test/pod/c")
	if err != nil {
		t.Fatal(err)
	}
	if s.CPUNanos != 1500000 || s.MemoryBytes != 1000 || s.WorkingSetBytes != 700 || s.Pids != 3 || s.ThrottledPeriods != 2 {
		t.Errorf("statistics %+v", s)
	}
	if _, err := g.statsV2("/gantry-test/pod/other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a group that is gone: %v", err)
	}
}

func TestControllersOfCgroupV2(t *testing.T) {
	g := unified(t, map[string]string{"cgroup.controllers": "cpuset cpu io memory hugetlb pids\n"})
	if !g.Has("memory") || !g.Has("cpu") || g.Has("rdma") {
		t.Error("the controllers are read wrongly")
	}
	if got, want := g.OOMFile("/gantry-test/c"), filepath.Join(g.unified, "gantry-test/c/memory.events"); got != want {
		t.Errorf("counter of kills %q, want %q", got, want)
	}
}

func TestProcessesOfNestedGroups(t *testing.T) {
	g := unified(t, map[string]string{
		"gantry-test/c/cgroup.procs":       "10\n11\n",
		"gantry-test/c/inner/cgroup.procs": "12\n",
		"gantry-test/d/cgroup.procs":       "99\n",
	})
	pids, err := g.Processes("/gantry-test/c")
	if err != nil || len(pids) != 3 {
		t.Errorf("processes %v, %v", pids, err)
	}
	if pids, err := g.Processes("/gantry-test/none"); err != nil || len(pids) != 0 {
		t.Errorf("a group that does not exist: %v, %v", pids, err)
	}
}

func TestEmptyParentsGoButNotThoseInUse(t *testing.T) {
	g := unified(t, map[string]string{"gantry-test/burstable/a/.keep": "", "gantry-test/burstable/b/c/.keep": ""})
	for _, keep := range []string{"a/.keep", "b/c/.keep"} {
		if err := os.Remove(filepath.Join(g.unified, "gantry-test/burstable", keep)); err != nil {
			t.Fatal(err)
		}
	}
	release := g.Use("/gantry-test/burstable/a/new")
	if err := g.Remove(t.Context(), "/gantry-test/burstable/b/c"); err != nil {
		t.Fatal(err)
	}
	exists := func(path string) bool { _, err := os.Stat(filepath.Join(g.unified, path)); return err == nil }
	if exists("gantry-test/burstable/b") || !exists("gantry-test/burstable/a") || !exists("gantry-test/burstable") {
		t.Error("the empty parent should go, the ones in use stay")
	}
	release()
	if err := g.Remove(t.Context(), "/gantry-test/burstable/a"); err != nil {
		t.Fatal(err)
	}
	if exists("gantry-test/burstable") || !exists("gantry-test") {
		t.Error("all empty parents should go, up to the root")
	}
}

func TestHierarchiesMountedElsewhereAreNotTheHosts(t *testing.T) {
	other := func(kind, options, point string) mountinfo.Mount {
		return mountinfo.Mount{Kind: kind, Options: options, Point: point}
	}
	table := []mountinfo.Mount{
		other("cgroup", "rw,memory", "/tmp/chroot/sys/fs/cgroup/memory"),
		other("cgroup", "rw,memory", "/sys/fs/cgroup/memory"),
		other("cgroup2", "rw", "/sys/fs/cgroup/unified"),
		other("cgroup2", "rw", "/tmp/chroot/sys/fs/cgroup/unified"),
		other("cgroup", "ro,cpu,cpuacct", "/cgroups/cpu"),
		other("cgroup", "rw,cpu,cpuacct", "/tmp/chroot/cpu"),
	}
	unified, v1 := hostMounts(table)
	want := map[string]string{"memory": "/sys/fs/cgroup/memory", "": "/sys/fs/cgroup/unified", "cpu": "/cgroups/cpu", "cpuacct": "/cgroups/cpu"}
	if unified != "" || !maps.Equal(v1, want) {
		t.Errorf("got %q and %v, want %v", unified, v1, want)
	}
	if unified, _ := hostMounts(append(table, other("cgroup2", "rw", "/sys/fs/cgroup"))); unified != "/sys/fs/cgroup" {
		t.Errorf("the pure v2 mount is %q", unified)
	}
}
