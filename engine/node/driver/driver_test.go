package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

func TestContainerRunsToItsEnd(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("echo out; echo err >&2; exit 7")
		out, state := h.run(c)
		if out != "out\nerr\n" && out != "err\nout\n" {
			t.Errorf("output %q", out)
		}
		if state.ExitCode != 7 || state.OOMKilled || state.FinishedAt.Before(state.StartedAt) {
			t.Errorf("state %+v", state)
		}
		if state.PodUID != "pod-"+c.ID || state.Labels["name"] != c.ID {
			t.Errorf("labels are lost: %+v", state)
		}
		if err := h.driver.Remove(h.context(), c.ID); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(h.output(c), "out\n") {
			t.Error("the log must outlive the container")
		}
		if err := h.driver.Remove(h.context(), c.ID); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("removing it twice: %v", err)
		}
	})
}

func TestSignals(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
		h.start(c)
		eventually(t, "the trap is set", func() bool { return strings.Contains(h.output(c), "ready") })
		if err := h.driver.Signal(h.context(), c.ID, int(unix.SIGTERM), false); err != nil {
			t.Fatal(err)
		}
		if state := h.wait(c.ID); state.ExitCode != 3 || !strings.Contains(h.output(c), "got it") {
			t.Errorf("state %+v, output %q", state, h.output(c))
		}
		if err := h.driver.Signal(h.context(), c.ID, int(unix.SIGTERM), false); err != nil {
			t.Errorf("a signal to a container that has exited: %v", err)
		}
		all := h.container("sleep 1000 & sleep 1000 & wait")
		h.start(all)
		if err := h.driver.Signal(h.context(), all.ID, int(unix.SIGKILL), true); err != nil {
			t.Fatal(err)
		}
		if state := h.wait(all.ID); state.ExitCode != 137 {
			t.Errorf("exit code %d, want 137", state.ExitCode)
		}
	})
}

func TestEventsTellExits(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		early := h.container("exit 1")
		h.run(early)
		ctx, cancel := context.WithCancel(h.context())
		events := h.driver.Events(ctx)
		if s := <-events; s.ID != early.ID || s.ExitCode != 1 {
			t.Errorf("first event %+v, want the container that had exited before", s)
		}
		late := h.container("exit 2")
		h.start(late)
		if s := nextOf(events, late.ID); s.ExitCode != 2 || s.Running {
			t.Errorf("second event %+v", s)
		}
		cancel()
		for range events {
		}
	})
}

func TestMemoryLimitKills(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("exec tail /dev/zero")
		c.Resources.MemoryLimit = 16 << 20
		h.start(c)
		if state := h.wait(c.ID); !state.OOMKilled || state.ExitCode != 137 {
			t.Errorf("state %+v, want OOMKilled and 137", state)
		}
		ctx, cancel := context.WithCancel(h.context())
		defer cancel()
		events := h.driver.Events(ctx)
		<-events
		child := h.container("tail /dev/zero; echo survived; exec sleep 1000")
		child.Resources.MemoryLimit = 16 << 20
		h.start(child)
		if s := nextOf(events, child.ID); !s.OOMKilled || !s.Running {
			t.Errorf("event %+v, want an out-of-memory kill", s)
		}
	})
}

// nextOf returns the next event of one container; others may come twice.
func nextOf(events <-chan runtime.State, id string) runtime.State {
	for s := range events {
		if s.ID == id {
			return s
		}
	}
	return runtime.State{}
}

