package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// disk keeps content in files below a directory.
type disk struct {
	root string
	dirs directories
}

var _ files = (*disk)(nil)

// directories remembers which directories have entries that are not surely on disk.
// Many changes share one synchronisation.
type directories struct {
	flushing sync.Mutex // held while directories are written
	mu       sync.Mutex
	dirty    map[string]struct{} // guarded by mu
}

func (d *directories) changed(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dirty == nil {
		d.dirty = map[string]struct{}{}
	}
	d.dirty[dir] = struct{}{}
}

// sync returns when every change that was made before it was called is on disk.
func (d *directories) sync() error {
	d.flushing.Lock() // who waits here finds that the one before wrote its entries too
	defer d.flushing.Unlock()
	d.mu.Lock()
	batch := d.dirty
	d.dirty = nil
	d.mu.Unlock()
	for dir := range batch {
		if err := syncDir(dir); err != nil {
			for left := range batch {
				d.changed(left)
			}
			return fmt.Errorf("write %s to disk: %w", dir, err)
		}
		delete(batch, dir)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // collected in the meantime
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *disk) sync() error { return d.dirs.sync() }

func (d *disk) at(path string) string { return filepath.Join(d.root, filepath.FromSlash(path)) }

func (d *disk) stat(path string) (info, error) { return describe(d.at(path)) }

func describe(file string) (info, error) {
	i, err := os.Lstat(file)
	if err != nil {
		return info{}, err
	}
	return info{i.Size(), i.ModTime()}, nil
}

// open returns an *os.File, which net/http sends without copying it.
func (d *disk) open(path string) (Content, error) { return os.Open(d.at(path)) }

func (d *disk) read(path string) ([]byte, error) { return os.ReadFile(d.at(path)) }

// mkdir makes dir and what is missing above it.
func (d *disk) mkdir(dir string) error {
	err := os.Mkdir(dir, 0o755)
	switch {
	case err == nil:
		d.dirs.changed(filepath.Dir(dir))
		return nil
	case errors.Is(err, fs.ErrExist):
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// Twice, for the collector removes empty directories of other repositories.
	for range 2 {
		if err = d.mkdir(filepath.Dir(dir)); err != nil {
			return err
		}
		if err = os.Mkdir(dir, 0o755); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	d.dirs.changed(filepath.Dir(dir))
	return err
}

// link writes a content that repeats the path's, so only its name has to reach the disk.
func (d *disk) link(path string, to digest.Digest) error {
	file, now := d.at(path), time.Now()
	if err := os.Chtimes(file, now, now); err == nil {
		return nil
	}
	if err := d.mkdir(filepath.Dir(file)); err != nil {
		return err
	}
	d.dirs.changed(filepath.Dir(file))
	return os.WriteFile(file, []byte(to), 0o644)
}

func (d *disk) place(local, path string) error {
	to := d.at(path)
	if err := d.mkdir(filepath.Dir(to)); err != nil {
		return err
	}
	if err := os.Rename(local, to); err != nil {
		return err
	}
	d.dirs.changed(filepath.Dir(to))
	return nil
}

func (d *disk) remove(path string) error { return d.removeDir(filepath.Dir(d.at(path))) }

func (d *disk) removeAll(dir string) error { return d.removeDir(d.at(dir)) }

func (d *disk) removeDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	d.dirs.changed(filepath.Dir(dir))
	return nil
}

func (d *disk) children(dir string) ([]string, error) {
	entries, err := readDir(d.at(dir))
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

func (d *disk) each(dir, leaf string, yield func(name string, i info) error) error {
	entries, err := readDir(d.at(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		i, err := describe(filepath.Join(d.at(dir), e.Name(), filepath.FromSlash(leaf)))
		if notExist(err) || errors.Is(err, unix.ENOTDIR) {
			continue // interrupted removal, or just now
		}
		if err != nil {
			return err
		}
		if err := yield(e.Name(), i); err != nil {
			return err
		}
	}
	return nil
}

// prune leaves a repository to which something is being uploaded.
func (d *disk) prune(repository string) error {
	dir := d.at(repository)
	if uploads, err := readDir(filepath.Join(dir, "_uploads")); err != nil || len(uploads) > 0 {
		return err
	}
	for _, part := range []string{"_layers", "_manifests", "_uploads"} {
		if err := os.RemoveAll(filepath.Join(dir, part)); err != nil {
			return err
		}
	}
	// Up to the first directory that another repository uses.
	for root := d.at("repositories"); dir != root && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
		d.dirs.changed(filepath.Dir(dir))
	}
	return nil
}

// readDir lists a directory, sorted; one that is not there is empty.
func readDir(dir string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
