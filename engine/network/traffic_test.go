package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/gantryhq/gantry/engine/network/nat"
)

// traffic is what was counted, by edge.
func (c *cluster) traffic() map[Edge]nat.Counts {
	c.t.Helper()
	list, err := c.net.Traffic()
	must(c.t, err)
	out := map[Edge]nat.Counts{}
	for _, tr := range list {
		out[tr.Edge] = tr.Counts
	}
	return out
}

// TestTrafficIsCountedByServices: what pods say to services, to pods of services without an address, to pods
// that are behind none and to the outside, and what comes from there, is counted for whom it concerns.
func TestTrafficIsCountedByServices(t *testing.T) {
	c, nb := startCluster(t), addNeighbour(t)
	at, err := c.net.Attach(context.Background(), Pod{UID: "uid-web", Namespace: "shop", Name: "web-5d4-x", Workload: Workload{"Deployment", "web"}})
	must(t, err)
	web, server, lone := pod{at, c, "uid-web", "web"}, c.pod("server"), c.pod("lone")
	server.serve("tcp", 8080)
	lone.serve("tcp", 9090)
	serveIn(t, nb.netns, "world", "tcp", 443)
	c.service("cart", c.ip(100), corev1.ProtocolTCP, 80, func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
	})
	c.endpoints("cart", corev1.ProtocolTCP, 8080, server)
	c.service("empty", c.ip(101), corev1.ProtocolTCP, 80)

	const times = 5
	for range times {
		mustAsk(t, web.NetNS, "tcp", c.ip(100)+":80")
	}
	mustAsk(t, web.NetNS, "tcp", server.IP.String()+":8080")
	mustAsk(t, web.NetNS, "tcp", lone.IP.String()+":9090")
	mustAsk(t, web.NetNS, "tcp", nb.ip+":443")
	mustAsk(t, nb.netns, "tcp", nb.hostIP+":30080")
	mustRefuse(t, web.NetNS, "tcp", server.IP.String()+":8081")
	mustRefuse(t, web.NetNS, "tcp", c.ip(101)+":80")
	mustAsk(t, "", "tcp", c.ip(100)+":80") // the host's own is not counted

	from := func(namespace, service string) Edge {
		return Edge{Namespace: "shop", Workload: Workload{"Deployment", "web"}, ToNamespace: namespace, ToService: service}
	}
	got := c.traffic()
	for edge, want := range map[Edge]nat.Counts{
		from("default", "cart"):                     {Accepted: times + 1, Refused: 1}, // at its address, and at its endpoint's
		from("default", "empty"):                    {Refused: 1},
		from("default", ""):                         {Accepted: 1},
		from("", ""):                                {Accepted: 1},
		{ToNamespace: "default", ToService: "cart"}: {Accepted: 1},
	} {
		have, ok := got[edge]
		// SYN, its answer, the acknowledgement and the greeting are never less than this.
		if least := 150 * want.Accepted; have.Bytes < least || have.Bytes > 100*least && least > 0 {
			t.Errorf("%+v: %d bytes, want at least %d", edge, have.Bytes, least)
		}
		if have.Bytes = 0; have != want || !ok {
			t.Errorf("%+v: got %+v (found: %t), want %+v", edge, have, ok, want)
		}
		delete(got, edge)
	}
	if len(got) > 0 {
		t.Errorf("counted for nobody: %+v", got)
	}
}

// TestTrafficIsNotForgotten: totals only grow, when nothing happens, when the table is replaced and when
// the pod has left before anybody asked.
func TestTrafficIsNotForgotten(t *testing.T) {
	c := startCluster(t)
	client, server := c.pod("client"), c.pod("server")
	server.serve("tcp", 8080)
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80)
	c.endpoints("web", corev1.ProtocolTCP, 8080, server)
	edge := Edge{Namespace: "default", Workload: Workload{"Pod", "client"}, ToNamespace: "default", ToService: "web"}
	expect := func(when string, want uint64) {
		t.Helper()
		if got := c.traffic()[edge].Accepted; got != want {
			t.Fatalf("%s: %d connections, want %d", when, got, want)
		}
	}
	ask := func(n int) {
		t.Helper()
		for range n {
			mustAsk(t, client.NetNS, "tcp", c.ip(100)+":80")
		}
	}
	ask(3)
	expect("at first", 3)
	expect("when nothing happened", 3)
	must(t, c.net.proxy.start()) // replaces the table
	ask(2)
	expect("after the table was replaced", 5)
	ask(1)
	must(t, c.net.Detach(context.Background(), client.uid))
	expect("after the pod left", 6)
	if got := c.net.leases; len(got.all()) != 1 {
		t.Fatalf("leases: %+v", got.all())
	}
}

