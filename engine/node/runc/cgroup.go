package runc

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
	"time"

	"golang.org/x/sys/unix"
)

// cgroups are the instance's part of the host's control groups.
type cgroups struct {
	root    string // path of the instance's group in every hierarchy
	unified string // mount point of a pure v2 host, else ""
	// v1 maps controllers to mount points; "name=..." and "" (a v2 mount
	// beside v1) are hierarchies without a controller of their own.
	v1 map[string]string

	parents *parents
}

// parents counts the starts below each parent group, so that none is removed
// while the OCI runtime creates something in it.
type parents struct {
	mu  sync.Mutex
	use map[string]int
}

func findCgroups(root string) (cgroups, error) {
	g := cgroups{root: root, v1: map[string]string{}, parents: &parents{use: map[string]int{}}}
	table, err := mountTable()
	if err != nil {
		return g, err
	}
	for _, m := range table {
		switch m.kind {
		case "cgroup2":
			if m.point == "/sys/fs/cgroup" {
				g.unified = m.point
			} else {
				g.v1[""] = m.point
			}
		case "cgroup":
			for option := range strings.SplitSeq(m.options, ",") {
				if option != "rw" && option != "ro" {
					g.v1[option] = m.point
				}
			}
		}
	}
	if g.unified != "" {
		g.v1 = nil
	}
	if !g.has("memory") || !g.has("cpu") {
		return g, errors.New("no control groups with cpu and memory are mounted at /sys/fs/cgroup: boot with cgroup v2, or mount the v1 controllers")
	}
	return g, nil
}

// join returns the path of a container's group.
func (g *cgroups) join(parent, id string) (string, error) {
	if parent != "" && !filepath.IsLocal(parent) {
		return "", fmt.Errorf("cgroup parent %q: a relative path without .. is needed", parent)
	}
	return filepath.Join(g.root, parent, id), nil
}

// dir returns the directory of a group for one v1 controller, or on v2.
func (g *cgroups) dir(controller, path string) string {
	if g.unified != "" {
		return filepath.Join(g.unified, path)
	}
	mount, ok := g.v1[controller]
	if !ok {
		return ""
	}
	return filepath.Join(mount, path)
}

// dirs returns all directories of a group.
func (g *cgroups) dirs(path string) []string {
	if g.unified != "" {
		return []string{filepath.Join(g.unified, path)}
	}
	seen := map[string]bool{}
	var dirs []string
	for _, mount := range g.v1 {
		if real, err := filepath.EvalSymlinks(mount); err == nil && !seen[real] {
			seen[real] = true
			dirs = append(dirs, filepath.Join(real, path))
		}
	}
	return dirs
}

// oomFile is the file that counts kills for lack of memory.
func (g *cgroups) oomFile(path string) string {
	if g.unified != "" {
		return filepath.Join(g.unified, path, "memory.events")
	}
	return filepath.Join(g.dir("memory", path), "memory.oom_control")
}

// use keeps the parents of a group until release is called.
func (g *cgroups) use(path string) (release func()) {
	count := func(n int) {
		g.parents.mu.Lock()
		defer g.parents.mu.Unlock()
		for parent := range g.above(path) {
			if g.parents.use[parent] += n; g.parents.use[parent] == 0 {
				delete(g.parents.use, parent)
			}
		}
	}
	count(1)
	return func() { count(-1) }
}

// above yields the parents of a group below the instance's root, nearest first.
func (g *cgroups) above(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for p := filepath.Dir(path); strings.HasPrefix(p, g.root+"/"); p = filepath.Dir(p) {
			if !yield(p) {
				return
			}
		}
	}
}

// processes returns the processes of a group and of those below it. Every
// container is in every hierarchy, so that one suffices.
func (g *cgroups) processes(path string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(g.dir("memory", path), func(dir string, e fs.DirEntry, err error) error {
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

// kill ends all processes of a group and returns when there are none.
func (g *cgroups) kill(ctx context.Context, path string) error {
	for round := 0; ; round++ {
		pids, err := g.processes(path)
		if err != nil {
			return fmt.Errorf("read processes of cgroup %s: %w", path, err)
		}
		if len(pids) == 0 {
			return nil
		}
		// A group that forks faster than it is killed is stopped first.
		frozen := round == 10 && g.freeze(path, "FROZEN", "1") == nil
		if g.unified == "" || os.WriteFile(filepath.Join(g.dir("", path), "cgroup.kill"), []byte("1"), 0) != nil {
			for _, pid := range pids {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		if frozen || round == 0 {
			g.freeze(path, "THAWED", "0") // also one that somebody else froze
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill cgroup %s: %d processes are left, the first is %d: %w", path, len(pids), pids[0], ctx.Err())
		case <-time.After(time.Duration(min(round+1, 20)) * time.Millisecond):
		}
	}
}

func (g *cgroups) freeze(path, v1, v2 string) error {
	if g.unified != "" {
		return os.WriteFile(filepath.Join(g.dir("", path), "cgroup.freeze"), []byte(v2), 0)
	}
	dir := g.dir("freezer", path)
	if dir == "" {
		return fs.ErrNotExist
	}
	return os.WriteFile(filepath.Join(dir, "freezer.state"), []byte(v1), 0)
}

// remove deletes an empty group with everything below it, and parents that are
// empty then, up to the instance's root, which stays.
func (g *cgroups) remove(ctx context.Context, path string) error {
	for _, dir := range g.dirs(path) {
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
	g.parents.mu.Lock()
	defer g.parents.mu.Unlock()
	for parent := range g.above(path) {
		if g.parents.use[parent] > 0 {
			return nil
		}
		for _, dir := range g.dirs(parent) {
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

// has reports whether the host has mounted a controller.
func (g *cgroups) has(controller string) bool {
	if g.unified == "" {
		return g.v1[controller] != ""
	}
	b, err := os.ReadFile(filepath.Join(g.unified, "cgroup.controllers"))
	return err == nil && strings.Contains(" "+strings.TrimSpace(string(b))+" ", " "+controller+" ")
}

// swapLimit reports whether swap can be limited per group.
func (g *cgroups) swapLimit() bool {
	name, dir := "memory.memsw.limit_in_bytes", g.dir("memory", g.root)
	if g.unified != "" {
		name = "memory.swap.max"
	}
	_, err := os.Stat(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) && g.unified == "" {
		_, err = os.Stat(filepath.Join(g.v1["memory"], name))
	}
	return err == nil
}
