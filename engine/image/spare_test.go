package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/testenv"
)

func TestPlacesForMountsAreThereWithoutBeingWritten(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	s := open(t, tempDir(t))
	for name, c := range map[string]struct {
		layers  []entry
		targets []string
		have    []string
		absent  []string
	}{
		"empty":   {[]entry{file("app", "")}, nil, []string{"etc/hosts", "proc", "sys", "dev"}, []string{"var", "run"}},
		"token":   {[]entry{file("app", "")}, []string{tokenTarget}, []string{"var/run/secrets/kubernetes.io/serviceaccount"}, []string{"run"}},
		"link":    {[]entry{dir("run"), dir("var"), symlink("var/run", "/run")}, []string{tokenTarget}, []string{"run/secrets/kubernetes.io/serviceaccount"}, nil},
		"strange": {[]entry{dir("tmp"), dir("var"), symlink("var/run", "/tmp")}, []string{tokenTarget}, nil, []string{"run", "tmp/secrets"}},
	} {
		ref := reg.push(t, name+":1", image(t, layer(t, file("etc/hostname", "image's")), layer(t, c.layers...)))
		pull(t, s, ref)
		root, err := s.Mount(context.Background(), name, ref, c.targets)
		must(t, err)
		for _, path := range c.have {
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, path := range c.absent {
			if _, err := os.Lstat(filepath.Join(root, path)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s has %s: %v", name, path, err)
			}
		}
		if got := read(t, root, "etc/hostname"); got != "image's" {
			t.Errorf("%s: etc/hostname = %q", name, got)
		}
		if written, err := os.ReadDir(filepath.Join(s.rootDir(name), upperName)); err != nil || len(written) > 0 {
			t.Errorf("%s: written %v, %v", name, written, err)
		}
		write(t, root, "etc/hosts", "its own")
		must(t, unix.Unmount(root, unix.MNT_DETACH)) // as a reboot would
		_, err = s.Mount(context.Background(), name, ref, nil)
		must(t, err)
		if got := read(t, root, "etc/hosts"); got != "its own" {
			t.Errorf("%s, mounted again: etc/hosts = %q", name, got)
		}
		must(t, s.Unmount(context.Background(), name))
	}
	if blob, err := os.ReadFile(filepath.Join(s.placesDir(placesAlways), "etc/hosts")); err != nil || len(blob) > 0 {
		t.Errorf("a container wrote to everybody's layer: %q, %v", blob, err)
	}
}

// A root that was used again must not be reached by whoever had the former one.
func TestASpareRootIsNobodyElses(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	ref := reg.push(t, "app:1", image(t, layer(t, file("a", "1"))))
	other := reg.push(t, "other:1", image(t, layer(t, file("b", "2"))))
	data := tempDir(t)
	s := open(t, data)
	pull(t, s, ref)
	pull(t, s, other)
	ctx := context.Background()

	root := mountRoot(t, s, "first", ref)
	must(t, os.Chmod(root, 0o777))
	must(t, unix.Setxattr(root, "user.left", []byte("by the first"), 0))
	held, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(held)
	must(t, s.Unmount(ctx, "first"))
	if n := len(s.spare.names); n != 1 {
		t.Fatalf("%d spares after a root that nothing was written to", n)
	}

	second := mountRoot(t, s, "second", other)
	if n := len(s.spare.names); n != 0 {
		t.Errorf("%d spares are left: it was not used", n)
	}
	if fd, err := unix.Openat(held, "intruder", unix.O_CREAT|unix.O_WRONLY, 0o644); err == nil {
		unix.Close(fd)
		t.Error("the former root could still be written")
	}
	entries, err := os.ReadDir(filepath.Join(s.rootDir("second"), upperName))
	if err != nil || len(entries) > 0 {
		t.Errorf("the next root has %v, %v", entries, err)
	}
	if _, err := os.Stat(filepath.Join(second, "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the former image's file is there: %v", err)
	}
	if info, err := os.Stat(second); err != nil || info.Mode().Perm() == 0o777 {
		t.Errorf("the next root is %v, %v", info.Mode(), err)
	}
	if n, err := unix.Getxattr(second, "user.left", make([]byte, 64)); err == nil {
		t.Errorf("the next root has an attribute of the former one, %d bytes", n)
	}
	if got := read(t, second, "b"); got != "2" {
		t.Errorf("b = %q", got)
	}

	write(t, second, "mine", "x")
	must(t, s.Unmount(ctx, "second"))
	if n := len(s.spare.names); n != 0 {
		t.Error("a root that was written to is to be used again")
	}
}

func TestSparesOfAFormerProcessAreFound(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	ref := reg.push(t, "app:1", image(t, layer(t, file("a", "1"))))
	data := tempDir(t)
	s := open(t, data)
	pull(t, s, ref)
	mountRoot(t, s, "c", ref)
	must(t, s.Unmount(context.Background(), "c"))
	killed := filepath.Join(s.spare.dir, "killed", upperName) // in the middle of put
	must(t, os.MkdirAll(killed, 0o755))
	write(t, killed, "secret", "x")
	must(t, s.Close())

	s = open(t, data)
	if n := len(s.spare.names); n != 1 {
		t.Errorf("%d spares, want the one that was complete", n)
	}
	if _, err := os.Lstat(filepath.Dir(killed)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a container wrote stays among the spares: %v", err)
	}
	if got := read(t, mountRoot(t, s, "d", ref), "a"); got != "1" {
		t.Errorf("a = %q", got)
	}
}
