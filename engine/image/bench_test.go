package image

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/testenv"
)

// BenchmarkMount is the store's share of starting and removing a container.
func BenchmarkMount(b *testing.B) {
	testenv.NeedRoot(b)
	s := open(b, tempDir(b))
	reg := newRegistry(b)
	ref := reg.push(b, "app:1", image(b, layer(b, file("a", "1")), layer(b, file("b", "2"))))
	ctx := context.Background()
	pull(b, s, ref)
	i := 0
	for b.Loop() {
		id := fmt.Sprintf("c%d", i)
		i++
		root, err := s.Mount(ctx, id, ref, nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Unmount(ctx, id); err != nil {
			b.Fatal(err)
		}
		_ = unix.Unmount(root, unix.MNT_DETACH) // gone already
	}
}

func TestAnIdleStoreIsSmall(t *testing.T) {
	testenv.NeedRoot(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := open(t, tempDir(t))
	waitFor(t, func() bool { return len(s.collector.wake) == 0 })
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := int64(after.HeapInuse) - int64(before.HeapInuse)
	t.Logf("heap grew by %d KiB", grown>>10)
	if grown > 4<<20 {
		t.Errorf("an idle store holds %d KiB", grown>>10)
	}
}
