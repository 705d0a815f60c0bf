package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Freeze stops all processes of a group until [Tree.Thaw], and returns when none runs any
// more. Signals wait meanwhile; [Tree.Kill] ends frozen processes too.
func (t *Tree) Freeze(ctx context.Context, path string) error {
	if t.unified == "" {
		if err := t.gather(ctx, path); err != nil {
			return fmt.Errorf("freeze cgroup %s: %w", path, err)
		}
	}
	if err := t.freeze(path, "FROZEN", "1"); err != nil {
		return fmt.Errorf("freeze cgroup %s: %w", path, err)
	}
	for {
		frozen, err := t.frozen(path)
		if err != nil || frozen {
			return err
		}
		if t.unified == "" { // the kernel tries again only when asked again
			if err := t.freeze(path, "FROZEN", "1"); err != nil {
				return fmt.Errorf("freeze cgroup %s: %w", path, err)
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("freeze cgroup %s: its processes do not stop: %w", path, ctx.Err()), t.Thaw(path))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Thaw lets the processes of a group run again.
func (t *Tree) Thaw(path string) error {
	err := t.freeze(path, "THAWED", "0")
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // of version 1: it was never frozen
		return fmt.Errorf("thaw cgroup %s: %w", path, err)
	}
	return nil
}

// frozen reports whether all processes of a group stand still.
func (t *Tree) frozen(path string) (bool, error) {
	if t.unified == "" {
		state, err := os.ReadFile(filepath.Join(t.Dir("freezer", path), "freezer.state"))
		return strings.TrimSpace(string(state)) == "FROZEN", err
	}
	events, err := os.ReadFile(filepath.Join(t.Dir("", path), "cgroup.events"))
	return strings.Contains(string(events), "frozen 1"), err
}

// gather puts the processes of a group into its group of version 1's freezer, in which
// containers are only when they have to be. That group is frozen first: who enters it
// stands still and has no more children that are missed.
func (t *Tree) gather(ctx context.Context, path string) error {
	dir := t.Dir("freezer", path)
	if dir == "" {
		return errors.New("the host has not mounted the freezer controller")
	}
	if err := makeGroup(dir); err != nil {
		return err
	}
	if err := t.freeze(path, "FROZEN", "1"); err != nil {
		return err
	}
	for {
		inside, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return err
		}
		there := strings.Fields(string(inside))
		pids, err := t.Processes(path)
		if err != nil {
			return err
		}
		missing := slices.DeleteFunc(pids, func(pid int) bool { return slices.Contains(there, strconv.Itoa(pid)) })
		if len(missing) == 0 {
			return nil
		}
		for _, pid := range missing {
			err := writeFile(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid))
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return errors.Join(err, t.Thaw(path))
			}
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), t.Thaw(path))
		}
	}
}

func (t *Tree) freeze(path, v1, v2 string) error {
	if t.unified != "" {
		return os.WriteFile(filepath.Join(t.Dir("", path), "cgroup.freeze"), []byte(v2), 0)
	}
	dir := t.Dir("freezer", path)
	if dir == "" {
		return fs.ErrNotExist
	}
	return os.WriteFile(filepath.Join(dir, "freezer.state"), []byte(v1), 0)
}