func TestLimitsReachTheKernelAndCanBeUpdated(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("exec sleep 1000")
		c.Resources = runtime.Resources{CPUShares: 512, CPUQuota: 20000, CPUPeriod: 100000, MemoryLimit: 32 << 20, PidsLimit: 33, OOMScoreAdj: -900}
		h.start(c)
		cgroup := "/" + filepath.Join(strings.TrimPrefix(h.driver.CgroupRoot(), "/"), c.CgroupParent, c.ID)
		limit := func() string {
			name := "memory.limit_in_bytes"
			if h.driver.cgroups.Unified() {
				name = "memory.max"
			}
			b, err := os.ReadFile(filepath.Join(h.driver.cgroups.Dir("memory", cgroup), name))
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(string(b))
		}
		if limit() != fmt.Sprint(32<<20) {
			t.Errorf("memory limit %s", limit())
		}
		if err := h.driver.Update(h.context(), c.ID, runtime.Resources{MemoryLimit: 64 << 20}); err != nil {
			t.Fatal(err)
		}
		if limit() != fmt.Sprint(64<<20) {
			t.Errorf("memory limit after the update %s", limit())
		}
		// On a machine with much else to do only a small share is ever used up.
		if err := h.driver.Update(h.context(), c.ID, runtime.Resources{CPUQuota: 2000}); err != nil {
			t.Fatal(err)
		}
		var stats runtime.Stats
		eventually(t, "the container is throttled", func() bool {
			h.exec(c.ID, "i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done")
			var err error
			if stats, err = h.driver.Stats(h.context(), c.ID); err != nil {
				t.Fatal(err)
			}
			return stats.ThrottledPeriods > 0
		})
		if stats.Pids != 1 || stats.MemoryBytes == 0 || stats.WorkingSetBytes > stats.MemoryBytes || stats.CPUNanos == 0 {
			t.Errorf("stats %+v", stats)
		}
	})
}

func TestLogKeepsLinesPartsAndOrder(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("head -c 40000 /dev/zero | tr '\\0' x; echo; echo end >&2; printf unfinished")
		c.Args[2] = strings.Replace(c.Args[2], "tr '\\0' x", "busybox tr '\\0' x", 1)
		h.run(c)
		text, err := os.ReadFile(c.LogPath)
		if err != nil {
			t.Fatal(err)
		}
		var tags []string
		for line := range strings.Lines(string(text)) {
			fields := strings.SplitN(line, " ", 4)
			if _, err := time.Parse(time.RFC3339Nano, fields[0]); err != nil {
				t.Errorf("time %q: %v", fields[0], err)
			}
			tags = append(tags, fields[1]+fields[2])
		}
		slices.Sort(tags)
		if want := []string{"stderrF", "stdoutF", "stdoutP", "stdoutP", "stdoutP"}; !slices.Equal(tags, want) {
			t.Errorf("entries %v, want %v", tags, want)
		}
		if out := h.output(c); strings.Count(out, "x") != 40000 {
			t.Errorf("%d of 40000 bytes are in the log", strings.Count(out, "x"))
		}
	})
}

func TestLogIsReopenedAfterRotation(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("echo one; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo two")
		h.start(c)
		eventually(t, "the first line is logged", func() bool { return h.output(c) == "one\n" })
		if err := os.Rename(c.LogPath, c.LogPath+".1"); err != nil {
			t.Fatal(err)
		}
		if err := h.driver.ReopenLog(h.context(), c.ID); err != nil {
			t.Fatal(err)
		}
		h.exec(c.ID, "touch /tmp/go")
		h.wait(c.ID)
		if out := h.output(c); out != "two\n" {
			t.Errorf("the new log has %q", out)
		}
	})
}

