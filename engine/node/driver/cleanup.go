package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// Cleanup ends every container of a data directory and the shim, and removes
// their control groups and run-time files. Logs stay. It needs no driver, no
// runc and no shim that answers, so that it works when nothing else does. No
// driver may be at work on the directory.
func Cleanup(ctx context.Context, config Config) error {
	d, err := newDriver(config)
	if err != nil {
		return err
	}
	if _, err := os.Stat(d.containersDir()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := d.cgroups.Kill(ctx, d.cgroups.Root()); err != nil {
		return err
	}
	if err := d.stopShim(ctx); err != nil {
		return fmt.Errorf("stop the container shim: %w", err)
	}
	entries, err := os.ReadDir(d.containersDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		r, err := d.readRecord(e.Name())
		if err != nil {
			r = &record{ID: e.Name()}
		}
		if err := d.deleteRuntimeState(ctx, r); err != nil {
			return err
		}
		if err := removeTree(d.dir(r.ID)); err != nil {
			return err
		}
	}
	// Again for what a runtime that was just creating something has added.
	if err := d.cgroups.Kill(ctx, d.cgroups.Root()); err != nil {
		return err
	}
	if err := d.cgroups.Remove(ctx, d.cgroups.Root()); err != nil {
		return err
	}
	if err := unmountBundles(d.bundlesDir()); err != nil {
		return err
	}
	return removeTree(d.stateDir())
}

// stopShim asks the shim to end, and kills one that does not listen to reason.
func (d *Driver) stopShim(ctx context.Context) error {
	polite, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for polite.Err() == nil {
		err := d.shim.Shutdown(polite)
		var refusal *protocol.Error
		if err == nil || !errors.As(err, &refusal) || refusal.Code != protocol.CodeRunning {
			break // it is gone, going, or speaks another language
		}
		time.Sleep(2 * time.Millisecond) // it is collecting the dead
	}
	path := filepath.Join(d.runDir, protocol.LockName)
	for ; ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
		pid, held, err := lockHolder(path)
		if err != nil || !held {
			return err
		}
		if polite.Err() != nil && pid > 1 {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	return ctx.Err()
}

// lockHolder tells whether a shim holds its lock, and its pid.
func lockHolder(path string) (pid int, held bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err == nil {
		return 0, false, nil
	}
	text := make([]byte, 32)
	n, _ := f.ReadAt(text, 0)
	pid, err = strconv.Atoi(strings.TrimSpace(string(text[:n])))
	return pid, true, err
}
