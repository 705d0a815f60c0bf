package driver

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountBundles makes dir a file system in memory, unless it is one: what is in
// it has the environment of containers, which includes secrets. It lasts as
// long as containers do, until the machine stops.
func mountBundles(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	mounted, err := isMountPoint(dir)
	if err != nil || mounted {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("gantry-bundles", dir, "tmpfs", flags, "mode=0700"); err != nil {
		return fmt.Errorf("mount a file system in memory on %s: %w", dir, err)
	}
	return nil
}

func isMountPoint(dir string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Lstat(dir, &here); err != nil {
		return false, &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(dir), &above); err != nil {
		return false, &os.PathError{Op: "lstat", Path: filepath.Dir(dir), Err: err}
	}
	return here.Dev != above.Dev, nil
}

// unmountBundles undoes mountBundles.
func unmountBundles(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return removeTree(dir)
}

// process returns the first process of a container that an OCI runtime started,
// whose identity and limits execs inherit.
func (d *Driver) process(r *record) (*specs.Process, error) {
	if r.Process != nil {
		return r.Process, nil
	}
	text, err := os.ReadFile(filepath.Join(d.bundle(r.ID), bundleName))
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, fmt.Errorf("read the bundle: %w", err)
	}
	if spec.Process == nil {
		return nil, errors.New("read the bundle: it has no process")
	}
	return spec.Process, nil
}
