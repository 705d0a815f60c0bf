package image

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// spareRoots are directories of roots into which nothing was written, to be used
// again: on a disk, making and deleting what is in one takes longer than all else
// that a root needs.
//
// Only what no container has access to is used again. The directory that a
// container writes to is always a new one: the former has been removed from the
// directory tree while it was empty, so that a process which still has it open,
// however it has come by it, cannot put anything into the next one's. The working
// directory is emptied and made anew by the kernel with each mount.
type spareRoots struct {
	dir string

	mu    sync.Mutex // guards following
	names []string
}

// manySpareRoots is how many are kept: what a burst of pods takes.
const manySpareRoots = 512

// load finds the spares of a former process.
func (s *spareRoots) load() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = nil
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		if len(s.names) < manySpareRoots && emptied(path) == nil && isDir(filepath.Join(path, workName)) {
			s.names = append(s.names, e.Name())
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// emptied removes the directory that the container wrote to, unless there is
// something in it.
func emptied(root string) error {
	err := unix.Rmdir(filepath.Join(root, upperName))
	if err == unix.ENOENT {
		return nil
	}
	return err
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// take moves a spare to dir, which does not exist, with a fresh directory to write to.
// It is false when there is no spare.
func (s *spareRoots) take(dir string, fill func(root string) error) (bool, error) {
	s.mu.Lock()
	n := len(s.names)
	if n == 0 {
		s.mu.Unlock()
		return false, nil
	}
	path := filepath.Join(s.dir, s.names[n-1])
	s.names = s.names[:n-1]
	s.mu.Unlock()
	err := fill(path)
	if err == nil {
		err = os.Rename(path, dir)
	}
	if err != nil {
		return false, errors.Join(err, os.RemoveAll(path))
	}
	return true, nil
}

// put keeps the root in dir as a spare if nothing was written to it and there is
// room. When it does not, it tells where the root is now.
func (s *spareRoots) put(dir string) (kept bool, left string, err error) {
	s.mu.Lock()
	full := len(s.names) >= manySpareRoots
	s.mu.Unlock()
	if full {
		return false, dir, nil
	}
	var unique [8]byte
	_, _ = rand.Read(unique[:]) // never fails
	name := fmt.Sprintf("%x", unique)
	path := filepath.Join(s.dir, name)
	// First it ceases to be a root, whatever happens then.
	if err := os.Rename(dir, path); err != nil {
		return false, dir, err
	}
	if emptied(path) != nil {
		return false, path, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, name)
	return true, "", nil
}

// openVolatile makes a directory for mount points, in memory where possible: nothing
// in it outlives a reboot. Other mount namespaces need not see what is mounted there.
func openVolatile(dir string, mode fs.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type == unix.TMPFS_MAGIC {
		return err
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return err // in use as it is
	}
	opts := fmt.Sprintf("size=16m,mode=%o", mode)
	if unix.Mount("gantry-roots", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, opts) != nil {
		return nil // on disk, then, which is slower
	}
	return unix.Mount("", dir, "", unix.MS_PRIVATE, "")
}
