package node

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// kernel is what the node itself asks of the kernel, apart from what driver,
// images, network and volumes do. Tests of the lifecycle do without.
type kernel interface {
	// mountMemory makes dir a tmpfs unless it is one.
	mountMemory(name, dir string) error
	pin(p pins) error
	unpin(dir string) error
}

// hostKernel is the kernel this process runs on. It takes root.
type hostKernel struct{ makers makers }

func (k *hostKernel) pin(p pins) error       { return p.make(&k.makers) }
func (k *hostKernel) unpin(dir string) error { return unpin(dir) }

func (k *hostKernel) mountMemory(name, dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type == unix.TMPFS_MAGIC {
		return nil
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	err := unix.Mount(name, dir, "tmpfs", flags, "mode=0711")
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("mount a tmpfs at %s: %w: run as root", dir, err)
	}
	if err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", dir, err)
	}
	// What is mounted below concerns no other mount namespace of the machine.
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep the mounts in %s private: %w", dir, err)
	}
	return nil
}
