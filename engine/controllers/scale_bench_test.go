package controllers_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/test/timeline"
)

// BenchmarkScale measures what the control plane costs when a deployment
// behind a service grows and shrinks: wall time until every pod is an endpoint
// (or gone), and CPU of the whole process per pod. The node is pretended, so
// no container is in these numbers, but its API calls are.
func BenchmarkScale(b *testing.B) {
	c := startCluster(b)
	line := c.scalable(b)
	for _, step := range []struct{ from, to int }{{1, 50}, {50, 51}, {50, 1}, {2, 200}} {
		title := fmt.Sprintf("%dto%d", step.from, step.to)
		b.Run(title, func(b *testing.B) {
			var cpu time.Duration
			var took []time.Duration
			var stages [][]timeline.Row
			pods := max(step.to-step.from, step.from-step.to)
			for b.Loop() {
				c.scaled(b, line, step.from)
				settle(b.Context(), b)
				before := processCPU()
				took = append(took, c.scaled(b, line, step.to))
				stages = append(stages, line.Rows())
				settle(b.Context(), b) // what follows, such as events and status, counts as CPU but not as time
				cpu += processCPU() - before
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
			b.ReportMetric(float64(cpu.Microseconds())/1000/float64(b.N*pods), "cpu-ms/pod")
			b.ReportMetric(0, "ns/op")
			timeline.PrintMedian(os.Stderr, "\n"+title, stages)
		})
	}
}

// scalable makes the deployment "web" with its service, and follows it.
func (c *cluster) scalable(b *testing.B) *timeline.Timeline {
	b.Helper()
	c.namespace(b, "bench")
	c.deployment(b, "bench", "web", 1)
	if _, err := c.CoreV1().Services("bench").Create(b.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	line, err := timeline.Follow(b.Context(), c, "bench", "web")
	if err != nil {
		b.Fatal(err)
	}
	return line
}

// scaled answers how long it took until the deployment has n pods and all are
// endpoints.
func (c *cluster) scaled(b *testing.B, line *timeline.Timeline, n int) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	line.Begin()
	began := time.Now()
	c.scale(b, "bench", "web", n)
	if err := line.Wait(ctx, n); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

// settle waits until the process has been nearly idle for a while.
func settle(ctx context.Context, b *testing.B) {
	b.Helper()
	for quiet := 0; quiet < 3 && ctx.Err() == nil; quiet++ {
		before := processCPU()
		time.Sleep(100 * time.Millisecond)
		if processCPU()-before > 5*time.Millisecond {
			quiet = -1
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

// BenchmarkIdle measures the control plane when nothing happens: memory and
// CPU. It includes the API server and the store.
func BenchmarkIdle(b *testing.B) {
	startCluster(b)
	const watch = 10 * time.Second
	for b.Loop() {
		settle(b.Context(), b)
		debug.FreeOSMemory()
		before := processCPU()
		time.Sleep(watch)
		b.ReportMetric(float64((processCPU()-before).Microseconds())/1000/watch.Seconds(), "cpu-ms/s")
		for _, field := range []string{"RssAnon", "RssFile"} {
			b.ReportMetric(residentMB(b, field), field+"-MB")
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MB")
		b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
	}
}

func residentMB(b *testing.B, field string) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip(err)
	}
	_, rest, found := strings.Cut(string(status), field+":")
	var kb float64
	if _, err := fmt.Sscan(rest, &kb); !found || err != nil {
		b.Skipf("no %s in /proc/self/status: %v", field, err)
	}
	return kb / 1024
}
