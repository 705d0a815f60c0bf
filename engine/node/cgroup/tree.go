package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/mountinfo"
)

// Tree is an instance's part of the host's control groups. Paths of groups are
// those within the hierarchies and begin with Root.
type Tree struct {
	root    string // path of the instance's group in every hierarchy
	unified string // mount point of a pure v2 host, else ""
	// v1 maps controllers to mount points; "name=..." and "" (a v2 mount
	// beside v1) are hierarchies without a controller of their own.
	v1     map[string]string
	mounts []string // of v1, each once

	parents   *parents
	filters   filters     // guarded by parents.mu
	expecting atomic.Bool // an Expect is under way
}

// parents counts the starts below each parent group, so that none is removed
// while the OCI runtime creates something in it.
type parents struct {
	mu  sync.Mutex
	use map[string]int
}

// Find looks at what the host has mounted. Root is the path of the instance's
// group in every hierarchy; it need not exist.
func Find(root string) (*Tree, error) {
	table, err := mountinfo.Table()
	if err != nil {
		return nil, err
	}
	t := &Tree{root: root, parents: &parents{use: map[string]int{}}, filters: filters{}}
	if t.unified, t.v1 = hostMounts(table); t.unified != "" {
		t.v1 = nil
	}
	t.mounts = t.hierarchies()
	if !t.Has("memory") || !t.Has("cpu") {
		return nil, errors.New("no control groups with cpu and memory are mounted at /sys/fs/cgroup: boot with cgroup v2, or mount the v1 controllers")
	}
	return t, nil
}

// hostMounts finds the mount point of a pure v2 host, or those of each v1 controller. A hierarchy may
// be mounted again elsewhere, as a container or a chroot sees it and for as long as that lives: what is
// below /sys/fs/cgroup is the host's own, else what was mounted first.
func hostMounts(table []mountinfo.Mount) (unified string, v1 map[string]string) {
	const usual = "/sys/fs/cgroup"
	v1 = map[string]string{}
	take := func(controller, point string) {
		if had, ok := v1[controller]; !ok || !strings.HasPrefix(had, usual+"/") && strings.HasPrefix(point, usual+"/") {
			v1[controller] = point
		}
	}
	for _, m := range table {
		switch {
		case m.Kind == "cgroup2" && m.Point == usual:
			unified = m.Point
		case m.Kind == "cgroup2":
			take("", m.Point)
		case m.Kind == "cgroup":
			for option := range strings.SplitSeq(m.Options, ",") {
				if option != "rw" && option != "ro" {
					take(option, m.Point)
				}
			}
		}
	}
	return unified, v1
}

// Root is the path of the instance's group.
func (t *Tree) Root() string { return t.root }

// Unified reports whether the host has cgroup v2 only.
func (t *Tree) Unified() bool { return t.unified != "" }

// Join returns the path of a container's group.
func (t *Tree) Join(parent, id string) (string, error) {
	if parent != "" && !filepath.IsLocal(parent) {
		return "", fmt.Errorf("cgroup parent %q: a relative path without .. is needed", parent)
	}
	return filepath.Join(t.root, parent, id), nil
}

// Dir returns the directory of a group for one v1 controller, or on v2.
func (t *Tree) Dir(controller, path string) string {
	if t.unified != "" {
		return filepath.Join(t.unified, path)
	}
	mount, ok := t.v1[controller]
	if !ok {
		return ""
	}
	return filepath.Join(mount, path)
}

// Dirs returns all directories of a group.
func (t *Tree) Dirs(path string) []string {
	if t.unified != "" {
		return []string{filepath.Join(t.unified, path)}
	}
	dirs := make([]string, len(t.mounts))
	for i, mount := range t.mounts {
		dirs[i] = filepath.Join(mount, path)
	}
	return dirs
}

// hierarchies returns where v1 hierarchies are mounted, each once.
func (t *Tree) hierarchies() []string {
	seen := map[string]bool{}
	var mounts []string
	for _, mount := range t.v1 {
		if real, err := filepath.EvalSymlinks(mount); err == nil && !seen[real] {
			seen[real] = true
			mounts = append(mounts, real)
		}
	}
	return mounts
}

