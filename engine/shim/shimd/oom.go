package shimd

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// oomKills reads how often the kernel killed for lack of memory: the line
// "oom_kill N" of memory.events (cgroup v2) or memory.oom_control (v1).
func oomKills(file string) int {
	if file == "" {
		return 0
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(count))
			return n
		}
	}
	return 0
}

// oomWatch tells a container about kills that it survives. Missing one is
// harmless for the exit: finish reads the counter itself.
type oomWatch struct{ cancel func() }

func (w *oomWatch) stop() {
	if w != nil {
		w.cancel()
	}
}

func (s *Server) watchOOM(c *container, file string) *oomWatch {
	if file == "" {
		return nil
	}
	watch, err := s.oomV2.add(c, file)
	if filepath.Base(file) == "memory.oom_control" {
		watch, err = watchV1(c, file)
	}
	if err != nil {
		s.logf("container %s: out-of-memory events: %v", c.id, err)
		return nil
	}
	return watch
}

// watchV1 registers an event descriptor as cgroup v1 wants it.
func watchV1(c *container, file string) (*oomWatch, error) {
	control, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	event := os.NewFile(uintptr(fd), "oom")
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "cgroup.event_control"), []byte(line), 0); err != nil {
		event.Close()
		return nil, err
	}
	go func() {
		for {
			if _, err := event.Read(make([]byte, 8)); err != nil {
				return
			}
			if awaitKill(file) {
				c.outOfMemory()
			}
		}
	}()
	return &oomWatch{cancel: func() { event.Close() }}, nil
}

// awaitKill waits until the kernel has counted a kill: cgroup v1 tells of the
// shortage, and the kill follows, on a busy machine much later. The event also
// comes when the group is removed.
func awaitKill(file string) bool {
	for wait := time.Millisecond; wait < 2*time.Second; wait += wait / 2 {
		if oomKills(file) > 0 {
			return true
		}
		if _, err := os.Stat(file); err != nil {
			return false
		}
		time.Sleep(wait)
	}
	return false
}

// oomV2 watches all memory.events files with one inotify descriptor.
type oomV2 struct {
	mu      sync.Mutex
	file    *os.File // nil until first used
	watched map[int32]v2Watch
}

type v2Watch struct {
	container *container
	file      string
}

func (o *oomV2) add(c *container, file string) (*oomWatch, error) {
	if filepath.Base(file) != "memory.events" {
		return nil, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, os.NewSyscallError("inotify_init", err)
		}
		o.file = os.NewFile(uintptr(fd), "inotify")
		o.watched = map[int32]v2Watch{}
		go o.read(o.file)
	}
	wd, err := o.control(func(fd int) (int, error) { return unix.InotifyAddWatch(fd, file, unix.IN_MODIFY) })
	if err != nil {
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	o.watched[int32(wd)] = v2Watch{c, file}
	return &oomWatch{cancel: func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if _, ok := o.watched[int32(wd)]; ok {
			delete(o.watched, int32(wd))
			o.control(func(fd int) (int, error) { return unix.InotifyRmWatch(fd, uint32(wd)) })
		}
	}}, nil
}

func (o *oomV2) control(f func(fd int) (int, error)) (n int, err error) {
	raw, err := o.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var callErr error
	if err := raw.Control(func(fd uintptr) { n, callErr = f(int(fd)) }); err != nil {
		return 0, err
	}
	return n, callErr
}

func (o *oomV2) read(file *os.File) {
	b := make([]byte, 4096)
	for {
		n, err := file.Read(b)
		if err != nil {
			return
		}
		// struct inotify_event: wd, mask, cookie, len, name; no names here.
		for event := b[:n]; len(event) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(event))
			event = event[unix.SizeofInotifyEvent+binary.NativeEndian.Uint32(event[12:]):]
			o.mu.Lock()
			w, ok := o.watched[wd]
			o.mu.Unlock()
			if ok && oomKills(w.file) > 0 {
				w.container.outOfMemory()
			}
		}
	}
}
