package bench

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

// starts is how often each kind of start is measured.
const starts = 5

// BenchmarkReady measures how long `gantry serve` takes until everything can be
// used: on a new data directory, and again on the same one.
func BenchmarkReady(b *testing.B) {
	testenv.NeedContainers(b)
	for b.Loop() {
		var first, again []time.Duration
		for range starts {
			b.Run("", func(b *testing.B) { // a scope of its own, so that each instance ends before the next starts
				in := instance.Start(b, instance.Options{})
				first = append(first, in.ReadyAfter)
				in.Stop(b, syscall.SIGTERM)
				in.Serve(b)
				again = append(again, in.ReadyAfter)
			})
		}
		fmt.Printf("ready, first start: median %v of %v\nready, later start: median %v of %v\n", median(first), first, median(again), again)
	}
}

func median(d []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[len(sorted)/2]
}
