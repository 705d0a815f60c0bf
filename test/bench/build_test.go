package bench

import (
	"archive/zip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

const (
	certificates = "/etc/ssl/certs/ca-certificates.crt"
	warmRounds   = 5
)

// shopImages are the images of examples/shop and how each is built.
var shopImages = map[string][]string{
	"storefront": {"--build-arg", "SERVICE=storefront", "."}, "catalogue": {"--build-arg", "SERVICE=catalogue", "."},
	"cart": {"--build-arg", "SERVICE=cart", "."}, "orders": {"--build-arg", "SERVICE=orders", "."},
	"payment": {"--build-arg", "SERVICE=payment", "."}, "redis": {"redis"}, "postgres": {"postgres"},
}

// BenchmarkShopBuilds measures what a developer of the shop waits for: the first
// build of everything, in turns with Debian's docker.io where it is installed, on the same
// Dockerfiles; a changed service from the edit until it is signed, scanned and runs;
// and a build without a change. The first build downloads packages, so both need the
// mirrors, and whoever comes second finds them warm: that is docker.
func BenchmarkShopBuilds(b *testing.B) {
	testenv.NeedContainers(b)
	in := instance.Start(b, instance.Options{})
	in.Run(b, "base", "debian")
	in.Run(b, "scan", "db", "import", smallDatabase(b))
	shop := filepath.Join(b.TempDir(), "shop")
	must(b, os.CopyFS(shop, os.DirFS("../../examples/shop")))
	for b.Loop() {
		cold(b, in, shop)
		in.Run(b, "up", shop)
		warm(b, in, shop)
	}
}

// coldRounds is how often everything is built from nothing, in turns, unless BENCH_COLD says it.
const coldRounds = 2

func cold(b *testing.B, in *instance.Instance, shop string) {
	b.Helper()
	rounds := coldRounds
	if text := os.Getenv("BENCH_COLD"); text != "" {
		var err error
		rounds, err = strconv.Atoi(text)
		must(b, err)
	}
	missing := swarmMissing()
	var ours, peers time.Duration
	for i := range rounds {
		took := gantryCold(b, in, shop, i)
		ours += took
		b.Logf("all images of the shop from nothing: gantry %.1f s", took.Seconds())
		if len(missing) > 0 {
			b.Logf("without docker: %v not installed", missing)
			continue
		}
		peer := dockerCold(b, in, shop)
		peers += peer
		b.Logf("all images of the shop from nothing: docker build %.1f s, gantry takes %.2f of that", peer.Seconds(), took.Seconds()/peer.Seconds())
	}
	if peers > 0 {
		b.ReportMetric(ours.Seconds()/peers.Seconds(), "cold/docker")
	}
}

// gantryCold builds with an empty cache, and pushes to repositories that are not there.
func gantryCold(b *testing.B, in *instance.Instance, shop string, round int) time.Duration {
	b.Helper()
	endWorker(b, in)
	must(b, os.RemoveAll(filepath.Join(in.DataDir, "build")))
	return buildAll(b, shop, func(name string, args []string) *exec.Cmd {
		return exec.Command(in.Program, append([]string{"build", "--quiet", "--data-dir", in.DataDir, "-t", fmt.Sprintf("cold%d/%s", round, name)}, args...)...)
	})
}

// endWorker ends the build worker, if one runs: its lock file holds its process.
func endWorker(b *testing.B, in *instance.Instance) {
	b.Helper()
	text, err := os.ReadFile(filepath.Join(in.DataDir, "build", "worker.lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	must(b, err)
	pid, err := strconv.Atoi(string(text))
	must(b, err)
	for deadline := time.Now().Add(time.Minute); syscall.Kill(pid, syscall.SIGTERM) == nil; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("the build worker %d does not end", pid)
		}
	}
}

// smallDatabase is a vulnerability database of one record, so that images are scanned.
func smallDatabase(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "Go.zip")
	f, err := os.Create(path)
	must(b, err)
	z := zip.NewWriter(f)
	w, err := z.Create("BENCH-1.json")
	must(b, err)
	_, err = fmt.Fprint(w, `{"schema_version":"1.6.0","id":"BENCH-1","modified":"2026-01-01T00:00:00Z","published":"2026-01-01T00:00:00Z","summary":"none",
		"affected":[{"package":{"ecosystem":"Go","name":"example.com/none"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}]}]}`)
	must(b, err)
	must(b, z.Close())
	must(b, f.Close())
	return path
}

