package build

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What steps write does not wait for the disk, so a build cache is whole only while
// the machine that it was written on runs, or after it was synced. The file "boot" in
// its directory names the boot of the machine in which the cache is in use; it is not
// there while the cache is whole on disk. A worker that was killed loses nothing.

func bootFile(dir string) string { return filepath.Join(dir, "boot") }

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// beginUse notes that the cache is in use, after it has removed one that was in use
// when the machine crashed. It tells whether it did. The caller holds the lock.
func beginUse(p paths) (dropped bool, err error) {
	now, err := bootID()
	if err != nil {
		return false, err
	}
	then, err := os.ReadFile(bootFile(p.dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err == nil && string(then) != now {
		if err := removeCache(p); err != nil {
			return false, fmt.Errorf("remove a cache that the machine crashed with: %w", err)
		}
		dropped = true
	}
	f, err := os.OpenFile(bootFile(p.dir), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return dropped, err
	}
	_, err = f.WriteString(now)
	return dropped, errors.Join(err, f.Sync(), f.Close(), syncDir(p.dir))
}

// removeCache removes everything but the lock, which the caller has, and the log.
func removeCache(p paths) error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(p.dir, e.Name())
		if path == p.lock || path == p.log || path == bootFile(p.dir) {
			continue // the note goes last: the removal may be interrupted too
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// endUse writes the cache to disk and notes that it is.
func endUse(p paths) error {
	dir, err := os.Open(p.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("write the cache to disk: %w", err)
	}
	return os.Remove(bootFile(p.dir))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
