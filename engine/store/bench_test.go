package store_test

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gantryhq/gantry/engine/store"
)

// BenchmarkWrite measures 3 KB updates over 1,000 keys: wall time and CPU of
// the whole process per write, with 1 and with 64 concurrent writers.
func BenchmarkWrite(b *testing.B) {
	data := make([]byte, 3000)
	for _, relaxed := range []bool{false, true} {
		for _, writers := range []int{1, 64} {
			b.Run(fmt.Sprintf("relaxed=%t/writers=%d", relaxed, writers), func(b *testing.B) {
				s := open(b, filepath.Join(b.TempDir(), "state.db"), store.Options{})
				var n atomic.Int64
				b.SetParallelism(writers) // times GOMAXPROCS
				cpu := processCPU()
				b.ResetTimer()
				write := func() {
					key := fmt.Sprintf("/r/%03d", n.Add(1)%1000)
					if _, err := s.Update(b.Context(), key, store.Any, store.Value{Data: data, Relaxed: relaxed}); err != nil {
						b.Error(err)
					}
				}
				if writers == 1 {
					for b.Loop() {
						write()
					}
				} else {
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							write()
						}
					})
				}
				b.ReportMetric(float64((processCPU()-cpu).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

func BenchmarkList(b *testing.B) {
	s := fresh(b)
	for i := range 1000 {
		if _, err := s.Update(b.Context(), fmt.Sprintf("/r/%03d", i), store.Any, store.Value{Relaxed: true}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if l, err := s.List("/r/", store.ListOptions{}); err != nil || len(l.Entries) != 1000 {
			b.Fatal(err)
		}
	}
}

func processCPU() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