func TestExec(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("exec sleep 1000")
		c.Env = []string{"COLOUR=red"}
		h.start(c)
		if out, code := h.exec(c.ID, "echo $COLOUR; echo no >&2; exit 5"); code != 5 || out != "red\nno\n" && out != "no\nred\n" {
			t.Errorf("exit code %d, output %q", code, out)
		}
		var out bytes.Buffer
		e := runtime.Exec{Args: []string{"/bin/cat"}, User: &runtime.User{UID: 1000, GID: 1000}, Cwd: "/tmp", Env: []string{"X=1"}}
		code, err := h.driver.Exec(h.context(), c.ID, e, runtime.Streams{Stdin: strings.NewReader("hello"), Stdout: &out})
		if err != nil || code != 0 || out.String() != "hello" {
			t.Errorf("cat: code %d, output %q, %v", code, out.String(), err)
		}
		out.Reset()
		e.Args = []string{"/bin/sh", "-c", "id -u; pwd; echo $X$COLOUR"}
		if _, err := h.driver.Exec(h.context(), c.ID, e, runtime.Streams{Stdout: &out}); err != nil || out.String() != "1000\n/tmp\n1red\n" {
			t.Errorf("output %q, %v", out.String(), err)
		}
		_, err = h.driver.Exec(h.context(), c.ID, runtime.Exec{Args: []string{"/no/such"}}, runtime.Streams{Stdout: &out})
		if err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("a command that does not exist: %v", err)
		}
		if _, err := h.driver.Exec(h.context(), "nobody", e, runtime.Streams{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("exec in a container that does not exist: %v", err)
		}
	})
}

func TestExecReturnsAllOutputAndDoesNotWaitForTheBackground(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("exec sleep 1000")
		h.start(c)
		if out, _ := h.exec(c.ID, "seq 1 200000"); len(out) != 1288895 {
			t.Errorf("%d bytes of output", len(out))
		}
		began := time.Now()
		if out, _ := h.exec(c.ID, "sleep 1000 & echo done"); out != "done\n" {
			t.Errorf("output %q", out)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestEndingAnExecsContextKillsIt(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("exec sleep 1000")
		h.start(c)
		ctx, cancel := context.WithCancel(h.context())
		out, in := io.Pipe()
		go func() {
			out.Read(make([]byte, 1))
			cancel()
		}()
		_, err := h.driver.Exec(ctx, c.ID, runtime.Exec{Args: []string{"/bin/sh", "-c", "echo; exec sleep 999"}}, runtime.Streams{Stdout: in})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		eventually(t, "the process is gone", func() bool {
			ps, _ := h.exec(c.ID, "ps")
			return !strings.Contains(ps, "sleep 999")
		})
	})
}

// lockedBuffer is a buffer that two goroutines may use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestExecWithTerminal(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("exec sleep 1000")
		h.start(c)
		out := &lockedBuffer{}
		input, keyboard := io.Pipe()
		sizes := make(chan runtime.Size, 1)
		sizes <- runtime.Size{Width: 101, Height: 37}
		go func() {
			fmt.Fprint(keyboard, "while [ \"$(stty size)\" != '37 101' ]; do sleep 0.02; done; stty size; test -t 0 && echo is-a-terminal; exit 4\n")
		}()
		code, err := h.driver.Exec(h.context(), c.ID, runtime.Exec{Args: []string{"/bin/sh"}},
			runtime.Streams{Stdin: input, Stdout: out, TTY: true, Resize: sizes})
		if err != nil || code != 4 {
			t.Errorf("code %d, %v", code, err)
		}
		if s := out.String(); !strings.Contains(s, "\r\n37 101\r\n") || !strings.Contains(s, "\r\nis-a-terminal\r\n") {
			t.Errorf("output %q", s)
		}
	})
}

func TestAttach(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("while read line; do echo got $line; done; echo end")
		c.Stdin, c.StdinOnce = true, true
		h.start(c)
		out := &lockedBuffer{}
		if err := h.driver.Attach(h.context(), c.ID, runtime.Streams{Stdin: strings.NewReader("a\nb\n"), Stdout: out, Stderr: out}); err != nil {
			t.Fatal(err)
		}
		if out.String() != "got a\ngot b\nend\n" {
			t.Errorf("attached output %q", out.String())
		}
		h.wait(c.ID)
		if h.output(c) != out.String() {
			t.Errorf("the log has %q", h.output(c))
		}
		ctx, cancel := context.WithCancel(h.context())
		quiet := h.container("exec sleep 1000")
		h.start(quiet)
		cancel()
		if err := h.driver.Attach(ctx, quiet.ID, runtime.Streams{Stdout: out}); !errors.Is(err, context.Canceled) {
			t.Errorf("an ended context: %v", err)
		}
	})
}

