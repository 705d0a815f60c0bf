package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/gantryhq/gantry/engine/network/nat"
)

// BenchmarkAttachFifty attaches 50 pods at once and detaches them.
func BenchmarkAttachFifty(b *testing.B) {
	c := startCluster(b)
	round := 0
	each := func(f func(uid string) error) {
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				if err := f(fmt.Sprintf("uid-%d-%d", round, i)); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
	ctx := context.Background()
	for b.Loop() {
		each(func(uid string) error {
			_, err := c.net.Attach(ctx, Pod{UID: uid, Namespace: "default", Name: uid})
			return err
		})
		b.StopTimer()
		each(func(uid string) error { return c.net.Detach(ctx, uid) })
		round++
		waitForNoPods(b, c)
		b.StartTimer()
	}
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
		return !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().MasterIndex == c.net.bridgeIndex })
	})
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