// OOMFile is the file that counts kills for lack of memory.
func (t *Tree) OOMFile(path string) string {
	if t.unified != "" {
		return filepath.Join(t.unified, path, "memory.events")
	}
	return filepath.Join(t.Dir("memory", path), "memory.oom_control")
}

// Use keeps the parents of a group until release is called.
func (t *Tree) Use(path string) (release func()) {
	count := func(n int) {
		t.parents.mu.Lock()
		defer t.parents.mu.Unlock()
		for parent := range t.above(path) {
			if t.parents.use[parent] += n; t.parents.use[parent] == 0 {
				delete(t.parents.use, parent)
			}
		}
	}
	count(1)
	return func() { count(-1) }
}

// above yields the parents of a group below the instance's root, nearest first.
func (t *Tree) above(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for p := filepath.Dir(path); strings.HasPrefix(p, t.root+"/"); p = filepath.Dir(p) {
			if !yield(p) {
				return
			}
		}
	}
}

// Processes returns the processes of a group and of those below it. Every
// container is in every hierarchy, so that one suffices.
func (t *Tree) Processes(path string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(t.Dir("memory", path), func(dir string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !e.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		for line := range strings.FieldsSeq(string(b)) {
			// 0 is a process of another pid namespace, which cannot be here.
			if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// Kill ends all processes of a group and returns when there are none.
func (t *Tree) Kill(ctx context.Context, path string) error {
	for round := 0; ; round++ {
		pids, err := t.Processes(path)
		if err != nil {
			return fmt.Errorf("read processes of cgroup %s: %w", path, err)
		}
		if len(pids) == 0 {
			return nil
		}
		// A group that forks faster than it is killed is stopped first.
		frozen := round == 10 && t.freeze(path, "FROZEN", "1") == nil
		if round == 10 && !frozen {
			t.forbidForks(path)
		}
		if t.unified == "" || os.WriteFile(filepath.Join(t.Dir("", path), "cgroup.kill"), []byte("1"), 0) != nil {
			for _, pid := range pids {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		if frozen || round == 0 {
			t.freeze(path, "THAWED", "0") // also one that somebody else froze
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill cgroup %s: %d processes are left, the first is %d: %w", path, len(pids), pids[0], ctx.Err())
		case <-time.After(time.Duration(min(round+1, 20)) * time.Millisecond):
		}
	}
}

// forbidForks stops a group from growing where it cannot be frozen.
func (t *Tree) forbidForks(path string) {
	if dir := t.Dir("pids", path); dir != "" {
		_ = os.WriteFile(filepath.Join(dir, "pids.max"), []byte("0"), 0)
	}
}

// Remove deletes an empty group with everything below it, and parents that are
// empty then, up to the instance's root, which stays.
func (t *Tree) Remove(ctx context.Context, path string) error {
	for _, dir := range t.Dirs(path) {
		for {
			err := removeGroup(dir)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) || ctx.Err() != nil {
				return fmt.Errorf("remove cgroup: %w", err)
			}
			time.Sleep(time.Millisecond) // the last process is still on its way out
		}
	}
	t.parents.mu.Lock()
	defer t.parents.mu.Unlock()
	for parent := range t.above(path) {
		if t.parents.use[parent] > 0 {
			return nil
		}
		for _, dir := range t.Dirs(parent) {
			os.Remove(dir) // refused while there are others in it
		}
	}
	return nil
}

// removeGroup removes a group's directory, deepest first.
func removeGroup(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil && !errors.Is(readErr, fs.ErrNotExist) {
		return readErr
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// Has reports whether the host has mounted a controller.
func (t *Tree) Has(controller string) bool {
	if t.unified == "" {
		return t.v1[controller] != ""
	}
	b, err := os.ReadFile(filepath.Join(t.unified, "cgroup.controllers"))
	return err == nil && strings.Contains(" "+strings.TrimSpace(string(b))+" ", " "+controller+" ")
}

// SwapLimit reports whether swap can be limited per group.
func (t *Tree) SwapLimit() bool {
	name, dir := "memory.memsw.limit_in_bytes", t.Dir("memory", t.root)
	if t.unified != "" {
		name = "memory.swap.max"
	}
	_, err := os.Stat(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) && t.unified == "" {
		_, err = os.Stat(filepath.Join(t.v1["memory"], name))
	}
	return err == nil
}
