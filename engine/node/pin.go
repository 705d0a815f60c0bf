package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/volume"
)

// pins is what keeps a sandbox's namespaces alive without a process: bind mounts
// of them under dir, and the /dev/shm that its containers share.
type pins struct {
	dir      string
	hostname string
	uts, ipc bool              // make new ones
	sysctls  map[string]string // of the IPC namespace; the network sets its own
}

func (p pins) utsPath() string { return filepath.Join(p.dir, "uts") }
func (p pins) ipcPath() string { return filepath.Join(p.dir, "ipc") }
func (p pins) shmPath() string { return filepath.Join(p.dir, "shm") }

const shmBytes = 64 << 20

// make creates the namespaces from a thread of its own, which ends with it.
func (p pins) make() error {
	if err := os.MkdirAll(p.dir, 0o711); err != nil {
		return fmt.Errorf("pin namespaces: %w", err)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is spoilt and ends here
		done <- p.onThread()
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("pin namespaces: %w", err)
	}
	if !p.ipc {
		return nil
	}
	if err := os.Mkdir(p.shmPath(), 0o777); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make /dev/shm: %w", err)
	}
	opts := fmt.Sprintf("mode=1777,size=%d", shmBytes)
	if err := unix.Mount("shm", p.shmPath(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, opts); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	return nil
}

func (p pins) onThread() error {
	flags := 0
	if p.uts {
		flags |= unix.CLONE_NEWUTS
	}
	if p.ipc {
		flags |= unix.CLONE_NEWIPC
	}
	if flags != 0 {
		if err := unix.Unshare(flags); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
	}
	for name, value := range p.sysctls {
		path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("set sysctl %s: %w", name, err)
		}
	}
	if p.uts {
		if err := unix.Sethostname([]byte(p.hostname)); err != nil {
			return fmt.Errorf("set hostname: %w", err)
		}
		if err := bindNamespace("uts", p.utsPath()); err != nil {
			return err
		}
	}
	if p.ipc {
		return bindNamespace("ipc", p.ipcPath())
	}
	return nil
}

func bindNamespace(kind, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	source := fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), kind)
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s namespace: %w", kind, err)
	}
	return nil
}

// enterNetNS moves the calling thread; the goroutine must be locked to it.
func enterNetNS(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return nil
}

// unpin removes a sandbox directory with all that is mounted in it.
func unpin(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// The common names first: that spares reading the table of all mounts.
	for _, name := range []string{"uts", "ipc", "shm"} {
		_ = unix.Unmount(filepath.Join(dir, name), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	if err := volume.UnmountBelow(dir); err != nil {
		return fmt.Errorf("unpin namespaces: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("unpin namespaces: %w", err)
	}
	return nil
}
