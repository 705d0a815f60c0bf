package main

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls tries system calls that reach beyond a container. Each is made so that
// it changes nothing even where it is allowed: with an argument that the kernel
// refuses after it has looked at the permission, or in a thread or process of
// its own.
func (f findings) calls() {
	none := uintptr(unsafe.Pointer(&[256]byte{}))
	bad := ^uintptr(0)
	for name, outcome := range map[string]string{
		"reboot":            call(unix.SYS_REBOOT, 0, 0, 0, 0),
		"kexec_load":        call(unix.SYS_KEXEC_LOAD, 0, bad, 0, bad),
		"init_module":       call(unix.SYS_INIT_MODULE, none, 1, none),
		"delete_module":     call(unix.SYS_DELETE_MODULE, none, 0),
		"clock_settime":     call(unix.SYS_CLOCK_SETTIME, 0, bad),
		"settimeofday":      call(unix.SYS_SETTIMEOFDAY, bad, 0),
		"adjtimex":          call(unix.SYS_ADJTIMEX, bad),
		"swapon":            call(unix.SYS_SWAPON, bad, 0),
		"acct":              call(unix.SYS_ACCT, bad),
		"syslog":            call(unix.SYS_SYSLOG, 10, 0, 0),
		"quotactl":          call(unix.SYS_QUOTACTL, bad, bad, 0, 0),
		"open_by_handle_at": call(unix.SYS_OPEN_BY_HANDLE_AT, uintptr(0xffffff9c), none, 0),
		"bpf":               call(unix.SYS_BPF, 0, none, 0),
		"perf_event_open":   call(unix.SYS_PERF_EVENT_OPEN, bad, 0, bad, bad, 0),
		"userfaultfd":       call(unix.SYS_USERFAULTFD, 0xff0000),
		"io_uring_setup":    call(unix.SYS_IO_URING_SETUP, 0, none),
		"fanotify_init":     call(unix.SYS_FANOTIFY_INIT, 0xff000000, 0),
		"keyctl":            call(unix.SYS_KEYCTL, 0, bad, 0),
		"add_key":           call(unix.SYS_ADD_KEY, bad, bad, 0, 0, 0),
		"request_key":       call(unix.SYS_REQUEST_KEY, bad, bad, 0, 0),
		"iopl":              call(unix.SYS_IOPL, 3),
		"ioperm":            call(unix.SYS_IOPERM, 0x80, 1, 1),
		"vhangup (denied)":  deniedOnly(unix.CAP_SYS_TTY_CONFIG),
		"personality":       call(unix.SYS_PERSONALITY, 0x0040000),
		"ptrace me":         inThread(func() string { return call(unix.SYS_PTRACE, 99, 0, 0, 0) }),
		"ptrace attach 1":   tracing(1),
		"kcmp 1":            call(unix.SYS_KCMP, 1, 1, 99, 0, 0),
		"process_vm_readv":  call(unix.SYS_PROCESS_VM_READV, 1, bad, 1, bad, 1, 0),
		"pidfd_getfd":       call(unix.SYS_PIDFD_GETFD, bad, 0, 0),
		"lookup_dcookie":    call(212, 0, 0, 0),
		"name_to_handle_at": call(unix.SYS_NAME_TO_HANDLE_AT, bad, bad, bad, bad, bad),
		"clone3":            call(unix.SYS_CLONE3, bad, 0),
		"vmsplice":          call(unix.SYS_VMSPLICE, bad, 0, 0, 0),
		"move_pages":        call(unix.SYS_MOVE_PAGES, 1, 0, 0, 0, 0, bad),
		"mbind":             call(unix.SYS_MBIND, 0, 0, 99, 0, 0, 0),
		"sethostname":       call(unix.SYS_SETHOSTNAME, bad, 1),
		"setdomainname":     call(unix.SYS_SETDOMAINNAME, bad, 1),
		"nice -5":           inThread(func() string { return result(unix.Setpriority(unix.PRIO_PROCESS, 0, -5)) }),
		"realtime":          inThread(func() string { return call(unix.SYS_SCHED_SETSCHEDULER, 0, 1, none) }),
		"fsopen":            call(unix.SYS_FSOPEN, bad, 0),
		"open_tree":         call(unix.SYS_OPEN_TREE, bad, bad, 0xff0000),
		"mount_setattr":     call(unix.SYS_MOUNT_SETATTR, bad, bad, 0, 0, 0),
		"landlock":          call(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, 1),
		"memfd_secret":      call(447, 0xff),
		"unknown call 2000": call(2000),
	} {
		f["call "+name] = outcome
	}
	for name, flag := range map[string]int{"user": unix.CLONE_NEWUSER, "mount": unix.CLONE_NEWNS, "pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "cgroup": unix.CLONE_NEWCGROUP, "time": unix.CLONE_NEWTIME} {
		f["unshare "+name] = inProcess(flag)
	}
	for _, name := range []string{"mnt", "net", "pid", "uts", "ipc", "user", "cgroup"} {
		f["setns to 1's "+name] = inThread(func() string { return setns("/proc/1/ns/" + name) })
	}
	f.sockets()
	f.mounting()
}

