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
)

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

// mkdir makes dir and what is missing above it.
func (s *Store) mkdir(dir string) error {
	err := os.Mkdir(dir, 0o755)
	switch {
	case err == nil:
		s.dirs.changed(filepath.Dir(dir))
		return nil
	case errors.Is(err, fs.ErrExist):
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// Twice, for the collector removes empty directories of other repositories.
	for range 2 {
		if err = s.mkdir(filepath.Dir(dir)); err != nil {
			return err
		}
		if err = os.Mkdir(dir, 0o755); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	s.dirs.changed(filepath.Dir(dir))
	return err
}

// link says at path that a digest is there, now. Its content repeats the path's, so
// only its name has to reach the disk.
func (s *Store) link(path string, d digest.Digest) error {
	now := time.Now()
	if err := os.Chtimes(path, now, now); err == nil {
		return nil
	}
	if err := s.mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	s.dirs.changed(filepath.Dir(path))
	return os.WriteFile(path, []byte(d), 0o644)
}

// removeLink removes a digest's link with its directory.
func (s *Store) removeLink(path string) error {
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		return err
	}
	s.dirs.changed(filepath.Dir(filepath.Dir(path)))
	return nil
}

// temporary writes content to a file that is on disk when it returns, to be renamed.
func (s *Store) temporary(content []byte) (path string, err error) {
	f, err := os.CreateTemp(s.tmp, "")
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// place moves a file to where it belongs.
func (s *Store) place(from, to string) error {
	if err := s.mkdir(filepath.Dir(to)); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	s.dirs.changed(filepath.Dir(to))
	return nil
}

// digestsBelow calls yield for each digest that has a link below dir.
func digestsBelow(dir string, yield func(d digest.Digest, link string) error) error {
	for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		entries, err := readDir(filepath.Join(dir, a.String()))
		if err != nil {
			return err
		}
		for _, e := range entries {
			d := digest.NewDigestFromEncoded(a, e.Name())
			if d.Validate() != nil {
				continue // not ours
			}
			link := digestLink(dir, d)
			if !exists(link) {
				continue // interrupted removal
			}
			if err := yield(d, link); err != nil {
				return err
			}
		}
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

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// notExist is whether a file is not there, also because a part of its path is not.
func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
