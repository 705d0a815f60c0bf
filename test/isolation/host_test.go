package isolation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/driver"
	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/internal/testenv"
)

// programs are what the suite builds once.
type programs struct{ dir, shim, init, probe, probe386 string }

var built atomic.Pointer[programs]

var build = sync.OnceValues(func() (*programs, error) {
	dir, err := os.MkdirTemp("", "gantry-isolation-programs-")
	if err != nil {
		return nil, err
	}
	p := &programs{dir: dir}
	built.Store(p)
	if os.Getenv(testenv.Programs) == "" {
		if err := dependOn("../../engine/shim/*/*.go", "../../cmd/gantry-*/*.go", "probe/*.go", "probe32/*.go"); err != nil {
			return nil, err
		}
	}
	for _, b := range []struct {
		path         *string
		name, source string
		env          []string
	}{
		{&p.shim, "gantry-shim", "github.com/gantryhq/gantry/cmd/gantry-shim", nil},
		{&p.init, "gantry-init", "github.com/gantryhq/gantry/cmd/gantry-init", nil},
		{&p.probe, "probe", "github.com/gantryhq/gantry/test/isolation/probe", nil},
		{&p.probe386, "probe386", "github.com/gantryhq/gantry/test/isolation/probe32", []string{"GOARCH=386"}},
	} {
		*b.path = filepath.Join(dir, b.name)
		if err := testenv.Build(*b.path, b.source, b.env...); err != nil {
			return nil, err
		}
	}
	return p, nil
})

