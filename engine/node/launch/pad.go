package launch

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// newPad makes a mount namespace with nothing in it but /proc, /sys and an
// empty /root. The namespaces of containers begin as copies of it; copies of the
// host's would take the longer the more is mounted there. Dir is any directory.
func newPad(dir string) (*os.File, error) {
	type result struct {
		pad *os.File
		err error
	}
	done := make(chan result)
	go onSpareThread(func() {
		pad, err := padOnThread(dir)
		done <- result{pad, err}
	})
	r := <-done
	if r.err != nil {
		return nil, fmt.Errorf("make a mount namespace for containers: %w", r.err)
	}
	return r.pad, nil
}

// onSpareThread calls f on a thread that ends with it. The first thread of a
// process cannot end, and what it sees is what /proc/self shows: it is kept busy
// while another one is found.
func onSpareThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			onSpareThread(f)
		}()
		<-done
		runtime.UnlockOSThread()
		return
	}
	f() // never unlocked
}

func padOnThread(dir string) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, os.NewSyscallError("mount", err)
	}
	if err := unix.Mount("gantry-pad", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=0"); err != nil {
		return nil, os.NewSyscallError("mount", err)
	}
	if err := unix.Chdir(dir); err != nil {
		return nil, os.NewSyscallError("chdir", err)
	}
	for _, name := range []string{"root", "proc", "sys"} {
		if err := unix.Mkdir(name, 0o755); err != nil {
			return nil, os.NewSyscallError("mkdir", err)
		}
	}
	for _, name := range []string{"proc", "sys"} {
		if err := unix.Mount("/"+name, name, "", unix.MS_BIND, ""); err != nil {
			return nil, os.NewSyscallError("mount", err)
		}
	}
	if err := unix.Mount("", ".", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, os.NewSyscallError("mount", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return nil, os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return nil, os.NewSyscallError("umount", err)
	}
	return os.Open("/proc/thread-self/ns/mnt")
}
