package registry

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// collectEnv makes the registry of [serveEnv] collect all the time.
const collectEnv = "GANTRY_TEST_COLLECT"

func collectAlways(r *Registry) {
	for {
		if _, err := r.Collect(context.Background(), CollectOptions{UntaggedFor: 50 * time.Millisecond}); err != nil {
			fmt.Fprintln(os.Stderr, "collect:", err)
		}
	}
}

// TestKillsDuringCollectionsLoseNothing kills a registry that collects all the time while
// clients push. After each kill every tag must name, whole, what was acknowledged last or
// what was being pushed. GANTRY_KILLS says how often (make storm).
func TestKillsDuringCollectionsLoseNothing(t *testing.T) {
	dir := t.TempDir()
	tags := make([]tagHistory, 6)
	for kill := range number(t, "GANTRY_KILLS", 4) {
		at, end := killable(t, dir)
		for worker := range tags {
			tags[worker].check(t, tagRef(t, at, worker))
		}
		var acknowledged atomic.Int64
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for worker := range tags {
			all.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					if tags[worker].push(tagRef(t, at, worker), stormImage(t, worker, kill<<16+n)) {
						acknowledged.Add(1)
					}
				}
			})
		}
		eventually(t, func() bool { return acknowledged.Load() > int64(len(tags)) })
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond) // anywhere in a push and a collection
		end()
		stop()
		all.Wait()
	}
	at, _ := killable(t, dir)
	pushed := 0
	for worker := range tags {
		tags[worker].check(t, tagRef(t, at, worker))
		pushed += tags[worker].pushed
	}
	t.Logf("%d pushes were acknowledged", pushed)
	if pushed == 0 {
		t.Error("nothing was pushed, so nothing is shown")
	}
}

// killable starts a registry in a process of its own and waits until it answers.
func killable(t *testing.T, dir string) (address string, kill func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serveEnv+"="+dir, collectEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	kill = sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	t.Cleanup(kill)
	address, err = bufio.NewReader(out).ReadString('\n')
	must(t, err)
	return strings.TrimSpace(address), kill
}

func tagRef(t *testing.T, address string, worker int) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(fmt.Sprintf("%s/kill/w%d:tip", address, worker))
	must(t, err)
	return ref
}

// tagHistory is what is known of a tag.
type tagHistory struct {
	last    v1.Image   // acknowledged
	unknown []v1.Image // pushed since, without an answer
	pushed  int
}

// push moves the tag once, and tells whether that was acknowledged.
func (h *tagHistory) push(ref name.Reference, img v1.Image) bool {
	err := remote.Write(ref, img, remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
	switch {
	case err == nil:
		h.last, h.unknown = img, nil
		h.pushed++
	case blobUnknown(err): // collected between upload and manifest: refused, not lost
	default:
		h.unknown = append(h.unknown, img)
	}
	return err == nil
}

// check compares the tag with what is known of it.
func (h *tagHistory) check(t *testing.T, ref name.Reference) {
	t.Helper()
	got, err := remote.Get(ref)
	if err != nil {
		if status(err) != http.StatusNotFound || h.last != nil {
			t.Errorf("%s was acknowledged and is lost: %v", ref, err)
		}
		return
	}
	for _, img := range append(h.unknown, h.last) {
		if img == nil {
			continue
		}
		if d, err := img.Digest(); err == nil && d == got.Digest {
			h.last, h.unknown = img, nil
			verify(t, ref, img)
			return
		}
	}
	t.Errorf("%s is %s, which is neither what was acknowledged nor what was being pushed", ref, got.Digest)
}
