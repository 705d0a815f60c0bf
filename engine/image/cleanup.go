package image

import (
	"fmt"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
)

// Cleanup unmounts every container root of a data directory that no store has
// open. Their writable layers stay and can be mounted again.
func Cleanup(dataDir string) error {
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		return fmt.Errorf("unmount roots: %w", err)
	}
	for _, name := range []string{"rootfs", "rootfs-mapped"} {
		roots := filepath.Join(dir, "run", name)
		if err := mount.UnmountRecursive(roots, 0); err != nil {
			return fmt.Errorf("unmount roots below %s: %w", roots, err)
		}
	}
	return nil
}
