package runc

import (
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// BenchmarkLife measures start, exit and removal of containers, eight at a time,
// with each way of starting them in the same run. CPU counts the driver, the
// shim, what it runs, and the containers, which do nothing but begin and end;
// latency is how long one start takes for its caller.
func BenchmarkLife(b *testing.B) {
	for _, handler := range handlers {
		b.Run(handler, func(b *testing.B) {
			h := newHostOf(b, handler)
			containers := h.idlers(b.N)
			debug.FreeOSMemory()
			latency := make([]time.Duration, b.N)
			before := cpuTime(b, h.shimPID())
			b.ResetTimer()
			began := time.Now()
			h.atATime(8, b.N, func(i int) error {
				start := time.Now()
				_, err := h.driver.Start(h.context(), containers[i])
				latency[i] = time.Since(start)
				return err
			})
			started, startCPU := time.Since(began), cpuTime(b, h.shimPID())-before
			memory := h.shimMemory()
			h.atATime(8, b.N, func(i int) error { return h.driver.Remove(h.context(), containers[i].ID) })
			b.StopTimer()
			all := cpuTime(b, h.shimPID()) - before
			perContainer := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(b.N) }
			slices.Sort(latency)
			b.ReportMetric(perContainer(startCPU), "cpu-ms/start")
			b.ReportMetric(perContainer(all-startCPU), "cpu-ms/remove")
			b.ReportMetric(perContainer(started), "wall-ms/start")
			b.ReportMetric(float64(latency[b.N/2].Microseconds())/1000, "latency-ms")
			b.ReportMetric(float64(memory), "shim-KB")
		})
	}
}

// BenchmarkExec measures processes that enter a container, one after the other.
func BenchmarkExec(b *testing.B) {
	for _, handler := range handlers {
		b.Run(handler, func(b *testing.B) {
			h := newHostOf(b, handler)
			c := h.container("exec sleep 1000")
			h.start(c)
			before := cpuTime(b, h.shimPID())
			for b.Loop() {
				if _, err := h.driver.Exec(h.context(), c.ID, runtime.Exec{Args: []string{"/bin/true"}}, runtime.Streams{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpuTime(b, h.shimPID())-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// idlers are containers with limits that sleep.
func (h *host) idlers(n int) []*runtime.Container {
	containers := make([]*runtime.Container, n)
	for i := range containers {
		containers[i] = h.container("")
		containers[i].Args = []string{"/bin/sleep", "1000"}
		containers[i].Resources = runtime.Resources{MemoryLimit: 64 << 20, CPUShares: 128, PidsLimit: 1000}
	}
	return containers
}

// atATime calls f for 0 to n-1, some at once.
func (h *host) atATime(width, n int, f func(i int) error) {
	h.t.Helper()
	next := make(chan int)
	done := make(chan error, width)
	for range width {
		go func() {
			var failed error
			for i := range next {
				if err := f(i); err != nil {
					failed = err
				}
			}
			done <- failed
		}()
	}
	for i := range n {
		next <- i
	}
	close(next)
	for range width {
		if err := <-done; err != nil {
			h.t.Fatal(err)
		}
	}
}

// cpuTime is what this process and the shim with all its ended children have used.
func cpuTime(t testing.TB, shim int) time.Duration {
	t.Helper()
	var self unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &self); err != nil {
		t.Fatal(err)
	}
	total := time.Duration(self.Utime.Nano() + self.Stime.Nano())
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", shim))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime in ticks of 10 ms
		var ticks int
		fmt.Sscan(field, &ticks)
		total += time.Duration(ticks) * 10 * time.Millisecond
	}
	return total
}
