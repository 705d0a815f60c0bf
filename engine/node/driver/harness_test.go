package driver

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/engine/shim/protocol"
	"github.com/gantryhq/gantry/internal/testenv"
)

var shimBuilt atomic.Bool

// buildShim builds the shim and the init once per test run, and returns the path
// of the first; the other is beside it.
var buildShim = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gantry-shim-test-")
	if err != nil {
		return "", err
	}
	shimBuilt.Store(true)
	path := filepath.Join(dir, "gantry-shim")
	for _, name := range []string{"gantry-shim", "gantry-init"} {
		if err := testenv.Build(filepath.Join(dir, name), "github.com/gantryhq/gantry/cmd/"+name); err != nil {
			return "", err
		}
	}
	return path, nil
})

func TestMain(m *testing.M) {
	if os.Getenv(starterEnv) != "" {
		starterMain()
	}
	code := m.Run()
	if shimBuilt.Load() {
		path, _ := buildShim()
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// host is a machine with one driver on a data directory of its own.
type host struct {
	t    testing.TB
	dir  string
	shim string
	// handler starts containers that name none.
	handler string
	driver  *Driver
	roots   int
	ids     int
	mu      sync.Mutex
}

// handlers are the ways of starting a container, of which the same is expected.
var handlers = []string{Builtin, "runc"}

// eachHandler runs a test with every way of starting containers.
func eachHandler(t *testing.T, test func(t *testing.T, h *host)) {
	for _, handler := range handlers {
		t.Run(handler, func(t *testing.T) { test(t, newHostOf(t, handler)) })
	}
}

func newHost(t testing.TB) *host { return newHostOf(t, "runc") }

// newHostOf gives a driver, and checks at the end that nothing is left of its
// containers once they are removed.
func newHostOf(t testing.TB, handler string) *host {
	t.Helper()
	testenv.NeedContainers(t)
	testenv.NeedProgram(t, "busybox", "busybox-static")
	shim, err := buildShim()
	if err != nil {
		t.Fatalf("build the shim: %v", err)
	}
	dir, err := os.MkdirTemp("", "gantry-runc-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, shim: shim, handler: handler}
	h.open()
	t.Cleanup(h.close)
	return h
}

func (h *host) config() Config {
	return Config{DataDir: h.dir, ShimPath: h.shim, InitPath: initPath(h.shim), Default: h.handler, Logger: slog.New(slog.NewTextHandler(testWriter{h.t}, nil))}
}

func initPath(shim string) string { return filepath.Join(filepath.Dir(shim), "gantry-init") }

func (h *host) open() {
	h.t.Helper()
	d, err := New(h.config())
	if err != nil {
		h.t.Fatalf("open the driver: %v", err)
	}
	h.driver = d
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// close removes all containers, and fails the test when anything is left.
func (h *host) close() {
	ctx := h.context()
	states, err := h.driver.List(ctx)
	if err != nil {
		h.t.Errorf("list at the end: %v", err)
	}
	for _, s := range states {
		if err := h.driver.Remove(ctx, s.ID); err != nil {
			h.t.Errorf("remove at the end: %v", err)
		}
	}
	h.checkGroups()
	if err := Cleanup(ctx, h.config()); err != nil {
		h.t.Errorf("clean up: %v", err)
	}
	h.checkLeaks()
	os.RemoveAll(h.dir)
}

// checkGroups fails when removed containers have left control groups below the root.
func (h *host) checkGroups() {
	h.t.Helper()
	for _, dir := range h.driver.cgroups.Dirs(h.driver.cgroups.Root()) {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if e.IsDir() {
				h.t.Errorf("cgroup %s/%s is left", dir, e.Name())
			}
		}
	}
}

// checkLeaks fails when the clean-up has left anything.
func (h *host) checkLeaks() {
	h.t.Helper()
	for _, dir := range h.driver.cgroups.Dirs(h.driver.cgroups.Root()) {
		if _, err := os.Stat(dir); err == nil {
			h.t.Errorf("cgroup %s is left", dir)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		h.t.Fatal(err)
	}
	if strings.Contains(string(mounts), h.dir) {
		h.t.Errorf("mounts below %s are left:\n%s", h.dir, mounts)
	}
	for _, dir := range []string{h.driver.containersDir(), h.driver.stateDir()} {
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			h.t.Errorf("%s is not empty: %v", dir, entries)
		}
	}
	eventually(h.t, "no process of this instance is left", func() bool {
		processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			h.t.Fatal(err)
		}
		return !slices.ContainsFunc(processes, func(path string) bool {
			text, err := os.ReadFile(path)
			return err == nil && bytes.Contains(text, []byte(h.dir))
		})
	})
}

func (h *host) shimPID() int {
	h.t.Helper()
	pid, held, err := lockHolder(filepath.Join(h.dir, "run", protocol.LockName))
	if err != nil || !held {
		h.t.Fatalf("find the shim: held %v, %v", held, err)
	}
	return pid
}

func (h *host) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	h.t.Cleanup(cancel)
	return ctx
}

// container is one that runs a shell command in a fresh busybox root.
func (h *host) container(script string) *runtime.Container {
	h.t.Helper()
	h.mu.Lock()
	h.ids++
	id := fmt.Sprintf("c%d", h.ids)
	h.mu.Unlock()
	return &runtime.Container{
		ID:           id,
		PodUID:       "pod-" + id,
		Labels:       map[string]string{"name": id},
		Hostname:     id,
		Rootfs:       h.rootfs(id),
		Args:         []string{"/bin/sh", "-c", script},
		CgroupParent: "burstable/pod" + id,
		LogPath:      filepath.Join(h.dir, "logs", id, "0.log"),
	}
}

func (h *host) rootfs(name string) string {
	h.t.Helper()
	root := filepath.Join(h.dir, "roots", name)
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		h.t.Fatal(err)
	}
	target := filepath.Join(root, "bin", "busybox")
	if err := os.Link(busybox, target); err != nil {
		text, err := os.ReadFile(busybox)
		if err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(target, text, 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	for _, applet := range []string{"sh", "cat", "echo", "sleep", "id", "mount", "ps", "grep", "mknod", "chmod", "su",
		"head", "dd", "true", "false", "kill", "stty", "ls", "touch", "hostname", "wc", "unshare", "tail", "test", "printf", "mkdir", "chroot", "seq", "date", "yes"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil && !os.IsExist(err) {
			h.t.Fatal(err)
		}
	}
	return root
}

func (h *host) start(c *runtime.Container) runtime.State {
	h.t.Helper()
	s, err := h.driver.Start(h.context(), c)
	if err != nil {
		h.t.Fatalf("start: %v", err)
	}
	return s
}

// wait returns the state of a container once it has exited.
func (h *host) wait(id string) runtime.State {
	h.t.Helper()
	var state runtime.State
	eventually(h.t, "container "+id+" exits", func() bool {
		state = h.state(id)
		return !state.Running
	})
	return state
}

func (h *host) state(id string) runtime.State {
	h.t.Helper()
	states, err := h.driver.List(h.context())
	if err != nil {
		h.t.Fatalf("list: %v", err)
	}
	for _, s := range states {
		if s.ID == id {
			return s
		}
	}
	h.t.Fatalf("container %s is not listed", id)
	return runtime.State{}
}

// run runs a shell command in a container to its end and returns what it wrote.
func (h *host) run(c *runtime.Container) (string, runtime.State) {
	h.t.Helper()
	h.start(c)
	state := h.wait(c.ID)
	return h.output(c), state
}

// output returns a container's log without times, streams and tags.
func (h *host) output(c *runtime.Container) string {
	h.t.Helper()
	text, err := os.ReadFile(c.LogPath)
	if err != nil {
		h.t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(line, " ", 4)
		if len(fields) != 4 {
			h.t.Fatalf("log line %q is not in CRI format", line)
		}
		if fields[2] == "P" {
			b.WriteString(strings.TrimSuffix(fields[3], "\n"))
		} else {
			b.WriteString(fields[3])
		}
	}
	return b.String()
}

func (h *host) exec(id, script string) (string, int) {
	h.t.Helper()
	var out bytes.Buffer
	code, err := h.driver.Exec(h.context(), id, runtime.Exec{Args: []string{"/bin/sh", "-c", script}}, runtime.Streams{Stdout: &out, Stderr: &out})
	if err != nil {
		h.t.Fatalf("exec: %v", err)
	}
	return out.String(), code
}

func eventually(t testing.TB, what string, true func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !true() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

func uidOf(info os.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }
