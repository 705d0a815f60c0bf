// Package host says what this machine can and cannot do for Gantry.
//
// Each check looks, changes nothing, and comes with the remedy where something
// is missing. `gantry doctor` prints all of them; `gantry serve` refuses to
// start on a failed required one. Only cmd/gantry imports this package.
package host

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Level says how bad a failed check is.
type Level string

const (
	// Required: Gantry does not start without it.
	Required Level = "required"
	// Recommended: something works less well or not at all, the rest does.
	Recommended Level = "recommended"
)

// Result is the outcome of one check.
type Result struct {
	Name   string `json:"name"`
	Level  Level  `json:"level"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`           // what was found
	Remedy string `json:"remedy,omitempty"` // what to do when not OK
}

type check struct {
	name  string
	level Level
	look  func(dataDir string) (ok bool, detail, remedy string)
}

// checks is the whole list, in the order printed.
var checks = []check{
	{"root", Required, root},
	{"kernel", Required, kernel},
	{"cgroups", Required, cgroups},
	{"overlayfs", Required, filesystem("overlay", "overlay")},
	{"nftables", Required, nftables},
	{"runc", Required, program("runc", "runc", "--version")},
	{"runtimes", Recommended, runtimes},
	{"seccomp", Required, seccomp},
	{"disk", Recommended, disk},
	{"memory", Recommended, memory},
	{"debootstrap", Recommended, program("debootstrap", "debootstrap", "--version")},
	{"user namespaces", Recommended, userNamespaces},
	{"clock", Recommended, clock},
}

// Check runs every check for an instance whose data is to live in dataDir.
func Check(dataDir string) []Result {
	results := make([]Result, 0, len(checks))
	for _, c := range checks {
		ok, detail, remedy := c.look(dataDir)
		if ok {
			remedy = ""
		}
		results = append(results, Result{c.name, c.level, ok, detail, remedy})
	}
	return results
}

func root(string) (bool, string, string) {
	uid := os.Geteuid()
	return uid == 0, fmt.Sprintf("running as uid %d", uid), "run as root: sudo gantry serve"
}

func kernel(string) (bool, string, string) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false, err.Error(), "run on Linux 5.12 or newer"
	}
	release := unix.ByteSliceToString(u.Release[:])
	return atLeast(release, 5, 12), release, "upgrade to Linux 5.12 or newer, which has mount_setattr(2)"
}

// atLeast compares the beginning of a kernel's release with a version.
func atLeast(release string, major, minor int) bool {
	var a, b int
	_, err := fmt.Sscanf(release, "%d.%d", &a, &b)
	return err == nil && (a > major || a == major && b >= minor)
}

func cgroups(string) (bool, string, string) {
	if data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		for _, want := range []string{"cpu", "memory", "pids"} {
			if !bytes.Contains(data, []byte(want)) {
				return false, "v2 without the " + want + " controller", "enable the " + want + " controller for the root cgroup"
			}
		}
		return true, "v2", ""
	}
	for _, want := range []string{"cpu", "memory", "pids", "devices", "freezer"} {
		if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", want, "cgroup.procs")); err != nil {
			return false, "v1 without the " + want + " controller", "mount cgroups (systemd does), or boot with systemd.unified_cgroup_hierarchy=1"
		}
	}
	return true, "v1", ""
}

func filesystem(name, module string) func(string) (bool, string, string) {
	return func(string) (bool, string, string) {
		data, err := os.ReadFile("/proc/filesystems")
		if err == nil && strings.Contains(string(data), "\t"+name+"\n") {
			return true, "supported", ""
		}
		if exec.Command("modprobe", "-n", module).Run() == nil {
			return true, "as a module", ""
		}
		return false, "not supported by this kernel", "load the kernel module: modprobe " + module
	}
}

func nftables(string) (bool, string, string) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return false, err.Error(), "load the kernel module: modprobe nf_tables"
	}
	unix.Close(fd)
	return true, "netfilter answers", ""
}

func program(name, debianPackage string, arg string) func(string) (bool, string, string) {
	return func(string) (bool, string, string) {
		path, err := exec.LookPath(name)
		if err != nil {
			return false, "not found on the PATH", "apt-get install " + debianPackage
		}
		out, _ := exec.Command(path, arg).Output()
		line, _, _ := strings.Cut(string(out), "\n")
		if line == "" {
			line = path
		}
		return true, line, ""
	}
}

func seccomp(string) (bool, string, string) {
	_, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail")
	return err == nil, found(err), "use a kernel with CONFIG_SECCOMP_FILTER"
}

func userNamespaces(string) (bool, string, string) {
	_, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return false, "not in this kernel", "pods with hostUsers: false and isolated builds need CONFIG_USER_NS"
	}
	if data, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err == nil && strings.TrimSpace(string(data)) == "0" {
		return false, "switched off", "sysctl -w user.max_user_namespaces=15000"
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil && !atLeast(unix.ByteSliceToString(u.Release[:]), 6, 3) {
		return false, "supported, but not for volumes in memory", "pods with hostUsers: false need Linux 6.3 or newer, others need nothing"
	}
	return true, "supported", ""
}

// disk wants room for images at the place where the data directory is or will be.
func disk(dataDir string) (bool, string, string) {
	dir := dataDir
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" || dir == "." {
			break
		}
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, err.Error(), "choose another place with --data-dir"
	}
	free := st.Bavail * uint64(st.Bsize)
	return free > 1<<30, fmt.Sprintf("%.1f GiB free at %s", float64(free)/(1<<30), dir),
		"free at least 1 GiB, or choose another place with --data-dir"
}

func memory(string) (bool, string, string) {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return false, err.Error(), ""
	}
	total := uint64(si.Totalram) * uint64(si.Unit)
	return total >= 900<<20, fmt.Sprintf("%.1f GiB, %d processors", float64(total)/(1<<30), runtime.NumCPU()),
		"Gantry itself needs 150 MB; applications need the rest"
}

func clock(string) (bool, string, string) {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	if err != nil {
		return false, err.Error(), "run a time service: apt-get install systemd-timesyncd"
	}
	synced := state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0
	detail := "synchronised"
	if !synced {
		detail = "not synchronised, last estimate off by at most " + strconv.FormatInt(int64(tx.Maxerror/1000), 10) + " ms"
	}
	return synced, detail, "run a time service: apt-get install systemd-timesyncd"
}

func found(err error) string {
	if err != nil {
		return "not found"
	}
	return "supported"
}