// TestScannersAreNotRemembered: who tries addresses where nobody answers fills no table.
func TestScannersAreNotRemembered(t *testing.T) {
	c := startCluster(t)
	scanner := c.pod("scanner")
	must(t, in(t, scanner.NetNS, func() error {
		conn, err := net.ListenPacket("udp4", ":0")
		if err != nil {
			return err
		}
		defer conn.Close()
		to := nth(c.net.plan.PodCIDR, 5000)
		for range 500 {
			// The host says at once that nobody is there, which is no failure of what is tried here.
			_, _ = conn.WriteTo([]byte("anybody?"), &net.UDPAddr{IP: to.AsSlice(), Port: 9})
			to = to.Next()
		}
		return nil
	}))
	flows, err := c.net.table.Traffic()
	must(t, err)
	if len(flows) > 0 {
		t.Errorf("%d pairs are remembered", len(flows))
	}
}

// BenchmarkTraffic reads what was counted for so many pairs.
func BenchmarkTraffic(b *testing.B) {
	for _, pairs := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(pairs), func(b *testing.B) {
			c := startCluster(b)
			client, server := c.pod("client"), c.pod("server")
			server.serve("tcp", 8080)
			services := map[nat.Frontend]nat.Target{}
			at := netip.AddrPortFrom(server.IP, 8080)
			for i := range pairs {
				services[nat.Frontend{Addr: nth(c.net.plan.ServiceCIDR, uint32(100+i)), Protocol: nat.TCP, Port: 80}] = nat.Target{Backends: []netip.AddrPort{at}}
			}
			must(b, c.net.table.Replace(services))
			for f := range services {
				mustAsk(b, client.NetNS, "tcp", fmt.Sprintf("%s:%d", f.Addr, f.Port))
			}
			before := processorTime(b)
			for b.Loop() {
				_, err := c.net.Traffic()
				must(b, err)
			}
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// BenchmarkThroughForward is the time of a message to another pod and back, of which counting is a part.
func BenchmarkThroughForward(b *testing.B) {
	c := startCluster(b)
	client, server := c.pod("client"), c.pod("server")
	server.serve("tcp", 8080)
	var conn net.Conn
	must(b, in(b, client.NetNS, func() (err error) {
		conn, err = net.DialTimeout("tcp4", server.IP.String()+":8080", time.Second)
		return err
	}))
	defer conn.Close()
	buf := make([]byte, 64)
	_, err := conn.Read(buf)
	must(b, err)
	before := processorTime(b)
	for b.Loop() {
		_, err := conn.Write([]byte("x"))
		must(b, err)
		_, err = conn.Read(buf)
		must(b, err)
	}
	b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// TestOverlookedFlowsAreNotCountedTwice: the kernel's list may lack what is there.
func TestOverlookedFlowsAreNotCountedTwice(t *testing.T) {
	flow := nat.Flow{From: netip.MustParseAddr("10.244.0.2"), To: netip.MustParseAddr("10.96.0.100")}
	var s edges
	total := func(bytes ...uint64) (sum uint64) {
		now := map[nat.Flow]nat.Counts{}
		for _, b := range bytes {
			now[flow] = nat.Counts{Bytes: b}
		}
		for _, tr := range s.take(now, func(nat.Flow) (Edge, bool) { return Edge{ToService: "web"}, true }) {
			sum += tr.Bytes
		}
		return sum
	}
	for i, step := range []struct{ total, want uint64 }{
		{total(1000), 1000},
		{total(), 1000}, // overlooked
		{total(1500), 1500},
		{total(200), 1700},                                              // counting began anew
		{total(), 1700}, {total(), 1700}, {total(), 1700}, {total(), 0}, // forgotten by the kernel
	} {
		if step.total != step.want {
			t.Errorf("reading %d: %d bytes, want %d", i, step.total, step.want)
		}
	}
}
