// Package instance starts a real `gantry serve` for tests and benchmarks.
//
// The program is bin/gantry, or what GANTRY_PROGRAM names; GANTRY_RUNTIME chooses
// the driver that runs the containers (`gantry serve --runtime`). It
// runs on free ports with a data directory of its own, and is taken down with
// `gantry down --all` at the end, after which a leak check finds whatever it
// left in the kernel. Only tests import this package.
package instance

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/gantryhq/gantry/test/leak"
)

// Options choose what is unusual about an instance; the zero value is usual.
type Options struct {
	DataDir string   // "" is a fresh temporary directory
	Args    []string // further flags of `gantry serve`
	// Command makes the command that starts the program; nil is exec.Command.
	Command func(program string, args ...string) *exec.Cmd
}

// Instance is one running Gantry.
type Instance struct {
	Program  string // path of the gantry binary
	DataDir  string
	API      string // host:port
	Registry string // host:port
	Gateway  string // host:port of plain HTTP
	Secure   string // host:port of HTTPS

	// ReadyAfter is what the last start said of itself: `gantry ready in N ms`.
	ReadyAfter time.Duration

	args    []string
	command func(program string, args ...string) *exec.Cmd
	cmd     *exec.Cmd
	log     *os.File
	done    chan struct{} // closed when the process has ended
	ready   chan struct{} // closed when it has said that it is ready
}

// Start runs Gantry until the test ends and fails the test when it does not
// become ready.
func Start(t testing.TB, o Options) *Instance {
	t.Helper()
	in := &Instance{Program: Build(t), DataDir: o.DataDir, args: o.Args, command: o.Command}
	if in.command == nil {
		in.command = exec.Command
	}
	if in.DataDir == "" {
		in.DataDir = temporaryDir(t)
	}
	in.API, in.Registry, in.Gateway, in.Secure = freePort(t), freePort(t), freePort(t), freePort(t)
	t.Cleanup(func() { in.Down(t) })
	in.Serve(t)
	return in
}

// Serve starts the process (again) on the same data directory and ports, and
// waits until it is ready.
func (in *Instance) Serve(t testing.TB) {
	t.Helper()
	in.Begin(t)
	in.AwaitReady(t)
}

// Begin starts the process without waiting for it.
func (in *Instance) Begin(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(in.DataDir, "serve.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(t, err)
	args := append([]string{"serve", "--pipeline-local-repositories", "--data-dir", in.DataDir, "--api-listen", in.API, "--registry-listen", in.Registry,
		"--gateway-listen", in.Gateway, "--gateway-tls-listen", in.Secure}, in.args...)
	if runtime := os.Getenv("GANTRY_RUNTIME"); runtime != "" {
		args = append(args, "--runtime", runtime)
	}
	in.cmd = in.command(in.Program, args...)
	in.cmd.Stderr = log
	if in.cmd.SysProcAttr == nil {
		in.cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	in.cmd.SysProcAttr.Setpgid = true
	out, err := in.cmd.StdoutPipe()
	check(t, err)
	check(t, in.cmd.Start())
	ready, done := make(chan struct{}), make(chan struct{})
	in.log, in.ready, in.done = log, ready, done
	cmd := in.cmd
	go func() {
		defer close(done)
		lines, once := bufio.NewScanner(out), sync.Once{}
		for lines.Scan() {
			fmt.Fprintln(log, lines.Text())
			var ms int
			if n, _ := fmt.Sscanf(lines.Text(), "gantry ready in %d ms", &ms); n == 1 {
				once.Do(func() {
					in.ReadyAfter = time.Duration(ms) * time.Millisecond
					close(ready)
				})
			}
		}
		_ = cmd.Wait()
	}()
}

// AwaitReady waits until the process that Begin started can be used.
func (in *Instance) AwaitReady(t testing.TB) {
	t.Helper()
	select {
	case <-in.ready:
	case <-in.done:
		t.Fatalf("gantry serve ended before it was ready:\n%s", in.Log())
	case <-time.After(60 * time.Second):
		t.Fatalf("gantry serve is not ready after a minute:\n%s", in.Log())
	}
}

// Stop sends sig to `gantry serve` and waits until the process has ended. The
// containers run on.
func (in *Instance) Stop(t testing.TB, sig syscall.Signal) {
	t.Helper()
	check(t, in.cmd.Process.Signal(sig))
	select {
	case <-in.done:
	case <-time.After(30 * time.Second):
		_ = in.cmd.Process.Kill()
		t.Errorf("gantry serve did not end within 30 s of %v", sig)
	}
	_ = in.log.Close()
}

// Down ends everything and checks that nothing is left in the kernel.
func (in *Instance) Down(t testing.TB) {
	if t.Failed() {
		t.Logf("end of the log of gantry serve:\n%s", in.Log())
		t.Logf("end of the log of gantry gateway:\n%s", in.endOf(filepath.Join("run", "gateway.log")))
	}
	if in.cmd != nil && in.cmd.ProcessState == nil {
		in.Stop(t, syscall.SIGTERM)
	}
	out, err := exec.Command(in.Program, "down", "--all", "--data-dir", in.DataDir).CombinedOutput()
	if err != nil {
		t.Errorf("gantry down --all: %v\n%s", err, out)
	}
	left, err := leak.Gone(in.DataDir)
	if err != nil {
		t.Errorf("look for leaks: %v", err)
	}
	for _, thing := range left {
		t.Errorf("left behind after gantry down --all: %s", thing)
	}
}

// Directory is the data directory.
func (in *Instance) Directory() string { return in.DataDir }

// Log is the end of what `gantry serve` printed.
func (in *Instance) Log() string { return in.endOf("serve.log") }

// endOf is the end of a file in the data directory.
func (in *Instance) endOf(name string) string {
	const most = 8 << 10
	data, err := os.ReadFile(filepath.Join(in.DataDir, name))
	if err != nil {
		return err.Error()
	}
	if len(data) > most {
		data = data[len(data)-most:]
	}
	return string(data)
}

// PID of `gantry serve`.
func (in *Instance) PID() int { return in.cmd.Process.Pid }

// Kubeconfig of the administrator.
func (in *Instance) Kubeconfig() string { return filepath.Join(in.DataDir, "kubeconfig") }

// Config is the administrator's client configuration.
func (in *Instance) Config(t testing.TB) *rest.Config {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", in.Kubeconfig())
	check(t, err)
	cfg.QPS, cfg.Burst = 1000, 2000
	return cfg
}

// Client is the administrator's clientset.
func (in *Instance) Client(t testing.TB) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(in.Config(t))
	check(t, err)
	return c
}

// Run runs the gantry command against this instance and returns its output.
func (in *Instance) Run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(in.Program, append(args, "--data-dir", in.DataDir)...).CombinedOutput()
	if err != nil {
		t.Fatalf("gantry %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// BaseImages puts the small images that stories start from into the registry.
func (in *Instance) BaseImages(t testing.TB) {
	t.Helper()
	in.Run(t, "base", "busybox")
}

var build = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("GANTRY_PROGRAM"); path != "" {
		return path, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin", "gantry")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find %s: %w; run `make build` first, as `make test` does", path, err)
	}
	return path, nil
})

// Build returns the path of the gantry program under test.
func Build(t testing.TB) string {
	t.Helper()
	path, err := build()
	check(t, err)
	return path
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// temporaryDir is short: unix socket paths below it may have 107 bytes at most.
func temporaryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gantry")
	check(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the data directory: %v", err)
		}
	})
	return dir
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().String()
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
