package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/cgroup"
	"github.com/gantryhq/gantry/engine/node/launch"
	"github.com/gantryhq/gantry/engine/shim"
	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// ociRuntime is the runtime of one directory.
type ociRuntime struct {
	dir     string
	shim    *shim.Client
	cgroups *cgroup.Tree
}

// record is what is kept of a container.
type record struct {
	Bundle      string
	Annotations map[string]string
	Cgroup      string
	Stdout      string // file that the caller gave as its standard output
	Stderr      string
	Log         string
}

func open(dir string) (*ociRuntime, error) {
	if !filepath.IsAbs(dir) {
		return nil, errors.New("GANTRY_OCI_ROOT: an absolute path is needed")
	}
	if err := os.MkdirAll(filepath.Join(dir, protocol.ContainersDir), 0o711); err != nil {
		return nil, err
	}
	cgroups, err := cgroup.Find("/gantry-oci")
	if err != nil {
		return nil, err
	}
	client := shim.New(dir, func() (string, error) {
		if path := os.Getenv("GANTRY_OCI_SHIM"); path != "" {
			return path, nil
		}
		return shim.Install(filepath.Join(dir, "bin"))
	})
	return &ociRuntime{dir: dir, shim: client, cgroups: cgroups}, nil
}

func (r *ociRuntime) container(id string) string {
	return filepath.Join(r.dir, protocol.ContainersDir, id)
}

// create makes a container up to its start.
func (r *ociRuntime) create(ctx context.Context, id, bundle, pidFile string) (err error) {
	spec, bundle, err := readBundle(bundle)
	if err != nil {
		return err
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	if spec.Linux.CgroupsPath == "" {
		spec.Linux.CgroupsPath = filepath.Join(r.cgroups.Root(), id)
	}
	spec.Linux.CgroupsPath = filepath.Join("/", spec.Linux.CgroupsPath)
	launcher, err := launch.New(r.shim, r.cgroups, r.dir, os.Getenv("GANTRY_OCI_INIT"))
	if err != nil {
		return err
	}
	if err := os.Mkdir(r.container(id), 0o711); err != nil {
		return err
	}
	k := record{Bundle: bundle, Annotations: spec.Annotations, Cgroup: spec.Linux.CgroupsPath, Log: filepath.Join(r.container(id), "log")}
	k.Stdout, _ = os.Readlink("/proc/self/fd/1")
	k.Stderr, _ = os.Readlink("/proc/self/fd/2")
	defer func() {
		if err != nil {
			r.shim.End(ctx, id, 10*time.Second)
			r.cgroups.Remove(ctx, k.Cgroup)
			os.RemoveAll(r.container(id))
		}
	}()
	prepared, err := launcher.Prepare(id, spec)
	if err != nil {
		return err
	}
	state, err := prepared.Create(ctx, launch.IO{LogPath: k.Log})
	if err != nil {
		return err
	}
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.container(id), "oci.json"), text, 0o600); err != nil {
		return err
	}
	if pidFile == "" {
		return nil
	}
	return os.WriteFile(pidFile, []byte(strconv.Itoa(state.PID)), 0o644)
}

// readBundle reads a configuration and makes its paths absolute.
func readBundle(bundle string) (*specs.Spec, string, error) {
	bundle, err := filepath.Abs(bundle)
	if err != nil {
		return nil, "", err
	}
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, "", err
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(text, spec); err != nil {
		return nil, "", fmt.Errorf("read %s/config.json: %w", bundle, err)
	}
	if major, _, _ := strings.Cut(spec.Version, "."); major != "1" {
		return nil, "", fmt.Errorf("ociVersion %q: version 1 of the specification is supported", spec.Version)
	}
	if spec.Root == nil {
		return nil, "", errors.New("the configuration has no root")
	}
	if !filepath.IsAbs(spec.Root.Path) {
		spec.Root.Path = filepath.Join(bundle, spec.Root.Path)
	}
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		bind := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
		if bind && !filepath.IsAbs(m.Source) {
			m.Source = filepath.Join(bundle, m.Source)
		}
	}
	return spec, bundle, nil
}