// deniedOnly reports a call that would do harm without making it: whether the
// process has the capability for it.
func deniedOnly(capability int) string {
	value, _, errno := unix.Syscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_READ, uintptr(capability), 0, 0, 0, 0)
	if errno != 0 {
		return errnoName(errno)
	}
	return map[bool]string{true: "bounding set has it", false: "bounding set lacks it"}[value == 1]
}

// inThread runs something in a thread that ends with it.
func inThread(f func() string) string {
	outcome := make(chan string)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		outcome <- f()
	}()
	return <-outcome
}

func setns(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "open: " + result(err)
	}
	defer unix.Close(fd)
	return result(unix.Setns(fd, 0))
}

// inProcess starts a process in a new namespace.
func inProcess(flag int) string {
	c := exec.Command("/proc/self/exe", "true")
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: uintptr(flag)}
	return result(c.Run())
}

// tracing tries to become a process's tracer, and lets go of it.
func tracing(pid int) string {
	if pid == os.Getpid() {
		return "that is me"
	}
	return inThread(func() string {
		outcome := call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0)
		if outcome == "done" {
			unix.PtraceDetach(pid)
		}
		return outcome
	})
}

func (f findings) sockets() {
	for name, s := range map[string][3]int{
		"raw IPv4": {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, "ping": {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP}, "packet": {unix.AF_PACKET, unix.SOCK_RAW, 0}, "netlink": {unix.AF_NETLINK, unix.SOCK_RAW, 0}, "audit": {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT},
		"vsock": {unix.AF_VSOCK, unix.SOCK_STREAM, 0}, "alg": {unix.AF_ALG, unix.SOCK_SEQPACKET, 0}, "unix": {unix.AF_UNIX, unix.SOCK_STREAM, 0}, "xdp": {unix.AF_XDP, unix.SOCK_RAW, 0}, "unknown": {97, 1, 0},
	} {
		fd, err := unix.Socket(s[0], s[1], s[2])
		f["socket "+name] = result(err)
		if err == nil {
			unix.Close(fd)
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		f["listen on port 79"] = result(unix.Bind(fd, &unix.SockaddrInet4{Port: 79, Addr: [4]byte{127, 0, 0, 1}}))
		unix.Close(fd)
	}
}

// mounting tries to change what is mounted, and to leave the root.
func (f findings) mounting() {
	os.MkdirAll("/tmp/gantry-probe-mount", 0o700)
	defer os.Remove("/tmp/gantry-probe-mount")
	try := func(name string, source, target, kind string, flags uintptr) {
		err := unix.Mount(source, target, kind, flags, "")
		f["mount "+name] = result(err)
		if err == nil && flags&(unix.MS_REMOUNT|unix.MS_SHARED) == 0 {
			unix.Unmount(target, unix.MNT_DETACH)
		}
	}
	const here = "/tmp/gantry-probe-mount"
	try("(a tmpfs)", "tmpfs", here, "tmpfs", 0)
	try("(a new proc)", "proc", here, "proc", 0)
	try("(a new sysfs)", "sysfs", here, "sysfs", 0)
	try("(cgroups)", "cgroup", here, "cgroup", 0)
	try("(devices of the host)", "devtmpfs", here, "devtmpfs", 0)
	try("(a bind)", "/", here, "", unix.MS_BIND|unix.MS_REC)
	try("(/proc/sys bound elsewhere)", "/proc/sys", here, "", unix.MS_BIND)
	try("(shared propagation)", "", "/scratch", "", unix.MS_SHARED)
	f["make a volume writable"] = writable("/volume")
	f["umount /proc/sys"] = umount("/proc/sys")
	f["umount /proc/kcore"] = umount("/proc/kcore")
	f["umount /sys/firmware"] = umount("/sys/firmware")
	f["umount /readonly"] = umount("/readonly")
	f["pivot_root"] = result(unix.PivotRoot("/tmp", "/tmp"))
	f["chroot and back"] = chrootAndBack()
}

// writable tries to take the read-only flag from a mount, and gives it back.
func writable(path string) string {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil || fs.Flags&unix.ST_RDONLY == 0 {
		return "it is not read-only"
	}
	if err := unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
		return result(err)
	}
	defer unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	return "done; then to make a file: " + makeFile(path)
}

// umount says whether a mount could be taken away. It uses MNT_EXPIRE, which
// only marks the mount at the first call.
func umount(path string) string {
	return result(unix.Unmount(path, unix.MNT_EXPIRE))
}

// chrootAndBack is the classic way out of a chroot. Where the root is a mount of
// its own, it leads back to that root.
func chrootAndBack() string {
	return inThread(func() string {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return "unshare: " + result(err)
		}
		if err := os.MkdirAll("/tmp/gantry-probe-jail", 0o700); err != nil {
			return result(err)
		}
		defer os.Remove("/tmp/gantry-probe-jail")
		if err := unix.Chroot("/tmp/gantry-probe-jail"); err != nil {
			return "chroot: " + result(err)
		}
		for range 64 {
			if err := unix.Chdir(".."); err != nil {
				return "chdir: " + result(err)
			}
		}
		if err := unix.Chroot("."); err != nil {
			return "chroot again: " + result(err)
		}
		if _, err := os.Stat("/probe"); err != nil {
			return "ESCAPED from the container's root"
		}
		return "back in the container's root"
	})
}
