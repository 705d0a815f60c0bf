package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
)

// pins are the file names of berths.
func pins(berths []berth) []string {
	out := []string{}
	for _, b := range berths {
		out = append(out, b.Pin)
	}
	return out
}

func TestSparesFollowTheDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made, dropped := 0, 0
		s := newSpares(1<<16, func() (berth, error) {
			made++
			return newBerth(netip.AddrFrom4([4]byte{10, 9, byte(made >> 8), byte(made)})), nil
		}, func(berth) error { dropped++; return nil })
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = s.run(ctx) })
		expect := func(after time.Duration, ready int, why string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := len(s.all()); got != ready {
				t.Fatalf("%s: %d are ready, want %d", why, got, ready)
			}
		}
		burst := func(pods int) (hits int) {
			for range pods {
				if _, ok := s.take(); ok {
					hits++
				}
			}
			return hits
		}
		expect(impatience-1, 0, "the start belongs to others")
		expect(time.Second, fewSpares, "a few are made then")
		if hits := burst(50); hits != fewSpares {
			t.Errorf("%d pods of the first burst got a spare", hits)
		}
		expect(quiet-1, 0, "the burst belongs to the pods")
		expect(time.Second, 50, "the next burst finds as many as this one took")
		if hits := burst(50); hits != 50 {
			t.Errorf("%d pods of the second burst got a spare", hits)
		}
		expect(time.Second, 50, "made again")
		burst(200)
		expect(time.Second, manySpares, "there is a limit")
		for range 100 { // one every 100 ms is never quiet
			burst(1)
			time.Sleep(100 * time.Millisecond)
		}
		if hits := burst(1); hits != 1 {
			t.Error("pods that come one by one find no spare")
		}
		expect(2*keepMany+time.Second, fewSpares, "nobody needed so many for a long time")
		cancel()
		running.Wait()
		if taken := made - dropped - fewSpares; taken > 8+50+manySpares+101 {
			t.Errorf("%d made, %d dropped", made, dropped)
		}
	})
}

func TestSparesLeaveAddressesForPods(t *testing.T) {
	s := newSpares(29, nil, nil) // a /27
	if s.max != 3 || s.want != 3 {
		t.Errorf("%d of 29 addresses would be kept ready, up to %d", s.want, s.max)
	}
}

func TestSpareServesLikeAnyOther(t *testing.T) {
	c := startCluster(t)
	c.stock(1)
	spare := pins(c.net.spare.all())
	a, b := c.pod("a"), c.pod("b") // the second finds none left
	if filepath.Base(a.NetNS) != spare[0] || len(c.net.spare.all()) != 0 {
		t.Fatalf("the pod is in %s, ready was %s", a.NetNS, spare)
	}
	for _, pair := range [][2]pod{{a, b}, {b, a}} {
		pair[0].serve("tcp", 8080)
		if r := mustAsk(t, pair[1].NetNS, "tcp", pair[0].IP.String()+":8080"); r.client != pair[1].IP.String() {
			t.Errorf("%s was seen as %s", pair[1].IP, r.client)
		}
	}
	for _, p := range []pod{a, b} {
		must(t, c.net.Detach(context.Background(), p.uid))
	}
	c.stock(0)
	if left := pinned(t, c); len(left) != 0 {
		t.Errorf("pinned after both are gone: %v", left)
	}
	eventually(t, "neighbours are gone, addresses are free", func() bool {
		neighbours, err := netlink.NeighList(c.net.bridgeIndex, netlink.FAMILY_V4)
		must(t, err)
		return !slices.ContainsFunc(neighbours, func(n netlink.Neigh) bool { return n.State == netlink.NUD_PERMANENT }) &&
			!c.net.leases.taken(a.IP) && !c.net.leases.taken(b.IP)
	})
}

func TestSpareTakesThePodsSysctlsWithIt(t *testing.T) {
	c := startCluster(t)
	c.stock(2)
	const somaxconn, interfaceOwn = "net.core.somaxconn", "net.ipv4.conf.eth0.arp_announce"
	at, err := c.net.Attach(context.Background(), Pod{UID: "u", Namespace: "default", Name: "p",
		Sysctls: map[string]string{somaxconn: "777", interfaceOwn: "2"}})
	must(t, err)
	other := c.pod("other")
	for netns, want := range map[string][2]string{at.NetNS: {"777", "2"}, other.NetNS: {"4096", "0"}} {
		must(t, in(t, netns, func() error {
			for i, name := range []string{somaxconn, interfaceOwn} {
				got, err := sysctl{name: name}.read()
				if err != nil || got != want[i] {
					return fmt.Errorf("%s is %s, %v, want %s", name, got, err, want[i])
				}
			}
			return nil
		}))
	}
}

func TestRestartAdoptsSpares(t *testing.T) {
	c := startCluster(t)
	c.stock(3)
	before := pins(c.net.spare.all())
	c.stop()
	c.start()
	after := pins(c.net.spare.all())
	slices.Sort(before)
	slices.Sort(after)
	if !slices.Equal(before, after) {
		t.Fatalf("ready were %v, then %v", before, after)
	}
	a, b := c.pod("a"), c.pod("b")
	b.serve("tcp", 8080)
	mustAsk(t, a.NetNS, "tcp", b.IP.String()+":8080")
	if a.IP == b.IP || !slices.Contains(before, filepath.Base(a.NetNS)) {
		t.Errorf("pods at %s and %s in %s", a.IP, b.IP, a.NetNS)
	}
}

