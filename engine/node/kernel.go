package node

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// kernel is what the node itself asks of the kernel, apart from what driver,
// images, network and volumes do. Tests of the lifecycle do without.
type kernel interface {
	// mountMemory makes dir a tmpfs unless it is one.
	mountMemory(name, dir string) error
	pin(p pins) error
	unpin(dir string) error
	// claimIDs finds host ids for the user namespace of a sandbox, and nobody else's.
	claimIDs(sandboxDir string) (*runtime.UserNS, error)
	releaseIDs(ids *runtime.UserNS)
}

// hostKernel is the kernel this process runs on. It takes root.
type hostKernel struct {
	makers makers
	pause  string // directory with the program "pause"
}

func (k *hostKernel) unpin(dir string) error         { return unpin(dir) }
func (k *hostKernel) releaseIDs(ids *runtime.UserNS) { releaseIDs(idClaims, ids) }

func (k *hostKernel) pin(p pins) error {
	if p.ids != nil {
		if err := writePause(k.pause); err != nil {
			return err
		}
	}
	return p.make(&k.makers, filepath.Join(k.pause, "pause"))
}

func (k *hostKernel) claimIDs(sandboxDir string) (*runtime.UserNS, error) {
	first, err := claimIDs(idClaims, sandboxDir)
	if err != nil {
		return nil, err
	}
	return &runtime.UserNS{HostID: first, Length: idsPerPod}, nil
}

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
