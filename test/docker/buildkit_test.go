package docker

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

// The official build plugin speaks BuildKit's own protocol: files, secrets, agents and
// results travel through the client's session. `make buildx` has the plugin built.
func TestBuildKit(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	if out, err := exec.Command("docker", "buildx", "version").CombinedOutput(); err != nil {
		t.Skipf("docker's build plugin is not installed: %v: %s", err, out)
	}
	in := instance.Start(t, instance.Options{})
	in.BaseImages(t)
	c, err := client.New(client.WithHost("unix://" + filepath.Join(in.DataDir, "docker.sock")))
	check(t, err)
	e := env{c, in, in.Registry + "/base/busybox:latest"}
	for name, test := range map[string]func(*testing.T, env){
		"an image":             builtImage,
		"secrets and agents":   builtWithSecrets,
		"results for the host": builtForTheHost,
		"caches":               builtWithCaches,
		"other platforms":      builtForOthers,
		"a mistake":            builtWrongly,
	} {
		t.Run(name, func(t *testing.T) { test(t, e) })
	}
}

// buildx builds a Dockerfile beside a file called word, and returns what was said.
func (e env) buildx(t *testing.T, dockerfile string, args ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+e.image+"\n"+dockerfile), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "word"), []byte("a word\n"), 0o644))
	out, said, err := e.cli(t, append(append([]string{"buildx", "build", "--progress", "plain"}, args...), dir)...)
	return out + said, err
}

func (e env) mustBuild(t *testing.T, dockerfile string, args ...string) string {
	t.Helper()
	said, err := e.buildx(t, dockerfile, args...)
	if err != nil {
		t.Fatalf("build %v: %v: %s", args, err, said)
	}
	return said
}

func builtImage(t *testing.T, e env) {
	e.mustBuild(t, "ARG N=1\nCOPY word /\nRUN echo $N >/n; cat /etc/hosts >/hosts\nFROM "+e.image+" AS last\nCOPY --from=0 /word /n /hosts /\nLABEL by=buildx\nCMD cat /word /n /hosts\nFROM scratch AS beyond\n",
		"-t", "kit/one:1", "-t", "kit/two", "--build-arg", "N=7", "--target", "last", "--label", "more=yes", "--add-host", "friend:10.1.2.3")
	for _, name := range []string{"kit/one:1", "kit/two"} {
		out, said, err := e.cli(t, "run", "--rm", name)
		if err != nil || !strings.HasPrefix(out, "a word\n7\n") || !strings.Contains(out, "10.1.2.3\tfriend") {
			t.Errorf("%s says %q: %v: %s", name, out, err, said)
		}
	}
	out, _, err := e.cli(t, "image", "inspect", "--format", "{{.Config.Labels.by}} {{.Config.Labels.more}}", "kit/one:1")
	if err != nil || out != "buildx yes\n" {
		t.Errorf("labels %q, %v", out, err)
	}
}

func builtWithSecrets(t *testing.T, e env) {
	file := filepath.Join(t.TempDir(), "token")
	check(t, os.WriteFile(file, []byte("hush"), 0o600))
	agent := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", agent)
	check(t, err)
	defer l.Close()
	said := e.mustBuild(t, "RUN --mount=type=secret,id=token test $(cat /run/secrets/token) = hush && ls -l /run/secrets\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo agent is there\nRUN ! test -e /run/secrets/token\n",
		"-t", "kit/secret", "--secret", "id=token,src="+file, "--ssh", "default="+agent)
	if !strings.Contains(said, "agent is there") || strings.Contains(said, "hush\n") {
		t.Errorf("it says %s", said)
	}
	out, _, err := e.cli(t, "run", "--rm", "kit/secret", "sh", "-c", "grep -rl hush /run /etc /tmp || echo nowhere")
	if err != nil || out != "nowhere\n" {
		t.Errorf("the secret is in the image: %q, %v", out, err)
	}
}

func builtForTheHost(t *testing.T, e env) {
	const dockerfile = "RUN echo made >/made\nFROM scratch\nCOPY --from=0 /made /\nCOPY word /\n"
	dir := t.TempDir()
	e.mustBuild(t, dockerfile, "--output", "type=local,dest="+dir)
	for name, want := range map[string]string{"made": "made\n", "word": "a word\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v", name, got, err)
		}
	}
	for _, kind := range []string{"tar", "oci", "docker"} {
		file := filepath.Join(t.TempDir(), kind)
		e.mustBuild(t, dockerfile, "--output", "type="+kind+",dest="+file)
		list, err := exec.Command("tar", "-tf", file).Output()
		check(t, err)
		if !strings.Contains(string(list), map[string]string{"tar": "made", "oci": "oci-layout", "docker": "manifest.json"}[kind]) {
			t.Errorf("%s holds %s", kind, list)
		}
	}
	name := e.in.Registry + "/kit/pushed:1"
	e.mustBuild(t, "COPY word /\n", "--push", "-t", name)
	if _, said, err := e.cli(t, "pull", "-q", name); err != nil {
		t.Errorf("pull what was pushed: %v: %s", err, said)
	}
}

// A cache of another build spares the steps that have not changed.
func builtWithCaches(t *testing.T, e env) {
	const dockerfile = "RUN head -c 20 /dev/urandom | sha256sum >/random\n"
	e.mustBuild(t, dockerfile, "-t", e.in.Registry+"/kit/cache:1", "--push", "--cache-to", "type=inline")
	said := e.mustBuild(t, dockerfile, "-t", "kit/cached", "--cache-from", e.in.Registry+"/kit/cache:1")
	if !strings.Contains(said, "importing cache manifest") || !strings.Contains(said, "CACHED") {
		t.Errorf("it says %s", said)
	}
}

// Images are for this machine; who asks for another platform hears of it.
func builtForOthers(t *testing.T, e env) {
	other := map[string]string{"amd64": "arm64"}[runtime.GOARCH]
	if other == "" {
		other = "amd64"
	}
	said, err := e.buildx(t, "", "-t", "kit/many", "--platform", "linux/amd64,linux/arm64")
	if err == nil || !strings.Contains(said, "linux/amd64, linux/arm64") || !strings.Contains(said, "--push") {
		t.Errorf("for two platforms: %v: %s", err, said)
	}
	e.mustBuild(t, "FROM scratch\nCOPY word /\n", "-t", e.in.Registry+"/kit/many:1", "--push", "--platform", "linux/amd64,linux/arm64")
	if _, said, err := e.cli(t, "pull", "-q", e.in.Registry+"/kit/many:1"); err != nil {
		t.Errorf("pull the one for this machine: %v: %s", err, said)
	}
	said, err = e.buildx(t, "FROM scratch\nCOPY word /\n", "-t", "kit/other", "--platform", "linux/"+other)
	if err == nil || !strings.Contains(said, "linux/"+runtime.GOARCH) {
		t.Errorf("for another platform: %v: %s", err, said)
	}
	for _, name := range []string{"kit/many", "kit/other"} {
		if out, _, _ := e.cli(t, "images", "-q", name); out != "" {
			t.Errorf("%s was kept: %s", name, out)
		}
	}
}

func builtWrongly(t *testing.T, e env) {
	said, err := e.buildx(t, "RUN echo before the end; exit 9\n", "-t", "kit/wrong")
	if err == nil || !strings.Contains(said, "before the end") || !strings.Contains(said, "exit code: 9") || !strings.Contains(said, "Dockerfile:2") {
		t.Errorf("%v: %s", err, said)
	}
}