// TestRestartAfterAnyInterruption leaves what a process killed at any point of Attach and
// Detach leaves.
func TestRestartAfterAnyInterruption(t *testing.T) {
	for _, story := range []struct {
		name    string
		leave   func(t *testing.T, c *cluster, b berth)
		adopted bool
	}{
		{"the spare is complete", func(*testing.T, *cluster, berth) {}, true},
		{"its pin was not mounted yet", func(t *testing.T, c *cluster, b berth) {
			must(t, unpin(c.net.pinPath(b.Pin)))
			must(t, os.WriteFile(c.net.pinPath(b.Pin), nil, 0o444))
		}, false},
		{"the pod's sysctls were being set", func(t *testing.T, c *cluster, b berth) {
			must(t, c.net.leases.assign(lease{UID: "u", berth: b}))
		}, false},
		{"the pod's lease was being written", func(t *testing.T, c *cluster, b berth) {
			must(t, os.WriteFile(filepath.Join(leaseDir(c.dataDir), ".u-123"), []byte(`{"uid`), 0o600))
		}, true},
		{"the pod was unpinned and had its lease", func(t *testing.T, c *cluster, b berth) {
			must(t, c.net.leases.assign(lease{UID: "u", berth: b, Attached: true}))
			must(t, unpin(c.net.pinPath(b.Pin)))
		}, false},
		{"somebody took the interface away", func(t *testing.T, c *cluster, b berth) {
			l, err := netlink.LinkByName(b.Veth)
			must(t, err)
			must(t, netlink.LinkDel(l))
		}, false},
		{"an older program had made it otherwise", func(t *testing.T, c *cluster, b berth) {
			ns, err := createNetNS(&ownProc{}, nil)
			must(t, err)
			defer ns.close()
			must(t, unpin(c.net.pinPath(b.Pin)))
			must(t, ns.pin(c.net.pinPath(strings.Replace(b.Pin, berthKind, "-v0-", 1))))
		}, false},
	} {
		t.Run(story.name, func(t *testing.T) {
			c := startCluster(t)
			c.stock(1)
			b := c.net.spare.all()[0]
			c.stop()
			story.leave(t, c, b)
			c.start()
			ready := pins(c.net.spare.all())
			if adopted := slices.Contains(ready, b.Pin); adopted != story.adopted {
				t.Errorf("ready is %v", ready)
			}
			if left := pinned(t, c); len(left) != len(ready) {
				t.Errorf("pinned are %v, ready are %v", left, ready)
			}
			if _, ok := c.net.PodIP("u"); ok {
				t.Error("the pod is attached although Attach never said so")
			}
			entries, err := os.ReadDir(leaseDir(c.dataDir))
			must(t, err)
			if len(entries) != 0 {
				t.Errorf("leases are left: %v", entries)
			}
			eventually(t, "no neighbour entry without a berth", func() bool {
				neighbours, err := netlink.NeighList(c.net.bridgeIndex, netlink.FAMILY_V4)
				must(t, err)
				return story.adopted || !slices.ContainsFunc(neighbours, func(n netlink.Neigh) bool { return n.State == netlink.NUD_PERMANENT })
			})
			p, q := c.pod("p"), c.pod("q")
			q.serve("tcp", 80)
			mustAsk(t, p.NetNS, "tcp", q.IP.String()+":80")
		})
	}
}

func TestLeaseOfAnOlderProgramIsKept(t *testing.T) {
	c := startCluster(t)
	p := c.pod("p")
	c.stop()
	// The pin had the pod's name, and the lease did not say so.
	le, _ := c.net.leases.get(p.uid)
	must(t, os.WriteFile(c.net.pinPath(p.uid), nil, 0o444))
	run(t, "mount", "--bind", p.NetNS, c.net.pinPath(p.uid))
	must(t, unpin(p.NetNS))
	old := fmt.Sprintf(`{"uid":%q,"namespace":"default","name":"p","ip":%q,"veth":%q,"attached":true}`, le.UID, le.IP, le.Veth)
	must(t, os.WriteFile(filepath.Join(leaseDir(c.dataDir), p.uid), []byte(old), 0o600))
	c.start()
	if again := c.pod("p"); again.IP != p.IP || again.NetNS != c.net.pinPath(p.uid) {
		t.Errorf("the pod moved from %+v to %+v", p.Attachment, again.Attachment)
	}
	must(t, c.net.Detach(context.Background(), p.uid))
	if left := pinned(t, c); len(left) != 0 {
		t.Errorf("pinned: %v", left)
	}
}

func TestFailedAttachLeavesNothing(t *testing.T) {
	c := startCluster(t)
	c.stock(1)
	c.pod("first", HostPort{HostPort: 9090, ContainerPort: 80})
	serveIn(t, "", "somebody", "tcp", 9191)
	_, err := c.net.Attach(context.Background(), Pod{UID: "u", Namespace: "default", Name: "p",
		HostPorts: []HostPort{{HostPort: 9191, ContainerPort: 80, Protocol: corev1.ProtocolTCP}}})
	if !errors.Is(err, errPortTaken) || !strings.HasPrefix(err.Error(), "attach pod default/p: ") {
		t.Fatalf("got %v", err)
	}
	if left := pinned(t, c); len(left) != 1 {
		t.Errorf("pinned: %v", left)
	}
	if _, ok := c.net.PodIP("u"); ok {
		t.Error("the pod has an address")
	}
}
