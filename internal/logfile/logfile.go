// Package logfile writes log files that are rotated by size and by age, and of which
// a bounded number is kept.
//
// It guarantees: a write is never split between two files; a file that is full or
// old is renamed with the time of that moment, so that nothing is lost when two
// processes write to one name; what cannot be rotated is written on. A File may be
// used concurrently. Rotated names the files that are left of a log, for its readers.
package logfile

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options say when a file is rotated. Zero values are the defaults named.
type Options struct {
	MaxSize int64         // bytes; 0 is 100 MiB
	MaxAge  time.Duration // of a file since it was begun; 0 is a day
	Keep    int           // rotated files; 0 is 7
	Now     func() time.Time
}

// File is a log file.
type File struct {
	path    string
	options Options

	mu    sync.Mutex // guards the following
	file  *os.File
	size  int64
	begun time.Time
}

// Open opens or makes the file at path.
func Open(path string, options Options) (*File, error) {
	options.MaxSize = cmp.Or(options.MaxSize, 100<<20)
	options.MaxAge = cmp.Or(options.MaxAge, 24*time.Hour)
	options.Keep = cmp.Or(options.Keep, 7)
	if options.Now == nil {
		options.Now = time.Now
	}
	f := &File{path: path, options: options}
	if err := f.open(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) open() error {
	file, err := os.OpenFile(f.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return fmt.Errorf("open log: %w", err)
	}
	f.file, f.size, f.begun = file, info.Size(), f.options.Now()
	if f.size > 0 { // begun by a process before, when is not known
		f.begun = info.ModTime()
	}
	return nil
}

// Write appends to the file, which is rotated before if it is full or old.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return 0, os.ErrClosed
	}
	now := f.options.Now()
	if f.size > 0 && (f.size+int64(len(p)) > f.options.MaxSize || now.Sub(f.begun) >= f.options.MaxAge) {
		f.rotate(now)
	}
	n, err := f.file.Write(p)
	f.size += int64(n)
	return n, err
}

// rotate renames the file and begins another one.
func (f *File) rotate(now time.Time) {
	// Another process may have renamed it already.
	if open, err := f.file.Stat(); err == nil {
		if named, err := os.Stat(f.path); err == nil && os.SameFile(open, named) {
			if os.Rename(f.path, f.path+"."+now.UTC().Format("20060102T150405.000000Z")) != nil {
				f.begun, f.size = now, 0 // tried again when it is full once more
				return
			}
		}
	}
	old := f.file
	if f.open() != nil {
		f.file, f.begun, f.size = old, now, 0
		return
	}
	old.Close()
	f.begun = now
	f.prune()
}

// prune removes the oldest of the rotated files.
func (f *File) prune() {
	rotated, _ := f.Rotated()
	for len(rotated) > f.options.Keep {
		os.Remove(rotated[0])
		rotated = rotated[1:]
	}
}

// Rotated lists the files that were rotated, oldest first.
func (f *File) Rotated() ([]string, error) { return Rotated(f.path) }

// Rotated lists the files that were rotated of the log at path, oldest first.
func Rotated(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	var names []string
	for _, e := range entries {
		if at, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+"."); ok {
			if _, err := time.Parse("20060102T150405.000000Z", at); err == nil {
				names = append(names, filepath.Join(filepath.Dir(path), e.Name()))
			}
		}
	}
	slices.Sort(names)
	return names, err
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return errors.New("close log: it is closed already")
	}
	err := f.file.Close()
	f.file = nil
	return err
}