// dependOn reads the sources of the programs, which are not imported: go test
// takes no result from its cache when a file changed that was read.
func dependOn(patterns ...string) error {
	for _, pattern := range patterns {
		names, err := filepath.Glob(pattern)
		if err == nil && len(names) == 0 {
			err = os.ErrNotExist
		}
		if err != nil {
			return fmt.Errorf("find %s: %w", pattern, err)
		}
		for _, name := range names {
			if _, err := os.ReadFile(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestMain(m *testing.M) {
	code := m.Run()
	if p := built.Load(); p != nil {
		os.RemoveAll(p.dir)
	}
	os.Exit(code)
}

// candidate is one driver under test, on a data directory of its own.
type candidate struct {
	t       testing.TB
	name    string // the RuntimeClass handler
	dir     string
	group   string // of the instance, in every hierarchy
	driver  runtime.Driver
	cleanup func(context.Context) error
	*programs
	ids int
}

// candidates are the drivers that must agree; the first is the reference.
var candidates = []string{"runc", "gantry"}

// open gives a driver, and checks at the end that its clean-up leaves nothing.
func open(t testing.TB, name string) *candidate {
	t.Helper()
	testenv.NeedContainers(t)
	p, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "gantry-isolation-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // a container's root user passes here
		t.Fatal(err)
	}
	if err := errors.Join(unix.Mount(dir, dir, "", unix.MS_BIND, ""), unix.Mount("", dir, "", unix.MS_SHARED, "")); err != nil {
		t.Fatalf("make a shared mount, as every mount is with systemd: %v", err)
	}
	c := &candidate{t: t, name: name, dir: dir, programs: p}
	config := driver.Config{DataDir: dir, ShimPath: p.shim, InitPath: p.init, Logger: slog.New(slog.DiscardHandler)}
	d, err := driver.New(config)
	if err != nil {
		t.Fatalf("open driver: %v", err)
	}
	c.group = d.CgroupRoot()
	c.driver, c.cleanup = d, func(ctx context.Context) error { return driver.Cleanup(ctx, config) }
	t.Cleanup(c.close)
	return c
}

func (c *candidate) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	states, err := c.driver.List(ctx)
	if err != nil {
		c.t.Errorf("list at the end: %v", err)
	}
	for _, s := range states {
		if err := c.driver.Remove(ctx, s.ID); err != nil {
			c.t.Errorf("remove at the end: %v", err)
		}
	}
	if err := c.cleanup(ctx); err != nil {
		c.t.Errorf("clean up: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	// runc may leave some where the attack on a directory that is being swapped reaches the host.
	if err != nil || strings.Contains(string(mounts), c.dir+"/") && c.name != candidates[0] {
		c.t.Errorf("mounts below %s are left (%v)", c.dir, err)
	}
	if err := unix.Unmount(c.dir, unix.MNT_DETACH); err != nil { // also what is left, lest it be in the way of others
		c.t.Errorf("unmount the directory: %v", err)
	}
	os.RemoveAll(c.dir)
}

func (c *candidate) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	c.t.Cleanup(cancel)
	return ctx
}

// container is one that runs the probe in a root of its own.
func (c *candidate) container(args ...string) *runtime.Container {
	c.t.Helper()
	c.ids++
	id := "iso-" + strconv.Itoa(c.ids)
	root := filepath.Join(c.dir, "roots", id)
	for _, dir := range []string{"etc", "proc", "sys", "dev", "tmp", "volume", "readonly", "scratch", "run"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o1777); err != nil {
		c.t.Fatal(err)
	}
	c.copy(c.probe, filepath.Join(root, "probe"))
	return &runtime.Container{
		ID: id, PodUID: "pod-" + id, Handler: c.name, Hostname: "isolated", Rootfs: root,
		Args: append([]string{"/probe"}, args...), Env: []string{"A=b"},
		CgroupParent: "burstable/pod" + id, LogPath: filepath.Join(c.dir, "logs", id, "0.log"),
	}
}

// copy gives a container a program that it may write to without harm.
func (c *candidate) copy(from, to string) {
	c.t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o755); err != nil {
		c.t.Fatal(err)
	}
}

func (c *candidate) start(k *runtime.Container) runtime.State {
	c.t.Helper()
	state, err := c.driver.Start(c.context(), k)
	if err != nil {
		c.t.Fatalf("%s: start: %v", c.name, err)
	}
	return state
}

// state is what the driver says of a container.
func (c *candidate) state(id string) runtime.State {
	c.t.Helper()
	states, err := c.driver.List(c.context())
	if err != nil {
		c.t.Fatal(err)
	}
	i := slices.IndexFunc(states, func(s runtime.State) bool { return s.ID == id })
	if i < 0 {
		c.t.Fatalf("container %s is not listed", id)
	}
	return states[i]
}

// wait returns the state of a container that has ended.
func (c *candidate) wait(id string) (state runtime.State) {
	c.t.Helper()
	eventually(c.t, "container "+id+" ends", func() bool {
		state = c.state(id)
		return !state.Running
	})
	return state
}

func (c *candidate) remove(id string) {
	c.t.Helper()
	if err := c.driver.Remove(c.context(), id); err != nil {
		c.t.Errorf("%s: remove: %v", c.name, err)
	}
}

// output is what a container has written, without the log format around it.
func (c *candidate) output(k *runtime.Container) string {
	c.t.Helper()
	text, err := os.ReadFile(k.LogPath)
	if err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(line, " ", 4)
		if len(fields) != 4 {
			continue // not written to its end yet
		}
		if fields[2] == "P" {
			fields[3] = strings.TrimSuffix(fields[3], "\n")
		}
		b.WriteString(fields[3])
	}
	return b.String()
}

// says waits until a container has written a text.
func (c *candidate) says(k *runtime.Container, text string) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("%s: container %s says %q; it says %q", c.name, k.ID, text, c.output(k)), func() bool { return strings.Contains(c.output(k), text) })
}

func (c *candidate) exec(id string, e runtime.Exec) (string, int) {
	c.t.Helper()
	var out bytes.Buffer
	code, err := c.driver.Exec(c.context(), id, e, runtime.Streams{Stdout: &out, Stderr: &out})
	if err != nil {
		c.t.Fatalf("%s: exec: %v", c.name, err)
	}
	return out.String(), code
}

// findings are the probe's report, without the names that differ by nature.
func (c *candidate) findings(k *runtime.Container, text string) map[string]string {
	c.t.Helper()
	start := strings.IndexByte(text, '{')
	if start < 0 {
		c.t.Fatalf("%s: the probe says %q", c.name, text)
	}
	found := map[string]string{}
	if err := json.NewDecoder(strings.NewReader(text[start:])).Decode(&found); err != nil {
		c.t.Fatalf("%s: read the probe's report: %v: %q", c.name, err, text)
	}
	names := strings.NewReplacer(k.Rootfs, "ROOT", c.dir, "DIR", "pod"+k.ID, "pod-ID", k.ID, "ID", c.group, "/INSTANCE")
	out := map[string]string{}
	for key, value := range found {
		out[names.Replace(key)] = names.Replace(value)
	}
	return out
}

func eventually(t testing.TB, what string, true func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !true() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(3 * time.Millisecond)
	}
}
