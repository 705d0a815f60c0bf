package image

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/testenv"
)

// envCrash makes the test binary pull an image and end: "DATADIR REF".
const envCrash = "IMAGE_TEST_CRASHING_PULL"

func TestMain(m *testing.M) {
	if data, ref, ok := strings.Cut(os.Getenv(envCrash), " "); ok {
		s, err := Open(Config{DataDir: data})
		if err == nil {
			_, err = s.Pull(context.Background(), ref, PullOptions{})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return // without Close: the process just ends
	}
	os.Exit(m.Run())
}

func TestAPullKilledAtAnyRequestIsForgottenAndCanBeRepeated(t *testing.T) {
	testenv.NeedRoot(t)
	reg := newRegistry(t)
	noise := rand.New(rand.NewPCG(1, 2))
	random := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(noise.Uint32())
		}
		return string(b)
	}
	ref := reg.push(t, "app:1", image(t,
		layer(t, file("one", random(1<<20))), layer(t, file("two", random(1<<20))), layer(t, file("three", random(1<<20)))))
	data := tempDir(t)

	completed, kills := false, 0
	for killAt := int64(1); !completed; killAt++ {
		var requests atomic.Int64
		// One that hangs says where, and does not take the rest of the tests with it.
		limited, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		child := exec.CommandContext(limited, os.Args[0])
		child.Cancel = func() error { return child.Process.Signal(syscall.SIGQUIT) }
		child.WaitDelay = 10 * time.Second
		child.Env = append(os.Environ(), envCrash+"="+data+" "+ref)
		var complaint bytes.Buffer
		child.Stderr = &complaint
		started := make(chan struct{})
		var killed atomic.Bool
		reg.before = func(*http.Request) {
			if requests.Add(1) == killAt {
				<-started
				killed.Store(true)
				if err := child.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
		}
		must(t, child.Start())
		close(started)
		completed = child.Wait() == nil
		if limited.Err() != nil {
			t.Fatalf("after %d kills the pull hung: %s", kills, complaint.String())
		}
		cancel()
		if !completed && !killed.Load() {
			t.Fatalf("after %d kills the pull failed by itself: %s", kills, complaint.String())
		}
		if !completed {
			kills++
		}
	}
	if kills < 3 {
		t.Errorf("the pull was killed only %d times", kills)
	}
	reg.before = nil

	s := open(t, data)
	pull(t, s, ref)
	root := mountRoot(t, s, "c", ref)
	for _, name := range []string{"one", "two", "three"} {
		if got := read(t, root, name); len(got) != 1<<20 {
			t.Errorf("%s has %d bytes", name, len(got))
		}
	}
	ctx := context.Background()
	must(t, s.Unmount(ctx, "c"))
	must(t, s.Remove(ctx, ref))
	must(t, s.collect(ctx))
	if n := blobs(t, s); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
	layers, err := os.ReadDir(filepath.Join(s.dir, "overlay", "snapshots"))
	if err != nil || len(layers) != 0 {
		t.Errorf("%d layers are left, %v", len(layers), err)
	}
}