func TestAttachToTerminal(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("read x; echo hello $x; while [ \"$(stty size)\" != '20 70' ]; do sleep 0.02; done; stty size")
		c.Stdin, c.TTY = true, true
		h.start(c)
		sizes := make(chan runtime.Size, 1)
		sizes <- runtime.Size{Width: 70, Height: 20}
		out := &lockedBuffer{}
		input, keyboard := io.Pipe()
		go fmt.Fprint(keyboard, "you\n")
		if err := h.driver.Attach(h.context(), c.ID, runtime.Streams{Stdin: input, Stdout: out, TTY: true, Resize: sizes}); err != nil {
			t.Fatal(err)
		}
		if s := out.String(); !strings.Contains(s, "hello you\r\n") || !strings.Contains(s, "\r\n20 70\r\n") {
			t.Errorf("output %q", s)
		}
		if state := h.wait(c.ID); state.ExitCode != 0 {
			t.Errorf("state %+v", state)
		}
	})
}

func TestContainersShareAProcessNamespace(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		pause, err := h.driver.PausePath()
		if err != nil {
			t.Fatal(err)
		}
		first := h.container("")
		first.Args = []string{"/pause", "pause"}
		first.Mounts = []runtime.Mount{{Source: pause, Target: "/pause", ReadOnly: true}}
		sandbox := h.start(first)
		c := h.container("ps; sleep 1000 & echo $! > /tmp/pid; exit 0")
		c.Namespaces.PID = fmt.Sprintf("/proc/%d/ns/pid", sandbox.PID)
		c.Namespaces.IPC = fmt.Sprintf("/proc/%d/ns/ipc", sandbox.PID)
		c.Namespaces.UTS = fmt.Sprintf("/proc/%d/ns/uts", sandbox.PID)
		h.start(c)
		h.wait(c.ID)
		if out := h.output(c); !strings.Contains(out, "/pause pause") {
			t.Errorf("the containers do not see each other:\n%s", out)
		}
		if out, _ := h.run(func() *runtime.Container {
			c := h.container("ps")
			c.Namespaces.PID = fmt.Sprintf("/proc/%d/ns/pid", sandbox.PID)
			return c
		}()); strings.Contains(out, "sleep 1000") {
			t.Errorf("a process outlived its container:\n%s", out)
		}
		if err := h.driver.Signal(h.context(), first.ID, int(unix.SIGTERM), false); err != nil {
			t.Fatal(err)
		}
		if state := h.wait(first.ID); state.ExitCode != 0 {
			t.Errorf("pause ended with %+v", state)
		}
	})
}

func TestAnotherRuntimeByItsHandler(t *testing.T) {
	h := newHost(t)
	path, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(h.dir, "other-runtime")
	if err := os.Symlink(path, other); err != nil {
		t.Fatal(err)
	}
	h.driver.config.Handlers = map[string]string{"other": other}
	c := h.container("echo hello; exec sleep 1000")
	c.Handler = "other"
	h.start(c)
	if out, _ := h.exec(c.ID, "echo in it"); out != "in it\n" {
		t.Errorf("exec said %q", out)
	}
	if err := h.driver.Remove(h.context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(h.driver.stateDir()); len(entries) > 0 {
		t.Errorf("the runtime still knows %v", entries)
	}
}

func TestASlowClientDoesNotStopTheContainer(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("while [ ! -e /tmp/go ]; do sleep 0.02; done; seq 1 500000; echo finished")
		h.start(c)

		reader, writer := io.Pipe()
		defer reader.Close()
		ctx, cancel := context.WithCancel(h.context())
		attached := make(chan error, 1)
		go func() { attached <- h.driver.Attach(ctx, c.ID, runtime.Streams{Stdout: writer}) }()
		h.exec(c.ID, "touch /tmp/go")
		h.wait(c.ID)
		if !strings.HasSuffix(h.output(c), "finished\n") {
			t.Error("the log is not complete")
		}
		cancel()
		reader.Close()
		<-attached
	})
}
