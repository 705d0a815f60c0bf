package network

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The directories of what does not outlive a reboot: leases and pins.
func leaseDir(dataDir string) string { return filepath.Join(dataDir, "run", "network") }
func netnsDir(dataDir string) string { return filepath.Join(dataDir, "run", "netns") }

// openVolatile makes a directory for small files that do not outlive a reboot, in
// memory where possible: on a disk, making and removing the two files of a pod takes as
// much processor time as all of its network.
func openVolatile(dir string, mode fs.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type == unix.TMPFS_MAGIC {
		return nil
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return err // in use as it is
	}
	opts := fmt.Sprintf("size=16m,mode=%o", mode)
	if err := unix.Mount("gantry", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, opts); err != nil {
		slog.Warn("network state is kept on disk, which is slower", "directory", dir, "err", err)
	}
	return nil
}

// removeVolatile removes a directory of openVolatile with its contents.
func removeVolatile(dir string) error {
	// EINVAL says that nothing is mounted there.
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}
