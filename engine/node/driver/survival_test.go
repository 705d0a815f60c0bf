package driver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/internal/testenv"
)

// starterEnv makes this test program a driver process that starts the
// containers it reads from its input and says when each one runs.
const starterEnv = "GANTRY_TEST_STARTER"

func starterMain() {
	var config struct{ DataDir, ShimPath, Default string }
	in := json.NewDecoder(os.Stdin)
	check := func(err error) {
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	check(in.Decode(&config))
	d, err := New(Config{DataDir: config.DataDir, ShimPath: config.ShimPath, InitPath: initPath(config.ShimPath), Default: config.Default})
	check(err)
	fmt.Println("open")
	for {
		c := &runtime.Container{}
		check(in.Decode(c))
		go func() {
			_, err := d.Start(context.Background(), c)
			check(err)
			fmt.Println("started", c.ID)
		}()
	}
}

// starter is a driver in a process of its own, which a test can kill.
type starter struct {
	cmd  *exec.Cmd
	in   *json.Encoder
	out  *bufio.Scanner
	host *host
}

func (h *host) starter() *starter {
	h.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), starterEnv+"=1")
	cmd.Stderr = testWriter{h.t}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	s := &starter{cmd: cmd, in: json.NewEncoder(stdin), out: bufio.NewScanner(stdout), host: h}
	h.t.Cleanup(s.kill)
	s.send(map[string]string{"DataDir": h.dir, "ShimPath": h.shim, "Default": h.handler})
	s.hear("open")
	return s
}

func (s *starter) send(v any) {
	s.host.t.Helper()
	if err := s.in.Encode(v); err != nil {
		s.host.t.Fatal(err)
	}
}

func (s *starter) hear(want string) {
	s.host.t.Helper()
	if !s.out.Scan() || s.out.Text() != want {
		s.host.t.Fatalf("the driver process said %q, want %q", s.out.Text(), want)
	}
}

func (s *starter) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

func TestContainersSurviveTheDriver(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		s := h.starter()
		c := h.container("echo before; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo after; exit 9")
		s.send(c)
		s.hear("started " + c.ID)
		s.kill()
		h.open()
		state := h.state(c.ID)
		if !state.Running || state.PodUID != c.PodUID || state.Labels["name"] != c.ID {
			t.Fatalf("the new driver sees %+v", state)
		}
		if out, _ := h.exec(c.ID, "echo in it; touch /tmp/go"); out != "in it\n" {
			t.Errorf("exec by the new driver: %q", out)
		}
		if state := h.wait(c.ID); state.ExitCode != 9 {
			t.Errorf("exit code %d", state.ExitCode)
		}
		if out := h.output(c); out != "before\nafter\n" {
			t.Errorf("log %q", out)
		}
	})
}

func TestDriverKilledInTheMiddleOfStarts(t *testing.T) {
	testenv.LongRunning(t)
	eachHandler(t, func(t *testing.T, h *host) {
		for round := range 8 {
			s := h.starter()
			for range 6 {
				s.send(h.container("exec sleep 1000"))
			}
			time.Sleep(time.Duration(5+round*20) * time.Millisecond) // the point of the kill, not a wait
			s.kill()
			h.open()
			eventually(t, "only whole containers are left", func() bool {
				states, err := h.driver.List(h.context())
				if err != nil {
					t.Fatal(err)
				}
				entries, err := os.ReadDir(h.driver.containersDir())
				if err != nil {
					t.Fatal(err)
				}
				return len(entries) == len(states)
			})
			states, err := h.driver.List(h.context())
			if err != nil {
				t.Fatal(err)
			}
			for _, state := range states {
				if err := h.driver.Remove(h.context(), state.ID); err != nil {
					t.Fatal(err)
				}
			}
			h.checkGroups()
		}
	})
}

func TestContainersSurviveTheShim(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("echo before; while [ ! -e /tmp/go ]; do sleep 0.02; done; seq 1 30000; echo after; exit 9")
		gone := h.container("exec sleep 1000")
		old := h.container("exit 4")
		h.start(c)
		pid := h.start(gone).PID
		h.run(old)
		eventually(t, "the first line is logged", func() bool { return h.output(c) == "before\n" })

		ctx := h.context()
		events := h.driver.Events(ctx)
		if s := <-events; s.ID != old.ID {
			t.Fatalf("event %+v", s)
		}
		unix.Kill(h.shimPID(), unix.SIGKILL)
		unix.Kill(pid, unix.SIGKILL)
		delivered := map[string]runtime.State{}
		for len(delivered) < 2 {
			if s := <-events; !s.Running {
				delivered[s.ID] = s
			}
		}
		if s := delivered[old.ID]; s.ExitCode != 4 {
			t.Errorf("the exit from before the shim's death: %+v", s)
		}
		if s := delivered[gone.ID]; s.Running || s.Message == "" && s.ExitCode != 137 {
			t.Errorf("the exit while there was no shim: %+v", s)
		}
		if state := h.state(c.ID); !state.Running {
			t.Fatalf("state %+v", state)
		}
		h.exec(c.ID, "touch /tmp/go")
		state := h.wait(c.ID)
		if state.ExitCode != 9 && state.Message == "" {
			t.Errorf("state %+v: neither the exit code nor that it was lost", state)
		}
		if out := h.output(c); !strings.HasPrefix(out, "before\n1\n2\n") || !strings.HasSuffix(out, "30000\nafter\n") {
			t.Errorf("log has %d bytes, ending in %q", len(out), out[max(0, len(out)-20):])
		}
	})
}

