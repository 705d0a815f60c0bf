package volume

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what is in a volume and what fits into it. A directory of the machine's file system has the
// capacity of that file system, as with the kubelet, but its own use.
type Usage struct {
	At                             time.Time // zero while it was not measured
	Capacity, Available, Used      uint64    // bytes
	Inodes, InodesFree, InodesUsed uint64
}

// Measured keeps the usage of directories. To look at every file takes time, so a directory is measured again only
// after measureEvery, and after measureRest times of what measuring all of them took last: together, one after the
// other, that is no more than 2 % of a core. Methods may be called concurrently. The zero value is ready.
type Measured struct {
	walking sync.Mutex // held while one is measured

	mu sync.Mutex // guards following
	of map[string]*measurement
}

type measurement struct {
	usage Usage
	took  time.Duration
	due   time.Time
	busy  bool
}

const (
	measureEvery = 10 * time.Second
	measureRest  = 50
)

// Of returns what is known of the directory at path, and measures it in the background when it is due. A file system of
// the volume's own is read at once.
func (m *Measured) Of(path string) Usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of = map[string]*measurement{}
	}
	v := m.of[path]
	if v == nil {
		v = &measurement{}
		m.of[path] = v
	}
	if !v.busy && !time.Now().Before(v.due) {
		v.busy = true
		go m.measure(path)
	}
	// How full the file system is changes without the volume, and costs nothing to read.
	if now, own, err := fileSystem(path); err == nil && !v.usage.At.IsZero() {
		if own {
			return now
		}
		v.usage.Capacity, v.usage.Available, v.usage.Inodes, v.usage.InodesFree = now.Capacity, now.Available, now.Inodes, now.InodesFree
	}
	return v.usage
}

// Keep forgets all volumes but those.
func (m *Measured) Keep(paths []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.of, func(path string, _ *measurement) bool { return !slices.Contains(paths, path) })
}

func (m *Measured) measure(path string) {
	m.walking.Lock()
	defer m.walking.Unlock()
	began := time.Now()
	usage, own, err := fileSystem(path)
	if err == nil && !own {
		usage.Used, usage.InodesUsed = occupied(path)
	}
	took := time.Since(began)
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.of[path]
	if v == nil {
		return // forgotten meanwhile
	}
	v.busy, v.took = false, took
	all := time.Duration(0)
	for _, other := range m.of {
		all += other.took
	}
	v.due = time.Now().Add(max(measureEvery-time.Second, measureRest*all))
	if err == nil {
		v.usage = usage
	}
}

// fileSystem reads the file system at path, and whether the volume has it for itself.
func fileSystem(path string) (u Usage, own bool, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return Usage{}, false, err
	}
	size := uint64(fs.Bsize)
	u = Usage{
		At: time.Now(), Capacity: fs.Blocks * size, Available: fs.Bavail * size, Used: (fs.Blocks - fs.Bfree) * size,
		Inodes: fs.Files, InodesFree: fs.Ffree, InodesUsed: fs.Files - fs.Ffree,
	}
	var here, above unix.Stat_t
	if unix.Lstat(path, &here) == nil && unix.Lstat(filepath.Dir(path), &above) == nil {
		own = here.Dev != above.Dev
	}
	return u, own, nil
}

// Occupied is what a directory's files occupy on its own file system, in bytes.
func Occupied(dir string) int64 {
	bytes, _ := occupied(dir)
	return int64(bytes)
}

// occupied is what a directory's files occupy on its own file system.
func occupied(dir string) (bytes, inodes uint64) {
	var root unix.Stat_t
	if unix.Lstat(dir, &root) != nil {
		return 0, 0
	}
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || unix.Lstat(path, &st) != nil {
			return nil // it was removed meanwhile
		}
		if st.Dev != root.Dev {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		bytes, inodes = bytes+uint64(st.Blocks)*512, inodes+1
		return nil
	})
	return bytes, inodes
}
