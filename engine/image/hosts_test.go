package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantryhq/gantry/internal/testenv"
)

func TestAMirrorServesTheImagesOfAnotherRegistry(t *testing.T) {
	testenv.NeedRoot(t)
	mirror := newRegistry(t)
	mirror.push(t, "team/app:1", image(t, layer(t, file("a", "mirrored"))))
	data := tempDir(t)
	dir := filepath.Join(data, "registry-hosts", "example.test")
	must(t, os.MkdirAll(dir, 0o755))
	hosts := fmt.Sprintf("server = \"https://example.test\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", mirror.host)
	must(t, os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644))
	s := open(t, data)
	img := pull(t, s, "example.test/team/app:1")
	if img.Name != "example.test/team/app:1" {
		t.Errorf("name %q", img.Name)
	}
	if got := read(t, mountRoot(t, s, "m", img.Name), "a"); got != "mirrored" {
		t.Errorf("a = %q", got)
	}
}

func TestADamagedMirrorConfigurationIsSaid(t *testing.T) {
	data := tempDir(t)
	dir := filepath.Join(data, "registry-hosts", "example.test")
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte("server = ["), 0o644))
	s := open(t, data)
	if _, err := s.Pull(context.Background(), "example.test/app:1", PullOptions{}); err == nil || !strings.Contains(err.Error(), "hosts.toml") {
		t.Errorf("got %v", err)
	}
}
