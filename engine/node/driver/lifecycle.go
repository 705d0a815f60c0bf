package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/mountinfo"
	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// removeTimeout bounds the removal of what a failed or interrupted start left.
const removeTimeout = 30 * time.Second

// endTimeout is how long the end of a first process is waited for before its
// whole group is looked at.
const endTimeout = 5 * time.Second

// List returns all containers. It also removes what interrupted starts left; what
// cannot be removed is logged, and tried again by the next List.
func (d *Driver) List(ctx context.Context) ([]runtime.State, error) {
	candidates, err := d.idle()
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	held, err := d.shim.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	d.mu.Lock()
	states := make([]runtime.State, 0, len(held))
	for _, s := range held {
		delete(candidates, s.ID)
		if r := d.known[s.ID]; r != nil && s.Phase != protocol.Starting {
			states = append(states, r.state(s))
		}
	}
	d.mu.Unlock()
	d.sweep(ctx, candidates)
	return states, nil
}

// idle returns the containers with a directory on which nobody works, with
// their records if they have one.
func (d *Driver) idle() (map[string]*record, error) {
	entries, err := os.ReadDir(d.containersDir())
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	idle := map[string]*record{}
	for _, e := range entries {
		if id := e.Name(); !d.busy[id] && checkID(id) == nil {
			idle[id] = d.known[id]
		}
	}
	return idle, nil
}

// sweep removes containers that had a directory but that the shim did not hold:
// somebody died while they were made or removed.
func (d *Driver) sweep(ctx context.Context, orphans map[string]*record) {
	for id, seen := range orphans {
		d.mu.Lock()
		mine := !d.busy[id] && d.known[id] == seen
		if mine {
			d.busy[id] = true
			delete(d.known, id)
		}
		d.mu.Unlock()
		if !mine {
			continue
		}
		d.log.Warn("removing a half-made container: its start or removal was interrupted", "container", id)
		r, err := d.readRecord(id)
		if err != nil {
			r = &record{ID: id} // it got no further than its directory
		}
		if err := d.destroy(ctx, r); err != nil {
			d.log.Error("cannot remove a half-made container", "container", id, "error", err)
		}
		d.unclaim(id)
	}
}

// Remove kills what is left of a container and deletes every trace of it but
// its log.
func (d *Driver) Remove(ctx context.Context, id string) error {
	r, err := d.record(id)
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	d.mu.Lock()
	if d.busy[id] {
		d.mu.Unlock()
		return fmt.Errorf("remove container %q: it is being removed already", id)
	}
	d.busy[id] = true
	d.mu.Unlock()
	defer d.unclaim(id)
	if err := d.destroy(ctx, r); err != nil {
		return fmt.Errorf("remove container %q: %w", id, err)
	}
	d.mu.Lock()
	delete(d.known, id)
	d.mu.Unlock()
	return nil
}

// destroy removes a container, however far it got. It can be called again after
// an error.
func (d *Driver) destroy(ctx context.Context, r *record) error {
	if _, bounded := ctx.Deadline(); !bounded {
		limited, cancel := context.WithTimeout(ctx, removeTimeout)
		defer cancel()
		ctx = limited
	}
	if err := d.end(ctx, r); err != nil {
		return err
	}
	if err := d.deleteRuntimeState(ctx, r); err != nil {
		return err
	}
	if r.Cgroup != "" {
		if err := d.cgroups.Remove(ctx, r.Cgroup); err != nil {
			return err
		}
	}
	if err := removeFiles(d.bundle(r.ID), doorName, "stdout", "stderr"); err != nil {
		return err
	}
	return removeFiles(d.dir(r.ID), recordName, "shim.json", "exit.json")
}

// removeFiles removes a directory in which there are mostly these files only,
// without looking.
func removeFiles(dir string, names ...string) error {
	for _, name := range names {
		_ = unix.Unlink(filepath.Join(dir, name))
	}
	if err := unix.Rmdir(dir); err == nil || err == unix.ENOENT {
		return nil
	}
	return removeTree(dir)
}

