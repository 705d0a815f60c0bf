package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/testenv"
)

func TestADamagedDatabaseIsRefusedAndKept(t *testing.T) {
	data := tempDir(t)
	s := open(t, data)
	must(t, s.Close())
	path := filepath.Join(data, "images", "metadata.db")
	must(t, os.WriteFile(path, bytes.Repeat([]byte("damaged "), 4096), 0o600))
	before, err := os.ReadFile(path)
	must(t, err)
	if _, err := Open(Config{DataDir: data}); err == nil || hint.Of(err) == "" || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("opened: %v (hint %q)", err, hint.Of(err))
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed: %v", err)
	}
}

func TestLostLayersAreUnpackedAgain(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	ref := reg.push(t, "app:1", image(t, layer(t, file("a", "1")), layer(t, file("b", "2"))))
	s := open(t, tempDir(t))
	img := pull(t, s, ref)
	ctx := s.context(context.Background())
	must(t, s.snaps.Remove(ctx, img.chainID()))
	if got := read(t, mountRoot(t, s, "c", ref), "b"); got != "2" {
		t.Errorf("b = %q", got)
	}
}

func TestADamagedImageHidesNoOtherAndCanBePulledAgain(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	good := reg.push(t, "good:1", image(t, layer(t, file("a", "1"))))
	bad := reg.push(t, "bad:1", image(t, layer(t, file("b", "2"))))
	s := open(t, tempDir(t))
	pull(t, s, good)
	digest := strings.TrimPrefix(pull(t, s, bad).Digest, "sha256:")
	blob := filepath.Join(s.dir, "content", "blobs", "sha256", digest)
	must(t, os.Chmod(blob, 0o600))
	must(t, os.WriteFile(blob, []byte("{ not what it was"), 0o600))
	ctx := context.Background()
	list, err := s.List(ctx)
	if err != nil || len(list) != 1 || list[0].Name != good {
		t.Errorf("listed %v, %v", list, err)
	}
	if _, err := s.Get(ctx, bad); err == nil {
		t.Error("the damaged image was read")
	}
	must(t, s.Remove(ctx, bad))
	must(t, s.collect(ctx))
	pull(t, s, bad)
	if got := read(t, mountRoot(t, s, "c", bad), "b"); got != "2" {
		t.Errorf("b = %q", got)
	}
}

func TestARootThatWasNotFinishedIsMadeAgain(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	ref := reg.push(t, "app:1", image(t, layer(t, file("a", "1"))))
	data := tempDir(t)
	s := open(t, data)
	pull(t, s, ref)
	begun := filepath.Join(s.rootDir("c"), upperName) // as after a kill in the middle
	must(t, os.MkdirAll(begun, 0o755))
	write(t, begun, "junk", "x")
	root := mountRoot(t, s, "c", ref)
	if _, err := os.Stat(filepath.Join(root, "junk")); !os.IsNotExist(err) {
		t.Errorf("what the unfinished root held is there: %v", err)
	}
	must(t, os.MkdirAll(filepath.Join(s.rootDir("never"), upperName), 0o755))
	must(t, s.Close())
	s = open(t, data)
	if _, err := os.Stat(s.rootDir("never")); !os.IsNotExist(err) {
		t.Errorf("a root that nobody finished stays: %v", err)
	}
	if roots, err := s.Roots(context.Background()); err != nil || len(roots) != 1 || roots[0].ID != "c" || roots[0].Path != root {
		t.Errorf("roots %+v, %v", roots, err)
	}
}

func TestFiftyContainersStartAndStopOnOneImageAtOnce(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	ref := reg.push(t, "app:1", image(t, layer(t, file("a", "1")), layer(t, file("b", "2"))))
	s := open(t, tempDir(t))
	pull(t, s, ref)
	ctx := context.Background()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			id := fmt.Sprintf("c%d", i)
			root, err := s.Mount(ctx, id, ref, nil)
			if err != nil {
				t.Error(err)
				return
			}
			// Collections in between must not take anybody's layers.
			if i%10 == 0 {
				if err := s.collect(ctx); err != nil {
					t.Error(err)
				}
			}
			if got, err := os.ReadFile(filepath.Join(root, "b")); err != nil || string(got) != "2" {
				t.Errorf("%s: b = %q, %v", id, got, err)
			}
			if err := os.WriteFile(filepath.Join(root, "mine"), []byte(id), 0o600); err != nil {
				t.Error(err)
			}
			if bytes, _, err := s.RootUsage(ctx, id); err != nil || bytes == 0 {
				t.Errorf("%s uses %d bytes, %v", id, bytes, err)
			}
			if err := s.Unmount(ctx, id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must(t, s.Remove(ctx, ref))
	must(t, s.collect(ctx))
	if n := blobs(t, s); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
	for _, dir := range []string{"roots", "trash"} {
		if left, err := os.ReadDir(filepath.Join(s.dir, dir)); err != nil || len(left) != 0 {
			t.Errorf("%s holds %v, %v", dir, left, err)
		}
	}
}

func TestAReadOnlyRootCannotBeWritten(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	for i, layers := range [][]entry{{file("a", "1")}, {file("a", "1"), file("b", "2")}} {
		var ls []entry
		ls = append(ls, layers...)
		img := image(t, layer(t, ls...))
		if i == 1 {
			img = image(t, layer(t, ls[0]), layer(t, ls[1]))
		}
		ref := reg.push(t, fmt.Sprintf("ro:%d", i), img)
		s := open(t, tempDir(t))
		pull(t, s, ref)
		path, err := s.MountReadOnly(context.Background(), "vol", ref)
		must(t, err)
		if got := read(t, path, "a"); got != "1" {
			t.Errorf("a = %q", got)
		}
		if err := os.WriteFile(filepath.Join(path, "x"), nil, 0o600); err == nil {
			t.Error("a read-only root was written")
		}
		must(t, s.Unmount(context.Background(), "vol"))
	}
}
