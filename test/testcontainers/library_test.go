// Package testcontainers holds the Docker Engine API against the real Testcontainers
// library for Go. It is a module of its own, so that the library's dependencies stay out
// of the product's. TestTestcontainers in test/docker starts an instance and runs it.
package testcontainers

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"
)

// patience is how long anything may take on a busy machine.
const patience = 2 * time.Minute

// base is an image with a shell, wget and httpd.
func base(t *testing.T) string {
	t.Helper()
	image := os.Getenv("GANTRY_TEST_IMAGE")
	if image == "" {
		t.Skip("make testcontainers starts an instance and names an image")
	}
	return image
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a container that is terminated at the end.
func run(t *testing.T, image string, opts ...testcontainers.ContainerCustomizer) *testcontainers.DockerContainer {
	t.Helper()
	c, err := testcontainers.Run(t.Context(), image, opts...)
	testcontainers.CleanupContainer(t, c)
	check(t, err)
	return c
}

const server = `mkdir -p /www; echo page >/www/index.html; echo starting; httpd -p 8080 -h /www; echo ready to serve; exec sleep 1000`

func TestExposedPortAndWaitStrategies(t *testing.T) {
	c := run(t, base(t), testcontainers.WithCmd("sh", "-c", server), testcontainers.WithExposedPorts("8080/tcp"),
		testcontainers.WithWaitStrategyAndDeadline(patience,
			wait.ForLog("ready to serve").WithStartupTimeout(patience), wait.ForListeningPort("8080/tcp").WithStartupTimeout(patience),
			wait.ForHTTP("/index.html").WithPort("8080/tcp").WithStartupTimeout(patience),
			wait.ForExec([]string{"test", "-f", "/www/index.html"}).WithStartupTimeout(patience),
			wait.ForFile("/www/index.html").WithStartupTimeout(patience)))
	endpoint, err := c.PortEndpoint(t.Context(), "8080/tcp", "http")
	check(t, err)
	resp, err := http.Get(endpoint + "/")
	check(t, err)
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "page\n" {
		t.Errorf("got %q, %v", body, err)
	}
	state, err := c.State(t.Context())
	check(t, err)
	if !state.Running {
		t.Errorf("state %+v", state)
	}
}

func TestHealthCheckAndExit(t *testing.T) {
	run(t, base(t), testcontainers.WithCmd("sleep", "1000"),
		testcontainers.WithConfigModifier(func(c *container.Config) {
			c.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "true"}, Interval: time.Second}
		}),
		testcontainers.WithWaitStrategyAndDeadline(patience, wait.ForHealthCheck().WithStartupTimeout(patience)))
	ended := run(t, base(t), testcontainers.WithCmd("sh", "-c", "exit 3"), testcontainers.WithWaitStrategyAndDeadline(patience, wait.ForExit().WithExitTimeout(patience)))
	state, err := ended.State(t.Context())
	check(t, err)
	if state.Running || state.ExitCode != 3 {
		t.Errorf("state %+v", state)
	}
}

// lines collects what a container says.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Accept(log testcontainers.Log) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.text, "%s: %s", log.LogType, log.Content)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestLogsAreReadAndFollowed(t *testing.T) {
	said := &lines{}
	c := run(t, base(t), testcontainers.WithCmd("sh", "-c", "echo out; echo bad >&2; sleep 1000"),
		testcontainers.WithLogConsumers(said), testcontainers.WithWaitStrategyAndDeadline(patience, wait.ForLog("bad").WithStartupTimeout(patience)))
	for deadline := time.Now().Add(patience); !strings.Contains(said.String(), "STDOUT: out\n") || !strings.Contains(said.String(), "STDERR: bad\n"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("followed: %q", said)
		}
	}
	logs, err := c.Logs(t.Context())
	check(t, err)
	defer logs.Close()
	if text, err := io.ReadAll(logs); err != nil || !strings.Contains(string(text), "out\n") || !strings.Contains(string(text), "bad\n") {
		t.Errorf("logs: %q, %v", text, err)
	}
}

