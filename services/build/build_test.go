package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/services/build/base"
)

// The test binary is its own worker: the tests start it with this argument.
const workerArg = "-run-build-worker="

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && strings.HasPrefix(os.Args[1], workerArg) {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		idle := 30 * time.Second
		if d, err := time.ParseDuration(os.Getenv("BUILD_TEST_IDLE")); err == nil {
			idle = d
		}
		var uplinks []string
		if name := os.Getenv("BUILD_TEST_UPLINK"); name != "" {
			uplinks = []string{name}
		}
		err := Worker(ctx, WorkerConfig{
			Uplinks: uplinks,
			DataDir: strings.TrimPrefix(os.Args[1], workerArg), IdleTimeout: idle,
			Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestAMultiStageBuildWithCacheMountAndSecret(t *testing.T) {
	e := newEnv(t)
	dir := e.context(t, map[string]string{
		"Dockerfile": `# syntax=docker/dockerfile:1
ARG GANTRY_REGISTRY=registry.invalid
FROM ${GANTRY_REGISTRY}/base/busybox AS build
ARG GREETING=hello
RUN --mount=type=cache,target=/cache \
    --mount=type=secret,id=token \
    echo "$GREETING $(wc -c < /run/secrets/token)" > /out && date +%N >> /cache/runs && wc -l < /cache/runs > /runs
FROM scratch
COPY --from=build /out /runs /
COPY app/ /app/
LABEL team=shop
ENTRYPOINT ["/app/run"]
`,
		"app/run":       "#!",
		"app/notes.log": "left out",
		".dockerignore": "**/*.log\n",
	})
	tag := e.host + "/shop/app:1"
	opt := Options{
		ContextDir: dir, Tags: []string{tag}, Push: true, Registry: e.host,
		BuildArgs: map[string]string{"GREETING": "good day"},
		Labels:    map[string]string{"rev": "42"},
		Secrets:   []Secret{{ID: "token", Data: []byte("s3cret")}},
	}
	res := e.build(t, opt)
	files, cfg := pulled(t, tag, res.Digest)
	if files["out"] != "good day 6\n" || files["app/run"] != "#!" {
		t.Errorf("files %v", files)
	}
	if _, there := files["app/notes.log"]; there {
		t.Error("an ignored file is in the image")
	}
	if cfg.Config.Labels["team"] != "shop" || cfg.Config.Labels["rev"] != "42" || cfg.Config.Entrypoint[0] != "/app/run" {
		t.Errorf("configuration %+v", cfg.Config)
	}
	if secretIn(files) {
		t.Error("the secret is in the image")
	}

	// Nothing changed: the same image, quickly.
	began := time.Now()
	again := e.build(t, opt)
	took := time.Since(began)
	t.Logf("a build without changes took %v", took.Round(time.Millisecond))
	if again.Digest != res.Digest {
		t.Errorf("a build without changes gave %s, before %s", again.Digest, res.Digest)
	}
	if took > 2*time.Second {
		t.Errorf("a build without changes took %v", took)
	}
	// A changed argument runs the step again; the cache mount kept its file.
	opt.BuildArgs["GREETING"] = "hi"
	changed := e.build(t, opt)
	files, _ = pulled(t, tag, changed.Digest)
	if files["out"] != "hi 6\n" || strings.TrimSpace(files["runs"]) != "2" {
		t.Errorf("after a change: %q, %q runs", files["out"], files["runs"])
	}
}

func TestAFailedStepNamesItsLineAndShowsItsOutput(t *testing.T) {
	e := newEnv(t)
	for _, c := range []struct {
		name, dockerfile, says string
		line                   int
		log                    string
	}{
		{"a step that fails", "FROM " + e.host + "/base/busybox\n\nRUN echo compiling && \\\n  echo 'main.c:1: oops' >&2 && exit 3\n", "exit code: 3", 3, "main.c:1: oops"},
		{"an unknown instruction", "FROM scratch\nCOPPY a b\n", "unknown instruction: COPPY", 2, ""},
		{"a missing file", "FROM scratch\nCOPY nothing /\n", "not found", 2, ""},
		{"an image that does not exist", "# from nowhere\nFROM " + e.host + "/no/such:1\nCOPY Dockerfile /\n", "not found", 2, ""},
		{"a registry that is not there", "FROM 127.0.0.1:1/base/debian\n", "connection refused", 1, ""},
		{"an empty file", "", "empty", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := e.context(t, map[string]string{"Dockerfile": c.dockerfile})
			_, err := e.client.Build(context.Background(), Options{ContextDir: dir})
			var be *Error
			if !errors.As(err, &be) {
				t.Fatalf("got %v", err)
			}
			if be.Line != c.line || !strings.Contains(err.Error(), c.says) || !strings.Contains(strings.Join(be.Log, "\n"), c.log) {
				t.Errorf("line %d, log %q: %v", be.Line, be.Log, err)
			}
			if strings.Contains(c.name, "registry") && hint.Of(err) == "" {
				t.Error("no hint")
			}
		})
	}
}

func TestWhatIsWrongWithTheRequestIsSaidWithoutAWorker(t *testing.T) {
	c, err := NewClient(ClientConfig{DataDir: t.TempDir(), Command: []string{"/does/not/exist"}})
	must(t, err)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for says, opt := range map[string]Options{
		"no such file":           {ContextDir: filepath.Join(dir, "missing")},
		"is a file":              {ContextDir: filepath.Join(dir, "file")},
		"there is no Dockerfile": {ContextDir: dir},
		"image name":             {ContextDir: dir, Tags: []string{"Not A Name"}},
		"has no name":            {ContextDir: dir, Push: true},
	} {
		if _, err := c.Build(context.Background(), opt); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q, got %v", says, err)
		}
	}
}

func TestAPushToNobodySaysSo(t *testing.T) {
	e := newEnv(t)
	dir := e.context(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	_, err := e.client.Build(context.Background(), Options{ContextDir: dir, Tags: []string{"127.0.0.1:1/app/x:1"}, Push: true})
	if err == nil || !strings.Contains(err.Error(), "connection refused") || hint.Of(err) == "" {
		t.Errorf("got %v (hint %q)", err, hint.Of(err))
	}
}

func TestABuildIsShownAndCanBeCancelled(t *testing.T) {
	e := newEnv(t)
	dir := e.context(t, map[string]string{"Dockerfile": "FROM " + e.host + "/base/busybox\nRUN echo started; sleep 600\n"})
	ctx, cancel := context.WithCancel(context.Background())
	var shown lockedBuffer
	var once sync.Once
	began := time.Now()
	_, err := e.client.Build(ctx, Options{ContextDir: dir, Display: &shown, Progress: func(s Step) {
		if strings.Contains(s.Name, "sleep 600") {
			once.Do(func() { time.AfterFunc(200*time.Millisecond, cancel) })
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("cancelling took %v", took)
	}
	if !strings.Contains(shown.String(), "RUN echo started") {
		t.Errorf("shown: %s", shown.String())
	}
}

func TestAnArchiveCanBeTakenInsteadOfAPush(t *testing.T) {
	e := newEnv(t)
	dir := e.context(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	var buf nopCloser
	_, err := e.client.Build(context.Background(), Options{ContextDir: dir, Tags: []string{"local/app"}, Archive: &buf})
	must(t, err)
	names := map[string]bool{}
	for tr := tar.NewReader(&buf.Buffer); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		names[h.Name] = true
	}
	if !names["index.json"] || !names["manifest.json"] {
		t.Errorf("archive holds %v", names)
	}
}

func TestTheWorkerEndsWhenIdleAndIsStartedAgain(t *testing.T) {
	t.Setenv("BUILD_TEST_IDLE", "300ms")
	e := newEnv(t)
	dir := e.context(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	for range 2 {
		e.build(t, Options{ContextDir: dir, Tags: []string{e.host + "/idle:1"}, Push: true})
		waitFor(t, func() bool {
			unlock, err := lockDir(e.client.paths.lock)
			if err == nil {
				unlock()
			}
			return err == nil
		})
		if _, err := os.Stat(e.client.paths.socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	}
}

func TestManyClientsAtOnceShareOneWorker(t *testing.T) {
	e := newEnv(t)
	dir := e.context(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			_, err := e.client.Build(context.Background(), Options{ContextDir: dir, Tags: []string{fmt.Sprintf("%s/many:%d", e.host, i)}, Push: true})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestAWorkerThatCannotStartSaysWhy(t *testing.T) {
	testenv.NeedContainers(t)
	c, err := NewClient(ClientConfig{DataDir: t.TempDir(), Command: []string{"/bin/sh", "-c", "echo no space for me; exit 1"}})
	must(t, err)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch"), 0o600))
	if _, err = c.Build(context.Background(), Options{ContextDir: dir}); err == nil || !strings.Contains(err.Error(), "no space for me") {
		t.Errorf("got %v", err)
	}
}

func TestAKilledWorkerLeavesNothingBehindForTheNext(t *testing.T) {
	e := newEnv(t)
	slow := e.context(t, map[string]string{"Dockerfile": "FROM " + e.host + "/base/busybox\nRUN --mount=type=secret,id=s sleep 1000\n"})
	failed := make(chan error, 1)
	go func() {
		_, err := e.client.Build(context.Background(), Options{ContextDir: slow, Secrets: []Secret{{ID: "s", Data: []byte("s3cret")}}})
		failed <- err
	}()
	waitFor(t, func() bool { return len(stepPIDs(e.client.dataDir)) > 0 })
	blob, err := os.ReadFile(e.client.paths.lock)
	must(t, err)
	pid, err := strconv.Atoi(string(blob))
	must(t, err)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if !strings.Contains(string(mounts), e.client.paths.tmp) {
		t.Error("the secret is not mounted where the next worker looks")
	}
	must(t, unix.Kill(pid, unix.SIGKILL))
	if err := <-failed; err == nil {
		t.Error("the build of a killed worker succeeded")
	}
	dir := e.context(t, map[string]string{"Dockerfile": "FROM " + e.host + "/base/busybox\nRUN date +%s%N >/when\n"})
	opt := Options{ContextDir: dir, Tags: []string{e.host + "/after:1"}, Push: true}
	before := e.build(t, opt)
	if blob, err = os.ReadFile(e.client.paths.lock); err != nil {
		t.Fatal(err)
	}
	if pid, err = strconv.Atoi(string(blob)); err != nil {
		t.Fatal(err)
	}
	must(t, unix.Kill(pid, unix.SIGKILL))
	if after := e.build(t, opt); after.Digest != before.Digest {
		t.Error("the next worker has lost the cache")
	}
	must(t, e.client.Stop(context.Background()))
	if pids := stepPIDs(e.client.dataDir); len(pids) > 0 {
		t.Errorf("processes %v are left", pids)
	}
	if dirs := cgroupDirs(e.client.dataDir); len(dirs) > 0 {
		t.Errorf("cgroups %v are left", dirs)
	}
	mounts, err = os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if strings.Contains(string(mounts), e.client.dataDir) {
		t.Error("mounts are left")
	}
}

func TestOnlyOtherSyntaxesNeedARegistry(t *testing.T) {
	for text, builtIn := range map[string]bool{
		"FROM scratch": true,
		"# syntax=docker/dockerfile:1\nFROM scratch":        true,
		"# syntax=docker.io/docker/dockerfile:1.7\nFROM x":  true,
		"# syntax=docker/dockerfile:1-labs\nFROM x":         false,
		"# syntax=example.test/my/frontend\nFROM x":         false,
		"# syntax=example.test/docker/dockerfile:1\nFROM x": false,
	} {
		if builtInSyntax([]byte(text)) != builtIn {
			t.Errorf("%q", text)
		}
	}
}

// env is a worker with a registry that has a busybox image.
type env struct {
	client *Client
	host   string
}

func newEnv(t testing.TB) *env {
	t.Helper()
	testenv.NeedContainers(t)
	testenv.NeedProgram(t, "busybox", "busybox-static")
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	e := &env{host: strings.TrimPrefix(srv.URL, "http://")}
	_, err := base.Busybox(context.Background(), base.BusyboxOptions{Tag: e.host + "/base/busybox:latest"})
	must(t, err)
	data, err := os.MkdirTemp("", "build-test-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(data) })
	self, err := os.Executable()
	must(t, err)
	e.client, err = NewClient(ClientConfig{DataDir: data, Command: []string{self, workerArg + data}})
	must(t, err)
	t.Cleanup(func() {
		if err := e.client.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e *env) context(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range files {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(body), 0o755))
	}
	return dir
}

func (e *env) build(t testing.TB, opt Options) *Result {
	t.Helper()
	var shown lockedBuffer
	opt.Display = &shown
	defer func() {
		if testing.Verbose() {
			t.Log(shown.String())
		}
	}()
	res, err := e.client.Build(context.Background(), opt)
	if err != nil {
		t.Fatalf("%v\n%s", err, shown.String())
	}
	return res
}

// pulled reads the image under tag, which must have the digest.
func pulled(t testing.TB, tag, digest string) (map[string]string, *v1.ConfigFile) {
	t.Helper()
	ref, err := name.ParseReference(tag)
	must(t, err)
	img, err := remote.Image(ref)
	must(t, err)
	if d, err := img.Digest(); err != nil || d.String() != digest {
		t.Errorf("%s is %v (%v), the build said %s", tag, d, err, digest)
	}
	cfg, err := img.ConfigFile()
	must(t, err)
	rc := mutate.Extract(img)
	defer rc.Close()
	files := map[string]string{}
	for tr := tar.NewReader(rc); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, cfg
		}
		must(t, err)
		body, err := io.ReadAll(tr)
		must(t, err)
		files[h.Name] = string(body)
	}
}

// ownerIn is the user id of a file in an image.
func ownerIn(t testing.TB, tag, path string) int {
	t.Helper()
	ref, err := name.ParseReference(tag)
	must(t, err)
	img, err := remote.Image(ref)
	must(t, err)
	rc := mutate.Extract(img)
	defer rc.Close()
	for tr := tar.NewReader(rc); ; {
		h, err := tr.Next()
		must(t, err)
		if h.Name == path {
			return h.Uid
		}
	}
}

func secretIn(files map[string]string) bool {
	for _, body := range files {
		if strings.Contains(body, "s3cret") {
			return true
		}
	}
	return false
}

type nopCloser struct{ bytes.Buffer }

func (*nopCloser) Close() error { return nil }

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	const limit = time.Minute // a busy machine may need it
	deadline := time.Now().Add(limit)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen within %v", limit)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAFullDiskFailsTheBuildAndNotTheWorker(t *testing.T) {
	testenv.NeedContainers(t)
	e := newEnv(t)
	state := filepath.Join(e.client.dataDir, "build")
	must(t, os.MkdirAll(state, 0o700))
	must(t, unix.Mount("tmpfs", state, "tmpfs", 0, "size=24m"))
	t.Cleanup(func() { _ = unix.Unmount(state, unix.MNT_DETACH) })
	from := "FROM " + e.host + "/base/busybox\n"
	greedy := e.context(t, map[string]string{"Dockerfile": from + "RUN dd if=/dev/zero of=/big bs=1M count=64\n"})
	_, err := e.client.Build(context.Background(), Options{ContextDir: greedy})
	if err == nil || !strings.Contains(err.Error(), "No space left on device") || !strings.Contains(err.Error(), "Dockerfile:2") {
		t.Errorf("got %v", err)
	}
	modest := e.context(t, map[string]string{"Dockerfile": from + "RUN echo small > /small\n"})
	waitFor(t, func() bool { // the failed step's files are deleted in the background
		_, err = e.client.Build(context.Background(), Options{ContextDir: modest, Tags: []string{e.host + "/small:1"}, Push: true})
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
	if err := e.client.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}
