package main

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// files tries to open and to make what a container must not.
func (f findings) files() {
	for _, path := range []string{
		"/proc/sys/kernel/panic", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/panic_on_oom",
		"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/core/somaxconn", "/proc/sys/fs/file-max", "/proc/sys/kernel/shmmax", "/proc/sys/fs/mqueue/msg_max", "/proc/sys/kernel/ns_last_pid",
		"/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/proc/bus/pci/devices", "/proc/fs/ext4", "/proc/acpi/alarm", "/proc/kcore", "/proc/kmem", "/proc/mtrr", "/proc/timer_list", "/proc/keys", "/proc/sched_debug",
		"/proc/self/attr/exec", "/proc/self/oom_score_adj", "/proc/1/oom_score_adj", "/proc/1/mem", "/proc/self/mem", "/proc/1/environ", "/proc/self/uid_map", "/proc/self/loginuid", "/proc/self/sched",
		"/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state", "/sys/module/kernel/parameters/panic", "/sys/kernel/profiling", "/sys/class/net/lo/mtu", "/sys/block/loop0/queue/scheduler",
		"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/cgroup.procs", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/devices/devices.allow", "/sys/fs/cgroup/devices/release_agent", "/sys/fs/cgroup/memory/release_agent",
		"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/tty", "/dev/ptmx", "/dev/console", "/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/loop0", "/dev/fuse", "/dev/net/tun", "/dev/kvm",
		"/etc/hostname", "/probe", "/proc/1/exe", "/proc/self/exe",
	} {
		f["open "+path+" for writing"] = open(path, unix.O_WRONLY)
		f["open "+path+" for reading"] = open(path, unix.O_RDONLY)
	}
	for _, dir := range []string{"/", "/tmp", "/etc", "/proc", "/proc/sys", "/sys", "/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/devices", "/dev", "/dev/shm", "/dev/mqueue", "/dev/pts", "/run", "/volume", "/readonly", "/scratch"} {
		f["make a directory in "+dir] = makeDirectory(dir)
		f["make a file in "+dir] = makeFile(dir)
	}
	f["make a set-user-id file in /tmp"] = setUserID()
	for name, device := range map[string]struct {
		mode   uint32
		number uint64
	}{
		"disk 8:0": {unix.S_IFBLK, unix.Mkdev(8, 0)}, "loop 7:0": {unix.S_IFBLK, unix.Mkdev(7, 0)}, "memory 1:1": {unix.S_IFCHR, unix.Mkdev(1, 1)}, "port 1:4": {unix.S_IFCHR, unix.Mkdev(1, 4)},
		"null 1:3": {unix.S_IFCHR, unix.Mkdev(1, 3)}, "kmsg 1:11": {unix.S_IFCHR, unix.Mkdev(1, 11)}, "fuse 10:229": {unix.S_IFCHR, unix.Mkdev(10, 229)}, "tun 10:200": {unix.S_IFCHR, unix.Mkdev(10, 200)}, "tty1 4:1": {unix.S_IFCHR, unix.Mkdev(4, 1)},
	} {
		path := filepath.Join("/tmp", "device")
		err := unix.Mknod(path, device.mode|0o600, int(device.number))
		f["make device "+name] = result(err)
		if err == nil {
			f["open own device "+name+" for reading"] = open(path, unix.O_RDONLY)
			f["open own device "+name+" for writing"] = open(path, unix.O_WRONLY)
			os.Remove(path)
		}
	}
}

// open opens and closes without reading or writing.
func open(path string, flags int) string {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == nil {
		unix.Close(fd)
	}
	return result(err)
}

func makeDirectory(dir string) string {
	path := filepath.Join(dir, "gantry-probe-directory")
	err := os.Mkdir(path, 0o700)
	if err == nil {
		os.Remove(path)
	}
	return result(err)
}

func makeFile(dir string) string {
	path := filepath.Join(dir, "gantry-probe-file")
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
		os.Remove(path)
	}
	return strings.TrimSpace(result(err))
}

func setUserID() string {
	path := "/tmp/gantry-probe-suid"
	defer os.Remove(path)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return result(err)
	}
	return result(unix.Chmod(path, 0o4755))
}
