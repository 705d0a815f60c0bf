package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// descriptors lists what the program found open.
func (f findings) descriptors() {
	for fd := range 256 {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			continue
		}
		target, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		kind, _, _ := strings.Cut(target, ":")
		if !strings.HasPrefix(kind, "/dev/") {
			kind = filepath.Base(kind) // where the host keeps its pipes is its own affair
		}
		if kind == "anon_inode" { // the Go runtime's own, opened by now
			continue
		}
		close, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		var info unix.Stat_t
		unix.Fstat(fd, &info)
		f[fmt.Sprintf("fd %d", fd)] = fmt.Sprintf("%s mode %#o flags %#x close-on-exec %d", kind, info.Mode, flags&^(unix.O_LARGEFILE|0x8000|unix.O_CLOEXEC|unix.O_NOFOLLOW), close)
	}
}

// process tells what /proc says of this process.
func (f findings) process() {
	status, _ := os.ReadFile("/proc/self/status")
	// Left out: what is the Go runtime's, or another number each time.
	left := []string{"Pid", "PPid", "Tgid", "NS", "Name", "State", "FDSize", "Threads", "SigQ", "Cpus", "Mems", "Vm", "Rss", "Huge", "voluntary", "nonvoluntary", "SigCgt", "THP", "untag", "x86"}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if !slices.ContainsFunc(left, func(p string) bool { return strings.HasPrefix(name, p) }) {
			f["status "+name] = strings.Join(strings.Fields(value), " ")
		}
	}
	if stat, err := os.ReadFile("/proc/self/stat"); err == nil {
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
		pid := strconv.Itoa(os.Getpid())
		f["leads its process group"], f["leads its session"] = fmt.Sprint(fields[2] == pid), fmt.Sprint(fields[3] == pid)
		f["terminal"], f["is in the foreground"] = fields[4], fmt.Sprint(fields[5] == fields[2])
	}
	f["is the first process"] = fmt.Sprint(os.Getpid() == 1)
	f["arguments"] = fmt.Sprintf("%q", os.Args)
	env := os.Environ()
	slices.Sort(env)
	f["environment"] = fmt.Sprintf("%q", env)
	f["working directory"], _ = os.Getwd()
	for _, name := range []string{"oom_score_adj", "loginuid", "sessionid", "setgroups", "uid_map", "gid_map", "attr/current", "coredump_filter", "personality"} {
		text, err := os.ReadFile("/proc/self/" + name)
		f["self "+name] = strings.Join(strings.Fields(string(text)), " ") + outcome(err)
	}
	groups, _ := os.Getgroups()
	f["groups"] = fmt.Sprint(groups)
	mask := unix.Umask(0)
	unix.Umask(mask)
	f["umask"] = fmt.Sprintf("%#o", mask)
	f["hostname"], _ = os.Hostname()
	domain, _ := os.ReadFile("/proc/sys/kernel/domainname")
	f["domainname"] = strings.TrimSpace(string(domain))
	for name, option := range map[string]int{"dumpable": unix.PR_GET_DUMPABLE, "securebits": unix.PR_GET_SECUREBITS, "keepcaps": unix.PR_GET_KEEPCAPS, "subreaper": unix.PR_GET_CHILD_SUBREAPER, "no new privileges": unix.PR_GET_NO_NEW_PRIVS, "thp disabled": unix.PR_GET_THP_DISABLE} {
		f["prctl "+name] = prctl(option)
	}
	var death int32
	_, _, errno := unix.Syscall(unix.SYS_PRCTL, unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&death)), 0)
	f["signal at the parent's death"] = fmt.Sprint(death, errnoName(errno))
	f["session keyring"] = keyring()
	priority, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	f["priority"] = strconv.Itoa(priority) + outcome(err)
}

// keyring describes the keys of the session, where the filter lets one look.
func keyring() string {
	const session = -3 // KEY_SPEC_SESSION_KEYRING
	id, err := unix.KeyctlGetKeyringID(session, false)
	if err != nil {
		return result(err)
	}
	text, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, id)
	return text + outcome(err)
}

func outcome(err error) string {
	if err == nil {
		return ""
	}
	return " (" + result(err) + ")"
}

