package docker

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

const composeFile = `
services:
  web:
    image: IMAGE
    command: sh -c 'hostname >/www/index.html; wget -qO /www/greeting http://store:8000/; exec httpd -f -p 80 -h /www'
    tmpfs: /www
    ports: ["PORT:80"]
    depends_on:
      store: {condition: service_healthy}
    deploy: {replicas: 2}
  store:
    image: IMAGE
    command: sh -c 'cp /run/secrets/greeting /data/index.html; exec httpd -f -p 8000 -h /data'
    volumes: ["data:/data"]
    secrets: [greeting]
    healthcheck: {test: [CMD, wget, -qO-, "http://127.0.0.1:8000/"], interval: 1s, retries: 20}
volumes:
  data:
secrets:
  greeting: {file: ./greeting}
`

// The official plugin brings an application up, with a health condition, a secret, a
// volume, names, and replicas behind one port. `make compose` has the plugin built.
func TestCompose(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	if out, err := exec.Command("docker", "compose", "version").CombinedOutput(); err != nil {
		t.Skipf("docker's Compose plugin is not installed: %v: %s", err, out)
	}
	in := instance.Start(t, instance.Options{})
	in.BaseImages(t)
	dir, port := t.TempDir(), freePort(t)[len("127.0.0.1:"):]
	text := strings.NewReplacer("IMAGE", in.Registry+"/base/busybox", "PORT", port).Replace(composeFile)
	check(t, os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(text), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "greeting"), []byte("hello from the store\n"), 0o644))
	compose := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("docker", append([]string{"compose", "-p", "story"}, args...)...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "DOCKER_HOST=unix://"+filepath.Join(in.DataDir, "docker.sock"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("docker compose %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	compose("up", "-d", "--quiet-pull")
	seen := map[string]bool{}
	for deadline := time.Now().Add(patience); len(seen) < 2; time.Sleep(20 * time.Millisecond) {
		if body := get("http://127.0.0.1:" + port + "/"); body != "" {
			seen[body] = true
		}
		if time.Now().After(deadline) {
			t.Fatalf("the port leads to %v, not to two replicas", seen)
		}
	}
	if got := get("http://127.0.0.1:" + port + "/greeting"); got != "hello from the store\n" {
		t.Errorf("the greeting is %q", got)
	}
	if out := compose("ps", "--format", "{{.Service}} {{.Status}}"); !strings.Contains(out, "(healthy)") || strings.Count(out, "web ") != 2 {
		t.Errorf("ps says %q", out)
	}
	if out := compose("exec", "-T", "store", "cat", "/data/index.html"); out != "hello from the store\n" {
		t.Errorf("exec says %q", out)
	}
	compose("down", "-v")
	if out := compose("ps", "-aq"); strings.TrimSpace(out) != "" {
		t.Errorf("left after down: %q", out)
	}
	if got := get("http://127.0.0.1:" + port + "/"); got != "" {
		t.Errorf("the port still answers %q", got)
	}
}

// get is what a server answers, "" when there is none. Each request has a connection of
// its own, so that replicas take turns.
func get(url string) string {
	c := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return ""
	}
	return string(body)
}