func TestOutputWaitsWhileThereIsNoShim(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("while [ ! -e /tmp/go ]; do sleep 0.02; done; seq 1 100000; exit 0")
		h.start(c)
		unix.Kill(h.shimPID(), unix.SIGKILL)
		if err := os.WriteFile(filepath.Join(c.Rootfs, "tmp", "go"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		h.wait(c.ID) // the first request starts a new shim
		if out := h.output(c); !strings.HasPrefix(out, "1\n2\n") || !strings.HasSuffix(out, "\n100000\n") || len(out) != 588895 {
			t.Errorf("log has %d bytes", len(out))
		}
	})
}

func TestFiftyInParallel(t *testing.T) {
	testenv.LongRunning(t)
	eachHandler(t, func(t *testing.T, h *host) {
		containers := make([]*runtime.Container, 50)
		for i := range containers {
			containers[i] = h.container("echo hello; exec sleep 1000")
			containers[i].Resources = runtime.Resources{MemoryLimit: 64 << 20, CPUShares: 128}
		}
		began := time.Now()
		h.each(containers, func(c *runtime.Container) error { _, err := h.driver.Start(h.context(), c); return err })
		t.Logf("50 containers run after %v; the shim uses %d KB", time.Since(began), h.shimMemory())
		for _, c := range containers {
			eventually(t, c.ID+" has said hello", func() bool { return h.output(c) == "hello\n" })
		}
		began = time.Now()
		h.each(containers, func(c *runtime.Container) error { return h.driver.Remove(h.context(), c.ID) })
		t.Logf("50 containers are removed after %v; the shim uses %d KB", time.Since(began), h.shimMemory())
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.shimPID()))
		if err != nil || len(fds) > 12 {
			t.Errorf("the shim keeps %d descriptors open, %v", len(fds), err)
		}
	})
}

func TestAnEndedContextLeavesNothing(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		for delay := range 30 {
			ctx, cancel := context.WithCancel(h.context())
			time.AfterFunc(time.Duration(delay)*2*time.Millisecond, cancel)
			c := h.container("exec sleep 1000")
			_, err := h.driver.Start(ctx, c)
			if err == nil {
				err = h.driver.Remove(h.context(), c.ID)
			} else if errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "cleaning up") {
				err = nil
			}
			if err != nil {
				t.Errorf("cancelled after %d ms: %v", 2*delay, err)
			}
			if entries, _ := os.ReadDir(h.driver.containersDir()); len(entries) > 0 {
				t.Fatalf("cancelled after %d ms, the start left %v", 2*delay, entries)
			}
			h.checkGroups()
			cancel()
		}
	})
}

// each calls f for all containers at once.
func (h *host) each(containers []*runtime.Container, f func(c *runtime.Container) error) {
	h.t.Helper()
	var all sync.WaitGroup
	for _, c := range containers {
		all.Go(func() {
			if err := f(c); err != nil {
				h.t.Error(err)
			}
		})
	}
	all.Wait()
}

// shimMemory is the shim's proportional set size in KB.
func (h *host) shimMemory() (kb int) {
	h.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", h.shimPID()))
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			fmt.Sscan(rest, &kb)
		}
	}
	return kb
}

func TestFullDiskDropsLinesAndSaysSo(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		small := filepath.Join(h.dir, "small")
		if err := os.Mkdir(small, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=64k"); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(small, unix.MNT_DETACH)
		filler := filepath.Join(small, "filler")
		if err := os.WriteFile(filler, make([]byte, 64<<10), 0o644); !errors.Is(err, unix.ENOSPC) && err != nil {
			t.Fatal(err)
		}
		c := h.container("seq 1 500; touch /tmp/said; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo last")
		c.LogPath = filepath.Join(small, "0.log")
		h.start(c)
		h.exec(c.ID, "while [ ! -e /tmp/said ]; do sleep 0.02; done")
		if err := os.Remove(filler); err != nil { // there is space again
			t.Fatal(err)
		}
		h.exec(c.ID, "touch /tmp/go")
		if state := h.wait(c.ID); state.ExitCode != 0 {
			t.Errorf("state %+v", state)
		}
		out := h.output(c)
		if !strings.Contains(out, "log lines were dropped: ") || !strings.Contains(out, "no space left") || !strings.HasSuffix(out, "last\n") {
			t.Errorf("log %q", out[:min(len(out), 300)])
		}
	})
}
