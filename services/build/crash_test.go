package build

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"testing"
)

// TestACacheThatTheMachineCrashedWithIsNotUsed: steps do not wait for the disk, so what a
// crash left is dropped, and nothing else is.
func TestACacheThatTheMachineCrashedWithIsNotUsed(t *testing.T) {
	e := newEnv(t)
	p := e.client.paths
	dir := e.context(t, map[string]string{"Dockerfile": "FROM " + e.host + "/base/busybox\n" +
		"RUN grep -c ' / .*volatile' /proc/self/mountinfo >/volatile; date +%s%N >/when\nRUN --network=none true >/second && sync\n"})
	opt := Options{ContextDir: dir, Tags: []string{e.host + "/crash:1"}, Push: true}
	first := e.build(t, opt)
	files, _ := pulled(t, opt.Tags[0], first.Digest)
	if files["volatile"] != "1\n" {
		t.Errorf("the file system of a step waits for the disk: %q", files["volatile"])
	}
	if _, err := os.Stat(bootFile(p.dir)); err != nil {
		t.Errorf("a cache in use has no note of it: %v", err)
	}

	must(t, e.client.Stop(context.Background()))
	if _, err := os.Stat(bootFile(p.dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cache that is whole on disk has a note: %v", err)
	}
	if again := e.build(t, opt); again.Digest != first.Digest {
		t.Error("a worker that was stopped lost its cache")
	}

	must(t, e.client.Stop(context.Background()))
	must(t, os.WriteFile(bootFile(p.dir), []byte("another boot of the machine"), 0o600))
	if again := e.build(t, opt); again.Digest == first.Digest {
		t.Error("a cache was used that the machine had crashed with")
	}
}
