package driver

import (
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
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
			if _, err := h.driver.List(h.context()); err != nil { // an idle shim may have ended
				b.Fatal(err)
			}
			debug.FreeOSMemory()
			latency := make([]time.Duration, b.N)
			before := cpuUsage(b, h.shimPID())
			b.ResetTimer()
			began := time.Now()
			h.atATime(8, b.N, func(i int) error {
				start := time.Now()
				_, err := h.driver.Start(h.context(), containers[i])
				latency[i] = time.Since(start)
				return err
			})
			started, start := time.Since(began), cpuUsage(b, h.shimPID()).since(before)
			memory := h.shimMemory()
			h.atATime(8, b.N, func(i int) error { return h.driver.Remove(h.context(), containers[i].ID) })
			b.StopTimer()
			whole := cpuUsage(b, h.shimPID()).since(before)
			perContainer := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(b.N) }
			slices.Sort(latency)
			b.ReportMetric(perContainer(whole.sum()), "cpu-ms")
			b.ReportMetric(perContainer(start.driver), "cpu-ms:driver-start")
			b.ReportMetric(perContainer(whole.driver-start.driver), "cpu-ms:driver-remove")
			b.ReportMetric(perContainer(start.shim), "cpu-ms:shim-start")
			b.ReportMetric(perContainer(whole.shim-start.shim), "cpu-ms:shim-remove")
			b.ReportMetric(perContainer(whole.ended), "cpu-ms:processes")
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
			before := cpuUsage(b, h.shimPID())
			for b.Loop() {
				if _, err := h.driver.Exec(h.context(), c.ID, runtime.Exec{Args: []string{"/bin/true"}}, runtime.Streams{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuUsage(b, h.shimPID()).since(before).sum().Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// idlers are containers with limits that sleep, each in the namespaces of a pod
// of its own, as the node agent makes them.
func (h *host) idlers(n int) []*runtime.Container {
	h.t.Helper()
	containers := make([]*runtime.Container, n)
	for i := range containers {
		c := h.container("")
		c.CgroupParent = ""
		c.Args = []string{"/bin/sleep", "1000"}
		c.Resources = runtime.Resources{MemoryLimit: 64 << 20, CPUShares: 128, PidsLimit: 1000}
		c.Namespaces = h.podNamespaces(c.ID)
		containers[i] = c
	}
	return containers
}

// podNamespaces makes and pins the namespaces that the containers of a pod share.
func (h *host) podNamespaces(name string) runtime.Namespaces {
	h.t.Helper()
	dir := filepath.Join(h.dir, "pods", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with its namespaces
		err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
		for _, kind := range []string{"net", "ipc", "uts"} {
			path := filepath.Join(dir, kind)
			if err == nil {
				err = os.WriteFile(path, nil, 0o600)
			}
			if err == nil {
				err = unix.Mount("/proc/thread-self/ns/"+kind, path, "", unix.MS_BIND, "")
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		for _, kind := range []string{"net", "ipc", "uts"} {
			if err := unix.Unmount(filepath.Join(dir, kind), unix.MNT_DETACH); err != nil {
				h.t.Error(err)
			}
		}
	})
	return runtime.Namespaces{Net: filepath.Join(dir, "net"), IPC: filepath.Join(dir, "ipc"), UTS: filepath.Join(dir, "uts")}
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

// usage is CPU time by who used it.
type usage struct {
	driver, shim time.Duration
	ended        time.Duration // what the shim ran, as far as it has ended
}

func (u usage) sum() time.Duration { return u.driver + u.shim + u.ended }

func (u usage) since(before usage) usage {
	return usage{u.driver - before.driver, u.shim - before.shim, u.ended - before.ended}
}

func cpuUsage(t testing.TB, shim int) usage {
	t.Helper()
	var self unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &self); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", shim))
	if err != nil {
		t.Fatal(err)
	}
	// utime, stime, cutime and cstime, in ticks of 10 ms.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))[11:15]
	ticks := func(field string) (n time.Duration) {
		fmt.Sscan(field, &n)
		return n * 10 * time.Millisecond
	}
	return usage{
		driver: time.Duration(self.Utime.Nano() + self.Stime.Nano()),
		shim:   ticks(fields[0]) + ticks(fields[1]),
		ended:  ticks(fields[2]) + ticks(fields[3]),
	}
}
