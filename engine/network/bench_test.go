package network

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/network/nat"
)

// BenchmarkAttach attaches many pods at once and detaches them, with so many at work at
// a time. It reports the processor time of this process, kernel included, per pod.
func BenchmarkAttach(b *testing.B) {
	for _, pods := range []int{50, 200} {
		for _, atOnce := range []int{1, 8, 50} {
			for _, ready := range []int{0, pods} {
				b.Run(fmt.Sprintf("%d pods, %d at once, %d ready", pods, atOnce, ready), func(b *testing.B) { benchmarkAttach(b, pods, atOnce, ready) })
			}
		}
	}
}

func benchmarkAttach(b *testing.B, pods, atOnce, ready int) {
	c := startCluster(b)
	ctx := context.Background()
	var attaching, detaching, attachCPU, detachCPU time.Duration
	timed := func(wall, cpu *time.Duration, f func()) {
		start, before := time.Now(), processorTime(b)
		f()
		*wall += time.Since(start)
		*cpu += processorTime(b) - before
	}
	for round := 0; b.Loop(); round++ {
		c.stock(ready)
		each := func(f func(uid string) error) {
			var wg sync.WaitGroup
			slots := make(chan struct{}, atOnce)
			for i := range pods {
				slots <- struct{}{}
				wg.Go(func() {
					defer func() { <-slots }()
					if err := f(fmt.Sprintf("uid-%d-%d", round, i)); err != nil {
						b.Error(err)
					}
				})
			}
			wg.Wait()
		}
		timed(&attaching, &attachCPU, func() {
			each(func(uid string) error {
				_, err := c.net.Attach(ctx, Pod{UID: uid, Namespace: "default", Name: uid})
				return err
			})
		})
		timed(&detaching, &detachCPU, func() {
			each(func(uid string) error { return c.net.Detach(ctx, uid) })
		})
		waitForNoPods(b, c)
	}
	perPod := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(b.N*pods) }
	perRound := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(b.N) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(perRound(attaching), "attach-ms")
	b.ReportMetric(perRound(detaching), "detach-ms")
	b.ReportMetric(perPod(attachCPU), "attach-cpu-µs/pod")
	b.ReportMetric(perPod(detachCPU), "detach-cpu-µs/pod")
}

// processorTime is what this process has used, in user and in kernel mode.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDetachFifty takes 50 pods off the network at once.
func BenchmarkDetachFifty(b *testing.B) {
	c := startCluster(b)
	ctx := context.Background()
	for round := 0; b.Loop(); round++ {
		b.StopTimer()
		var uids []string
		for i := range 50 {
			uid := fmt.Sprintf("uid-%d-%d", round, i)
			_, err := c.net.Attach(ctx, Pod{UID: uid, Namespace: "default", Name: uid})
			must(b, err)
			uids = append(uids, uid)
		}
		b.StartTimer()
		var wg sync.WaitGroup
		for _, uid := range uids {
			wg.Go(func() {
				if err := c.net.Detach(ctx, uid); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		b.StopTimer()
		waitForNoPods(b, c)
		b.StartTimer()
	}
}

// BenchmarkAttachOne is the time one pod waits for its network.
func BenchmarkAttachOne(b *testing.B) {
	c := startCluster(b)
	ctx := context.Background()
	i := 0
	for b.Loop() {
		uid := fmt.Sprint("uid-", i)
		i++
		if _, err := c.net.Attach(ctx, Pod{UID: uid, Namespace: "default", Name: uid}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		must(b, c.net.Detach(ctx, uid))
		waitForNoPods(b, c)
		b.StartTimer()
	}
}

// waitForNoPods keeps the kernel's work of deleting namespaces out of the measurement.
func waitForNoPods(b *testing.B, c *cluster) {
	b.Helper()
	eventually(b, "interfaces are gone", func() bool {
		links, err := listLinks()
		must(b, err)
		ports := 0
		for _, l := range links {
			if l.Attrs().MasterIndex == c.net.bridgeIndex {
				ports++
			}
		}
		return ports <= len(c.net.spare.all())
	})
}

// stock makes so many berths ready, none with 0, and sees to it that no more are made.
func (c *cluster) stock(many int) {
	c.t.Helper()
	s := c.net.spare
	s.mu.Lock()
	s.max, s.want = many, many
	s.mu.Unlock()
	for b, ok := s.take(); ok; b, ok = s.take() {
		must(c.t, c.net.dropBerth(b))
	}
	for range many {
		b, err := s.make()
		must(c.t, err)
		s.mu.Lock()
		s.idle = append(s.idle, b)
		s.mu.Unlock()
	}
}

// BenchmarkEndpointUpdate swaps, adds and removes one of 50 endpoints of one service
// among many.
func BenchmarkEndpointUpdate(b *testing.B) {
	for _, services := range []int{1, 1000} {
		for _, kind := range []string{"swap", "add and remove"} {
			b.Run(fmt.Sprintf("%s, %d services", kind, services), func(b *testing.B) {
				benchmarkEndpointUpdate(b, services, kind == "swap", 0)
			})
		}
	}
}

// BenchmarkEndpointUpdateWithAffinity swaps one of 50 endpoints of a service whose
// clients keep theirs, among others of its kind.
func BenchmarkEndpointUpdateWithAffinity(b *testing.B) {
	for _, services := range []int{1, 10} {
		b.Run(fmt.Sprintf("%d services", services), func(b *testing.B) {
			benchmarkEndpointUpdate(b, services, true, time.Minute)
		})
	}
}

func benchmarkEndpointUpdate(b *testing.B, services int, swap bool, affinity time.Duration) {
	c := startCluster(b)
	backends := func(from, n int) []netip.AddrPort {
		var out []netip.AddrPort
		for i := range n {
			out = append(out, netip.AddrPortFrom(nth(c.net.PodCIDR(), uint32(from+i+2)), 8080))
		}
		return out
	}
	frontend := func(i int) nat.Frontend {
		return nat.Frontend{Addr: nth(c.net.ServiceCIDR(), uint32(i+100)), Protocol: nat.TCP, Port: 80}
	}
	all := map[nat.Frontend]nat.Target{}
	for i := range services {
		all[frontend(i)] = nat.Target{Backends: backends(0, 50), Affinity: affinity}
	}
	must(b, c.net.table.Replace(all))
	variants := [][]netip.AddrPort{backends(0, 50), backends(1, 50)}
	if !swap {
		variants[1] = backends(0, 51)
	}
	i := 0
	for b.Loop() {
		i++
		must(b, c.net.table.Apply(map[nat.Frontend]*nat.Target{frontend(i / 2 % services): {Backends: variants[i%2], Affinity: affinity}}))
	}
}