func TestCommandsAndFiles(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "note"), []byte("from the host\n"), 0o600))
	c := run(t, base(t), testcontainers.WithCmd("sh", "-c", "cat /given && exec sleep 1000"),
		testcontainers.WithFiles(testcontainers.ContainerFile{Reader: strings.NewReader("given before the start\n"), ContainerFilePath: "/given", FileMode: 0o644}),
		testcontainers.WithTmpfs(map[string]string{"/scratch": "rw,size=1m"}),
		testcontainers.WithWaitStrategyAndDeadline(patience, wait.ForLog("given before the start").WithStartupTimeout(patience)))
	ctx := t.Context()
	check(t, c.CopyToContainer(ctx, []byte("#!/bin/sh\necho copied $1\n"), "/tool", 0o755))
	check(t, c.CopyFileToContainer(ctx, filepath.Join(dir, "note"), "/note", 0o600))
	check(t, c.CopyDirToContainer(ctx, dir, "/dirs", 0o755))
	code, out, err := c.Exec(ctx, []string{"sh", "-c", "/tool well; cat /note /dirs/*/note; id -u; exit 4"}, exec.Multiplexed(), exec.WithUser("65534"))
	check(t, err)
	text, err := io.ReadAll(out)
	check(t, err)
	if code != 4 || !strings.Contains(string(text), "copied well\n") || !strings.Contains(string(text), "65534\n") {
		t.Errorf("exec said %q and ended with %d", text, code)
	}
	back, err := c.CopyFileFromContainer(ctx, "/note")
	check(t, err)
	defer back.Close()
	if text, err := io.ReadAll(back); err != nil || string(text) != "from the host\n" {
		t.Errorf("copied back: %q, %v", text, err)
	}
}

func TestNetworks(t *testing.T) {
	nw, err := network.New(t.Context(), network.WithAttachable())
	testcontainers.CleanupNetwork(t, nw)
	check(t, err)
	run(t, base(t), testcontainers.WithCmd("sh", "-c", server), network.WithNetwork([]string{"store"}, nw),
		testcontainers.WithWaitStrategyAndDeadline(patience, wait.ForLog("ready to serve").WithStartupTimeout(patience)))
	client := run(t, base(t), testcontainers.WithCmd("sleep", "1000"), network.WithNetwork([]string{"client"}, nw))
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		code, out, err := client.Exec(t.Context(), []string{"wget", "-qO-", "http://store:8080/"}, exec.Multiplexed())
		check(t, err)
		text, _ := io.ReadAll(out)
		if code == 0 && string(text) == "page\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the alias leads nowhere: %d, %q", code, text)
		}
	}
}

func TestStopStartAndReuse(t *testing.T) {
	name := fmt.Sprintf("reused-%d", time.Now().UnixNano())
	opts := []testcontainers.ContainerCustomizer{testcontainers.WithCmd("sh", "-c", server), testcontainers.WithExposedPorts("8080/tcp"), testcontainers.WithReuseByName(name),
		testcontainers.WithWaitStrategyAndDeadline(patience, wait.ForListeningPort("8080/tcp").WithStartupTimeout(patience))}
	first := run(t, base(t), opts...)
	second := run(t, base(t), opts...)
	if first.GetContainerID() != second.GetContainerID() {
		t.Error("a container that exists was not used again")
	}
	now := time.Second
	check(t, first.Stop(t.Context(), &now))
	check(t, first.Start(t.Context()))
	endpoint, err := first.PortEndpoint(t.Context(), "8080/tcp", "")
	check(t, err)
	conn, err := net.DialTimeout("tcp", endpoint, patience)
	check(t, err)
	conn.Close()
}

func TestDockerfile(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+base(t)+"\nARG WORD\nRUN echo $WORD >/word\nCMD cat /word\n"), 0o600))
	word := "built"
	var log bytes.Buffer
	c := run(t, "", testcontainers.WithDockerfile(testcontainers.FromDockerfile{Context: dir, BuildArgs: map[string]*string{"WORD": &word}, BuildLogWriter: &log}),
		testcontainers.WithWaitStrategyAndDeadline(patience, wait.ForLog("built").WithStartupTimeout(patience)))
	inspected, err := c.Inspect(t.Context())
	check(t, err)
	if inspected.Image == "" || log.Len() == 0 {
		t.Errorf("image %q, log %q", inspected.Image, log.String())
	}
}
