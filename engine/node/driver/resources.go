package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// Update changes the limits of a running container. Limits that are zero stay
// as they are.
func (d *Driver) Update(ctx context.Context, id string, limits runtime.Resources) error {
	r, err := d.record(id)
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	resources, err := d.specs.Resources(&limits)
	if err != nil {
		return fmt.Errorf("update container %q: %w", id, err)
	}
	if r.Runtime == Builtin {
		return d.cgroups.Update(r.Cgroup, resources)
	}
	resources.Devices, resources.HugepageLimits = nil, nil // runc can change neither
	text, err := json.Marshal(resources)
	if err != nil {
		return err
	}
	log := filepath.Join(d.dir(id), d.execName()+".log")
	defer os.Remove(log)
	command := append(d.runtimeCommand(r, log), "update", "--resources", "-", id)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = runtimeEnv(r.Runtime)
	cmd.Stdin = bytes.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		message := lastError(log)
		if message == "" {
			message = strings.TrimSpace(string(out))
		}
		return fmt.Errorf("update container %q: %w: %s", id, err, message)
	}
	return nil
}

// Pause stops all processes of a container until [Driver.Resume].
func (d *Driver) Pause(ctx context.Context, id string) error {
	r, err := d.record(id)
	if err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	if err := d.cgroups.Freeze(ctx, r.Cgroup); err != nil {
		return fmt.Errorf("pause container %q: %w", id, err)
	}
	return nil
}

// Resume lets a paused container run again.
func (d *Driver) Resume(_ context.Context, id string) error {
	r, err := d.record(id)
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	if err := d.cgroups.Thaw(r.Cgroup); err != nil {
		return fmt.Errorf("resume container %q: %w", id, err)
	}
	return nil
}

// Stats reads the container's control group. An exited container has no numbers
// once its group is empty of meaning; what is left of them is returned.
func (d *Driver) Stats(_ context.Context, id string) (runtime.Stats, error) {
	r, err := d.record(id)
	if err != nil {
		return runtime.Stats{}, fmt.Errorf("statistics: %w", err)
	}
	stats, err := d.cgroups.Stats(r.Cgroup)
	if err != nil {
		return stats, fmt.Errorf("statistics of container %q: %w", id, err)
	}
	return stats, nil
}
