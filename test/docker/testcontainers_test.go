package docker

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

// The real Testcontainers library runs its containers here. It is built from its module,
// so that `make testcontainers` asks for it and `make test` does not. Its reaper is an
// image of Docker Hub, without which the library is told to do.
func TestTestcontainers(t *testing.T) {
	if os.Getenv("GANTRY_TESTCONTAINERS") == "" {
		t.Skip("make testcontainers builds and runs the library")
	}
	testenv.NeedContainers(t)
	in := instance.Start(t, instance.Options{})
	in.BaseImages(t)
	cmd := exec.Command("go", "test", "-count", "1", "-v", "./...")
	cmd.Dir = "../testcontainers"
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+filepath.Join(in.DataDir, "docker.sock"),
		"GANTRY_TEST_IMAGE="+in.Registry+"/base/busybox:latest", "TESTCONTAINERS_RYUK_DISABLED=true")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	check(t, cmd.Run())
}
