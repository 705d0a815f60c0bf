package driver

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

func TestSecretsOfTheEnvironmentStayInMemory(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		const secret = "do-not-write-this-down"
		c := h.container("exec sleep 1000")
		c.Env = []string{"PASSWORD=" + secret}
		h.start(c)
		if out, _ := h.exec(c.ID, "echo $PASSWORD"); out != secret+"\n" {
			t.Errorf("an exec has the password %q", out)
		}
		var disk unix.Stat_t
		if err := unix.Stat(h.dir, &disk); err != nil {
			t.Fatal(err)
		}
		err := filepath.WalkDir(filepath.Join(h.dir, "run"), func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var info unix.Stat_t
			if err := unix.Lstat(path, &info); err != nil {
				return err
			}
			if e.IsDir() && info.Dev != disk.Dev {
				return fs.SkipDir // in memory
			}
			if !e.Type().IsRegular() {
				return nil
			}
			text, err := os.ReadFile(path)
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s has the password", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestMountsOfTheHostArriveWhereTheyAreWanted(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		volume := filepath.Join(h.dir, "volume")
		if err := os.MkdirAll(filepath.Join(volume, "later"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(volume, volume, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(volume, unix.MNT_DETACH)
		if err := unix.Mount("", volume, "", unix.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
		c := h.container("exec sleep 1000")
		c.Security.Privileged = true
		c.Mounts = []runtime.Mount{
			{Source: volume, Target: "/private"},
			{Source: volume, Target: "/slave", Propagation: "rslave"},
			{Source: volume, Target: "/shared", Propagation: "rshared"},
		}
		h.start(c)
		later := filepath.Join(volume, "later")
		if err := unix.Mount("tmpfs", later, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(later, unix.MNT_DETACH)
		if err := os.WriteFile(filepath.Join(later, "file"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		out, _ := h.exec(c.ID, "ls /private/later /slave/later /shared/later")
		if out = strings.Join(strings.Fields(out), " "); out != "/private/later: /shared/later: file /slave/later: file" {
			t.Errorf("a mount made after the start is seen as %q", out)
		}
		h.exec(c.ID, "mkdir /shared/back; mount -t tmpfs tmpfs /shared/back; touch /shared/back/file")
		if _, err := os.Stat(filepath.Join(volume, "back", "file")); err != nil {
			t.Errorf("a mount made in the container: %v", err)
		}
		unix.Unmount(filepath.Join(volume, "back"), unix.MNT_DETACH)
	})
}

// A mount that is copied to the host by mistake outlives the container.
func TestContainersLeaveNoMountsBehind(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		mounts := func() int {
			table, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil {
				t.Fatal(err)
			}
			return strings.Count(string(table), h.dir)
		}
		before := mounts()
		c := h.container("exec sleep 1000")
		h.start(c)
		if now := mounts(); now != before {
			t.Errorf("%d mounts of the container are seen on the host", now-before)
		}
	})
}
