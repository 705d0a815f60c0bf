package controllers_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BenchmarkScale measures what the control plane costs when a deployment
// behind a service grows and shrinks: wall time until every pod is an endpoint
// (or gone), and CPU of the whole process per pod. The node is pretended, so
// no container is in these numbers, but its API calls are.
func BenchmarkScale(b *testing.B) {
	c := startCluster(b)
	c.namespace(b, "bench")
	c.deployment(b, "bench", "web", 1)
	if _, err := c.CoreV1().Services("bench").Create(b.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	for _, step := range []struct{ from, to int }{{1, 50}, {50, 51}, {50, 1}, {2, 200}} {
		b.Run(fmt.Sprintf("%dto%d", step.from, step.to), func(b *testing.B) {
			var cpu time.Duration
			pods := max(step.to-step.from, step.from-step.to)
			for b.Loop() {
				b.StopTimer()
				c.scaled(b, step.from)
				settle(b.Context(), b)
				before := processCPU()
				b.StartTimer()
				c.scaled(b, step.to)
				b.StopTimer()
				settle(b.Context(), b) // what follows, such as events and status, counts as CPU but not as time
				cpu += processCPU() - before
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms")
			b.ReportMetric(float64(cpu.Microseconds())/1000/float64(b.N*pods), "cpu-ms/pod")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// scaled returns when the deployment has n pods and all are endpoints.
func (c *cluster) scaled(b *testing.B, n int) {
	b.Helper()
	w, err := c.DiscoveryV1().EndpointSlices("bench").Watch(b.Context(), metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	c.scale(b, "bench", "web", n)
	deadline := time.After(time.Minute)
	for c.readyEndpoints(b, "bench", "web") != n {
		select {
		case <-w.ResultChan():
		case <-deadline:
			b.Fatalf("%d endpoints after a minute, want %d", c.readyEndpoints(b, "bench", "web"), n)
		}
	}
	eventually(b, "replicas", func() string {
		if got := len(c.pods(b, "bench", "app=web")); got != n {
			return fmt.Sprintf("%d pods, want %d", got, n)
		}
		return ""
	})
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
