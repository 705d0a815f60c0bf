package instance

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

// SmallDisk is a file system of its own, of so many MiB, for a data directory. It is there until
// the test ends.
func SmallDisk(t testing.TB, mib int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gantry-disk")
	check(t, err)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=755", mib)); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
		_ = os.Remove(dir)
	})
	return dir
}

// FreeMiB is how much of the file system of a directory is free.
func FreeMiB(t testing.TB, dir string) int {
	t.Helper()
	var s syscall.Statfs_t
	check(t, syscall.Statfs(dir, &s))
	return int(s.Bavail * uint64(s.Bsize) >> 20)
}