func (f findings) limits() {
	text, err := os.ReadFile("/proc/self/limits")
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if i > 0 && len(line) > 26 {
			f["limit "+strings.TrimSpace(line[:26])] = strings.Join(strings.Fields(line[26:]), " ")
		}
	}
	f["limits"] = result(err)
	for _, path := range []string{"pids/pids.max", "memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes", "memory/memory.use_hierarchy", "cpu/cpu.shares", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us",
		"devices/devices.list", "hugetlb/hugetlb.2MB.limit_in_bytes", "pids.max", "memory.max", "memory.swap.max", "memory.oom.group", "cpu.weight", "cpu.max"} {
		if text, err := os.ReadFile("/sys/fs/cgroup/" + path); err == nil {
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			slices.Sort(lines)
			f["cgroup "+path] = strings.Join(lines, "; ")
		}
	}
}

// mounts tells each mount's place, type, flags and propagation.
func (f findings) mounts() {
	text, err := os.ReadFile("/proc/self/mountinfo")
	f["mountinfo"] = result(err)
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		fields, super := strings.Fields(before), strings.Fields(after)
		var propagation []string
		for _, p := range fields[6:] {
			p, _, _ = strings.Cut(p, ":")
			propagation = append(propagation, p)
		}
		// What counts is whether the mount or its file system is read-only.
		options := strings.Split(super[2], ",")
		if slices.Contains(options, "ro") {
			fields[5] = "ro," + strings.TrimPrefix(strings.TrimPrefix(fields[5], "rw,"), "ro,")
		}
		options = slices.DeleteFunc(options, func(o string) bool { return o == "ro" || o == "rw" })
		slices.Sort(options)
		key := "mount " + fields[4]
		value := fmt.Sprintf("%s %s of %s root %s %v %v", super[0], fields[5], super[1], fields[3], propagation, options)
		if f[key] != "" {
			value = f[key] + " under " + value
		}
		f[key] = value
	}
}

// devices lists what is in /dev.
func (f findings) devices() {
	filepath.WalkDir("/dev", func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			f["device "+path] = result(err)
			return nil
		}
		var info unix.Stat_t
		if err := unix.Lstat(path, &info); err != nil {
			f["device "+path] = result(err)
			return nil
		}
		link, _ := os.Readlink(path)
		f["device "+path] = fmt.Sprintf("mode %#o number %d:%d owner %d:%d %s", info.Mode, unix.Major(info.Rdev), unix.Minor(info.Rdev), info.Uid, info.Gid, link)
		if path == "/dev/pts" || path == "/dev/mqueue" || path == "/dev/shm" {
			return filepath.SkipDir
		}
		return nil
	})
}

// visible tells which parts of the host show through.
func (f findings) visible() {
	entries, err := os.ReadDir("/")
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	f["root directory"] = fmt.Sprint(names) + outcome(err)
	pids, _ := filepath.Glob("/proc/[0-9]*")
	f["processes seen"] = strconv.Itoa(len(pids))
	for _, link := range []string{"/proc/1/root", "/proc/1/cwd", "/proc/1/exe", "/proc/self/exe", "/proc/self/root", "/proc/self/cwd"} {
		target, err := os.Readlink(link)
		f["link "+link] = target + outcome(err)
	}
	for _, dir := range []string{"/proc/acpi", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap", "/sys/class/net", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/fs", "/sys/fs/cgroup", "/sys/fs/bpf", "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security"} {
		f["see "+dir] = glimpse(dir)
	}
	groups, _ := os.ReadFile("/proc/self/cgroup")
	f["self cgroup"] = string(groups)
}

// glimpse is what there is to see at a path: names, or whether there are bytes.
func glimpse(path string) string {
	info, err := os.Lstat(path)
	if err != nil {
		return result(err)
	}
	if !info.IsDir() {
		file, err := os.Open(path)
		if err != nil {
			return result(err)
		}
		defer file.Close()
		n, err := file.Read(make([]byte, 64))
		if err != nil && err.Error() == "EOF" {
			return "empty"
		}
		return fmt.Sprintf("%v bytes: %v%s", info.Mode().Type(), n > 0, outcome(err))
	}
	entries, err := os.ReadDir(path)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return fmt.Sprint(names) + outcome(err)
}

func (f findings) namespaces() {
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "user", "uts"} {
		_, err := os.Readlink("/proc/self/ns/" + name)
		f["namespace "+name] = result(err)
	}
	interfaces, _ := os.ReadFile("/proc/net/dev")
	f["network interfaces"] = strconv.Itoa(strings.Count(string(interfaces), ":"))
}