// buildAll builds all images at once, as both `gantry up` and `docker compose build` do.
func buildAll(b *testing.B, shop string, command func(name string, args []string) *exec.Cmd) time.Duration {
	b.Helper()
	began := time.Now()
	var running sync.WaitGroup
	for name, args := range shopImages {
		running.Go(func() {
			args := slices.Clone(args)
			if _, err := os.Stat(certificates); err == nil {
				args = append([]string{"--secret", "id=ca-certificates,src=" + certificates}, args...)
			}
			args[len(args)-1] = filepath.Join(shop, args[len(args)-1])
			if out, err := command(name, args).CombinedOutput(); err != nil {
				b.Errorf("build %s: %v\n%s", name, err, out)
			}
		})
	}
	running.Wait()
	if b.Failed() {
		b.FailNow()
	}
	return time.Since(began)
}

// dockerCold is the same with a dockerd of its own, which has nothing yet. Its steps
// use the host's network, which is in its favour.
func dockerCold(b *testing.B, in *instance.Instance, shop string) time.Duration {
	b.Helper()
	dir := b.TempDir()
	socket := "unix://" + filepath.Join(dir, "docker.sock")
	log, err := os.Create(filepath.Join(dir, "log"))
	must(b, err)
	defer log.Close()
	daemon := exec.Command("dockerd", "--host", socket, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--bridge", "none", "--iptables=false", "--log-level", "error")
	daemon.Stdout, daemon.Stderr = log, log
	must(b, daemon.Start())
	defer func() {
		_ = daemon.Process.Signal(os.Interrupt)
		_ = daemon.Wait()
	}()
	docker := func(args ...string) *exec.Cmd {
		c := exec.Command("/usr/bin/docker", append([]string{"--host", socket}, args...)...) // Debian's, whatever else is installed
		c.Env = append(os.Environ(), "DOCKER_BUILDKIT=1")
		return c
	}
	for deadline := time.Now().Add(time.Minute); docker("version").Run() != nil; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			b.Fatalf("dockerd does not answer after a minute:\n%s", text)
		}
	}
	return buildAll(b, shop, func(name string, args []string) *exec.Cmd {
		return docker(append([]string{"build", "--quiet", "--network", "host", "--build-arg", "GANTRY_REGISTRY=" + in.Registry, "-t", "cold/" + name}, args...)...)
	})
}

// warm measures what is built again and again.
func warm(b *testing.B, in *instance.Instance, shop string) {
	b.Helper()
	source := filepath.Join(shop, "cmd", "cart", "main.go")
	original, err := os.ReadFile(source)
	must(b, err)
	var change, scanned, nothing []float64
	for i := range warmRounds {
		must(b, os.WriteFile(source, []byte(strings.Replace(string(original), "the body must be", fmt.Sprintf("edition %d: the body must be", i), 1)), 0o644))
		began := time.Now()
		in.Run(b, "up", shop)
		change = append(change, time.Since(began).Seconds())
		ref := runningImage(b, in)
		for exec.Command(in.Program, "verify", ref, "--type", "vuln", "--data-dir", in.DataDir).Run() != nil {
			if time.Since(began) > time.Minute {
				b.Fatalf("%s is not scanned after a minute", ref)
			}
			time.Sleep(20 * time.Millisecond)
		}
		scanned = append(scanned, time.Since(began).Seconds())
		in.Run(b, "verify", ref)
		began = time.Now()
		in.Run(b, append([]string{"build", "--quiet", "-t", "cold/cart"}, "--build-arg", "SERVICE=cart", shop)...)
		first := time.Since(began)
		began = time.Now()
		in.Run(b, append([]string{"build", "--quiet", "-t", "cold/cart"}, "--build-arg", "SERVICE=cart", shop)...)
		nothing = append(nothing, time.Since(began).Seconds())
		b.Logf("round %d: changed service %.2f s until it runs signed, %.2f s until it is scanned too; built under another name %.2f s, again %.2f s",
			i, change[i], scanned[i], first.Seconds(), nothing[i])
	}
	for unit, all := range map[string][]float64{"changed-s": change, "changed+scanned-s": scanned, "unchanged-s": nothing} {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], unit)
	}
}

// runningImage is the image that the cart's Deployment runs, by digest.
func runningImage(b *testing.B, in *instance.Instance) string {
	b.Helper()
	d, err := in.Client(b).AppsV1().Deployments("shop").Get(b.Context(), "cart", metav1.GetOptions{})
	must(b, err)
	return d.Spec.Template.Spec.Containers[0].Image
}
