package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantryhq/gantry/engine/node/mountinfo"
	"github.com/gantryhq/gantry/internal/testenv"
)

// v2Mount is a cgroup v2 file system of this host, also beside v1.
func v2Mount(t *testing.T) string {
	t.Helper()
	testenv.NeedRoot(t)
	table, err := mountinfo.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range table {
		if m.Kind == "cgroup2" {
			return m.Point
		}
	}
	t.Skip("no cgroup v2 is mounted on this host")
	return ""
}

// readable tells which devices a process in a group with these rules can open.
func readable(t *testing.T, rules []specs.LinuxDeviceCgroup, devices ...string) string {
	t.Helper()
	tree := &Tree{root: "/gantry-filter-test", unified: v2Mount(t), parents: &parents{use: map[string]int{}}, filters: filters{}}
	dir := filepath.Join(tree.unified, tree.root)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tree.Remove(t.Context(), tree.root); err != nil {
			t.Error(err)
		}
	}()
	if err := tree.limitDevicesV2(tree.root, rules); err != nil {
		t.Fatal(err)
	}
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	script := "for d in " + strings.Join(devices, " ") + "; do head -c 0 $d 2>/dev/null && echo $d; done"
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	out, _ := cmd.Output()
	return strings.Join(strings.Fields(string(out)), " ")
}

func TestDeviceFilterOfCgroupV2(t *testing.T) {
	no := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	devices := []string{"/dev/null", "/dev/zero", "/dev/kmsg", "/dev/random"}
	if got := readable(t, append(no, everybodys()...), devices...); got != "/dev/null /dev/zero /dev/random" {
		t.Errorf("an ordinary container can open %q", got)
	}
	if got := readable(t, append([]specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, everybodys()...), devices...); got != strings.Join(devices, " ") {
		t.Errorf("a privileged container can open %q", got)
	}
	major, minor := int64(1), int64(5)
	write := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "w"}
	null := everybodys()[2]
	if got := readable(t, append(no, null, write), devices...); got != "/dev/null" {
		t.Errorf("with a device that may only be written, it can read %q", got)
	}
	again := specs.LinuxDeviceCgroup{Allow: false, Type: "c", Major: &major, Minor: &minor, Access: "rwm"}
	if got := readable(t, append(append(no, everybodys()...), again), devices...); got != "/dev/null /dev/random" {
		t.Errorf("with a later rule that forbids zero, it can open %q", got)
	}
}

func TestLimitsOfCgroupV2(t *testing.T) {
	g := unified(t, map[string]string{"gantry-test/c/cgroup.procs": ""})
	for _, name := range []string{"cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "pids.max", "memory.oom.group"} {
		if err := os.WriteFile(filepath.Join(g.unified, "gantry-test/c", name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	shares, quota, period, memory, pids := uint64(1024), int64(20000), uint64(100000), int64(32<<20), int64(33)
	err := g.Update("/gantry-test/c", &specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period},
		Memory:  &specs.LinuxMemory{Limit: &memory, Swap: &memory},
		Pids:    &specs.LinuxPids{Limit: &pids},
		Unified: map[string]string{"memory.oom.group": "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"cpu.weight": "100", "cpu.max": "20000 100000", "memory.max": "33554432", "memory.swap.max": "0", "pids.max": "33", "memory.oom.group": "1",
	} {
		if got, _ := os.ReadFile(filepath.Join(g.unified, "gantry-test/c", name)); string(got) != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestUnknownLimitsAreRefused(t *testing.T) {
	g := unified(t, nil)
	err := g.Create("/gantry-test/c", &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}})
	if err == nil || !strings.Contains(err.Error(), "runc") {
		t.Errorf("a processor set: %v", err)
	}
}
