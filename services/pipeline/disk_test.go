package pipeline

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/testenv"
)

func TestANearlyFullDiskStartsNoBuild(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := enoughDisk(dir); err != nil {
		t.Errorf("an empty disk: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "full"), make([]byte, 14<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := enoughDisk(dir); err == nil || !strings.Contains(err.Error(), "nearly full") || hint.Of(err) == "" {
		t.Errorf("a full disk: %v", err)
	}
}