// find returns what is known of a container.
func (r *ociRuntime) find(ctx context.Context, id string) (k record, s protocol.State, err error) {
	text, err := os.ReadFile(filepath.Join(r.container(id), "oci.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return k, s, fmt.Errorf("container %q does not exist", id)
	}
	if err == nil {
		err = json.Unmarshal(text, &k)
	}
	if err != nil {
		return k, s, err
	}
	states, err := r.shim.List(ctx)
	if err != nil {
		return k, s, err
	}
	i := slices.IndexFunc(states, func(s protocol.State) bool { return s.ID == id })
	if i < 0 {
		return k, s, fmt.Errorf("container %q is unknown to the shim", id)
	}
	return k, states[i], nil
}

func status(s protocol.State) specs.ContainerState {
	switch s.Phase {
	case protocol.Held:
		return specs.StateCreated
	case protocol.Running:
		return specs.StateRunning
	}
	return specs.StateStopped
}

func (r *ociRuntime) start(ctx context.Context, id string) error {
	_, s, err := r.find(ctx, id)
	if err != nil {
		return err
	}
	if now := status(s); now != specs.StateCreated {
		return fmt.Errorf("start container %q: it is %s, not created", id, now)
	}
	return r.shim.Release(ctx, id)
}

func (r *ociRuntime) print(ctx context.Context, id string) error {
	k, s, err := r.find(ctx, id)
	if err != nil {
		return err
	}
	state := specs.State{Version: specs.Version, ID: id, Status: status(s), Bundle: k.Bundle, Annotations: k.Annotations}
	if state.Status == specs.StateStopped {
		if err := k.deliver(); err != nil {
			return err
		}
	} else {
		state.Pid = s.PID
	}
	return json.NewEncoder(os.Stdout).Encode(state)
}

// deliver writes what the container has written to where its creator expects it.
func (k *record) deliver() error {
	text, err := os.ReadFile(k.Log)
	if err != nil {
		return nil // nothing was written
	}
	streams := map[string]*strings.Builder{"stdout": {}, "stderr": {}}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(line, " ", 4)
		if len(fields) == 4 && streams[fields[1]] != nil {
			if fields[2] == "P" {
				fields[3] = strings.TrimSuffix(fields[3], "\n")
			}
			streams[fields[1]].WriteString(fields[3])
		}
	}
	for name, path := range map[string]string{"stdout": k.Stdout, "stderr": k.Stderr} {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if err := os.WriteFile(path, []byte(streams[name].String()), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (r *ociRuntime) kill(ctx context.Context, id, name string) error {
	_, s, err := r.find(ctx, id)
	if err != nil {
		return err
	}
	if status(s) == specs.StateStopped {
		return fmt.Errorf("kill container %q: it is stopped", id)
	}
	number, err := strconv.Atoi(name)
	if err != nil {
		if name == "" {
			name = "TERM"
		}
		number = int(unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG")))
	}
	if number <= 0 {
		return fmt.Errorf("signal %q: there is none of that name", name)
	}
	return r.shim.Signal(ctx, id, number)
}

func (r *ociRuntime) delete(ctx context.Context, id string, force bool) error {
	k, s, err := r.find(ctx, id)
	if err != nil {
		return err
	}
	if now := status(s); now != specs.StateStopped && !force {
		return fmt.Errorf("delete container %q: it is %s, not stopped", id, now)
	}
	if err := r.cgroups.Kill(ctx, k.Cgroup); err != nil {
		return err
	}
	if err := r.shim.End(ctx, id, 10*time.Second); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := r.cgroups.Remove(ctx, k.Cgroup); err != nil {
		return err
	}
	return os.RemoveAll(r.container(id))
}

// shutdown ends the shim, which holds no container any more.
func (r *ociRuntime) shutdown(ctx context.Context) error { return r.shim.Shutdown(ctx) }