// end kills a container's processes and makes the shim forget it.
func (d *Driver) end(ctx context.Context, r *record) error {
	if r.Runtime == Builtin && r.OwnPIDs {
		// With the first process the kernel ends all others, before anyone hears
		// that it has ended. What a start left that did not get so far is found
		// when its group cannot be removed.
		if err := d.shim.End(ctx, r.ID, endTimeout); err == nil {
			return nil
		}
		// It is unknown to the shim, or does not end: the thorough way tells.
	}
	if err := d.killGroup(ctx, r); err != nil {
		return err
	}
	// A container in a virtual machine has no processes in the group, and one
	// without a group none to find, but its first process ends by its signal.
	err := d.shim.Signal(ctx, r.ID, int(unix.SIGKILL))
	if err == nil {
		err = d.shim.Forget(ctx, r.ID, removeTimeout)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The shim may have waited for a start that was still adding to the group.
	return d.killGroup(ctx, r)
}

func (d *Driver) killGroup(ctx context.Context, r *record) error {
	if r.Cgroup == "" {
		return nil
	}
	return d.cgroups.Kill(ctx, r.Cgroup)
}

// deleteRuntimeState makes the OCI runtime forget a container. For runc, `runc
// delete` would kill the cgroup, remove it and remove this directory; it would
// run hooks too, which no container of ours has. The first two are done by
// destroy, so only the directory is left, which saves a run of runc.
func (d *Driver) deleteRuntimeState(ctx context.Context, r *record) error {
	if r.Runtime == Builtin {
		return nil
	}
	state := filepath.Join(d.stateDir(), r.ID)
	if r.Runtime != "" && !isRunc(r.Runtime) {
		if _, err := os.Stat(d.dir(r.ID)); err != nil {
			return nil
		}
		log := filepath.Join(d.dir(r.ID), "delete.log")
		args := append(d.runtimeCommand(r, log)[1:], "delete", "--force", r.ID)
		if out, err := exec.CommandContext(ctx, r.Runtime, args...).CombinedOutput(); err != nil {
			if _, statErr := os.Stat(state); statErr == nil {
				return fmt.Errorf("%s delete: %w: %s", filepath.Base(r.Runtime), err, out)
			}
		}
	}
	return removeTree(state)
}

// removeTree removes a directory and what is mounted in it: a runc that was
// killed while it protected its own executable leaves a mount of it behind.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	points, readErr := mountinfo.Below(dir)
	if readErr != nil {
		return readErr
	}
	for _, point := range points {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return &os.PathError{Op: "unmount", Path: point, Err: err}
		}
	}
	return os.RemoveAll(dir)
}

// Signal sends a signal to the first process, or to all.
func (d *Driver) Signal(ctx context.Context, id string, signal int, all bool) error {
	r, err := d.record(id)
	if err != nil {
		return fmt.Errorf("signal: %w", err)
	}
	if !all {
		return d.shim.Signal(ctx, id, signal)
	}
	if signal == int(unix.SIGKILL) {
		return d.cgroups.Kill(ctx, r.Cgroup)
	}
	pids, err := d.cgroups.Processes(r.Cgroup)
	if err != nil {
		return fmt.Errorf("signal container %q: %w", id, err)
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.Signal(signal)); err != nil && err != unix.ESRCH {
			return fmt.Errorf("signal container %q: kill %d: %w", id, pid, err)
		}
	}
	return nil
}

// ReopenLog makes the shim write to LogPath anew.
func (d *Driver) ReopenLog(ctx context.Context, id string) error {
	return d.shim.Reopen(ctx, id)
}

// eventBuffer lets exits of many containers at once arrive without a rendezvous each.
const eventBuffer = 128

// Events delivers exits and kills for lack of memory. It outlives the shim: a
// new one is started, which takes the running containers over and delivers all
// exited ones again.
func (d *Driver) Events(ctx context.Context) <-chan runtime.State {
	states := make(chan runtime.State, eventBuffer)
	go func() {
		defer close(states)
		for ctx.Err() == nil {
			err := d.shim.Events(ctx, func(s protocol.State) { d.deliver(ctx, states, s) })
			if ctx.Err() != nil {
				return
			}
			d.log.Warn("lost the container shim, connecting anew", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return states
}

func (d *Driver) deliver(ctx context.Context, to chan<- runtime.State, s protocol.State) {
	r, err := d.record(s.ID)
	if err != nil {
		// A start that is not acknowledged yet: its container may end first.
		if r, err = d.readRecord(s.ID); err != nil {
			return
		}
	}
	select {
	case to <- r.state(s):
	case <-ctx.Done():
	}
}
