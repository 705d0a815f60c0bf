package network

import (
	"context"
	"errors"
	"os"
	"regexp"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func TestPodsReachEachOther(t *testing.T) {
	c := startCluster(t)
	a, b := c.pod("a"), c.pod("b")
	b.serve("tcp", 8080)
	if got := mustAsk(t, a.NetNS, "tcp", b.IP.String()+":8080"); got != (reply{"b", a.IP.String()}) {
		t.Fatalf("got %+v", got)
	}
	if got := mustAsk(t, "", "tcp", b.IP.String()+":8080"); got != (reply{"b", a.Gateway.String()}) {
		t.Fatalf("from the host: got %+v", got)
	}
}

func TestClusterIP(t *testing.T) {
	needNetwork(t)
	for _, filterBridged := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+filterBridged, func(t *testing.T) {
			err := sysctl{"net.bridge.bridge-nf-call-iptables", filterBridged}.write()
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			testClusterIP(t)
		})
	}
}

func testClusterIP(t *testing.T) {
	c := startCluster(t)
	client, server := c.pod("client"), c.pod("server")
	server.serve("tcp", 8080)
	server.serve("udp", 5353)
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80)
	c.endpoints("web", corev1.ProtocolTCP, 8080, server)
	c.service("time", c.ip(101), corev1.ProtocolUDP, 53)
	c.endpoints("time", corev1.ProtocolUDP, 5353, server)

	if got := mustAsk(t, client.NetNS, "tcp", c.ip(100)+":80"); got != (reply{"server", client.IP.String()}) {
		t.Errorf("from a pod: got %+v, want the client's own address", got)
	}
	if got := mustAsk(t, client.NetNS, "udp", c.ip(101)+":53"); got != (reply{"server", client.IP.String()}) {
		t.Errorf("UDP from a pod: got %+v", got)
	}
	if got := mustAsk(t, "", "tcp", c.ip(100)+":80"); got.server != "server" {
		t.Errorf("from the host: got %+v", got)
	}
	if got := mustAsk(t, server.NetNS, "tcp", c.ip(100)+":80"); got.server != "server" {
		t.Errorf("from itself: got %+v", got)
	}
	mustRefuse(t, client.NetNS, "tcp", c.ip(100)+":81")
	mustRefuse(t, client.NetNS, "tcp", c.ip(200)+":80")
	mustRefuse(t, "", "tcp", c.ip(200)+":80")
}

// TestServiceOfTheHost is how pods reach the API server: the endpoint is the host's own
// address on the bridge.
func TestServiceOfTheHost(t *testing.T) {
	c := startCluster(t)
	client := c.pod("client")
	host := pod{Attachment: Attachment{IP: c.net.GatewayIP()}, c: c}
	serveIn(t, "", "api", "tcp", 16443)
	c.service("kubernetes", c.ip(1), corev1.ProtocolTCP, 443)
	c.endpoints("kubernetes", corev1.ProtocolTCP, 16443, host)
	if got := mustAsk(t, client.NetNS, "tcp", c.ip(1)+":443"); got != (reply{"api", client.IP.String()}) {
		t.Errorf("from a pod: got %+v", got)
	}
	if got := mustAsk(t, "", "tcp", c.ip(1)+":443"); got.server != "api" {
		t.Errorf("from the host: got %+v", got)
	}
}

func TestRefusedWithoutEndpoints(t *testing.T) {
	c := startCluster(t)
	client, server := c.pod("client"), c.pod("server")
	server.serve("tcp", 8080)
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80, nodePort(30080))
	for range 2 {
		mustRefuse(t, client.NetNS, "tcp", c.ip(100)+":80")
		mustRefuse(t, client.NetNS, "udp", c.ip(100)+":80")
		mustRefuse(t, "", "tcp", c.ip(100)+":80")
		mustRefuse(t, "", "tcp", "127.0.0.1:30080")
		c.endpoints("web", corev1.ProtocolTCP, 8080, server)
		mustAsk(t, client.NetNS, "tcp", c.ip(100)+":80")
		mustAsk(t, "", "tcp", "127.0.0.1:30080")
		c.endpoints("web", corev1.ProtocolTCP, 8080)
	}
}

func nodePort(port int32) serviceOption {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = port
	}
}

func TestNodePortOnEveryHostAddress(t *testing.T) {
	nb := addNeighbour(t)
	c := startCluster(t)
	client, server := c.pod("client"), c.pod("server")
	server.serve("tcp", 8080)
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80, nodePort(30080))
	c.endpoints("web", corev1.ProtocolTCP, 8080, server)

	for _, tc := range []struct{ what, netns, addr, client string }{
		{"another machine", nb.netns, nb.hostIP, nb.ip},
		{"the host at its address", "", nb.hostIP, nb.hostIP},
		{"the host at 127.0.0.1", "", "127.0.0.1", server.Gateway.String()},
		{"a pod at the host's address", client.NetNS, nb.hostIP, client.IP.String()},
		{"a pod at the gateway", client.NetNS, server.Gateway.String(), client.IP.String()},
	} {
		if got := mustAsk(t, tc.netns, "tcp", tc.addr+":30080"); got != (reply{"server", tc.client}) {
			t.Errorf("%s: got %+v, want the client address %s", tc.what, got, tc.client)
		}
	}
}

func TestHostLoopbackIsClosedToPods(t *testing.T) {
	c := startCluster(t)
	p := c.pod("p")
	serveIn(t, "", "host", "tcp", 18080)
	must(t, in(t, p.NetNS, func() error { return sysctl{"net.ipv4.conf.eth0.route_localnet", "1"}.write() }))
	must(t, in(t, p.NetNS, func() error { return replaceLocalRoute(p.Gateway) }))
	if got, err := ask(t, p.NetNS, "tcp", "127.0.0.1:18080"); err == nil {
		t.Fatalf("a pod reached the host's loopback: %+v", got)
	}
	if got := mustAsk(t, p.NetNS, "tcp", p.Gateway.String()+":18080"); got.server != "host" {
		t.Fatalf("the gateway address: got %+v", got)
	}
}

func TestLoadBalancer(t *testing.T) {
	nb := addNeighbour(t)
	c := startCluster(t)
	server := c.pod("server")
	server.serve("tcp", 8080)
	lb := func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer }
	c.service("web", c.ip(100), corev1.ProtocolTCP, 8443, lb)
	c.endpoints("web", corev1.ProtocolTCP, 8080, server)
	if got := mustAsk(t, nb.netns, "tcp", nb.hostIP+":8443"); got != (reply{"server", nb.ip}) {
		t.Errorf("got %+v", got)
	}
	eventually(t, "the address is in the status", func() bool {
		s, err := c.api.CoreV1().Services("default").Get(context.Background(), "web", getOptions)
		return err == nil && len(s.Status.LoadBalancer.Ingress) == 1 &&
			s.Status.LoadBalancer.Ingress[0].IP == c.net.NodeIP().String()
	})

	c.service("closed", c.ip(101), corev1.ProtocolTCP, 9443, lb, func(s *corev1.Service) {
		s.Spec.LoadBalancerSourceRanges = []string{"203.0.113.0/24"}
	})
	c.endpoints("closed", corev1.ProtocolTCP, 8080, server)
	if got, err := ask(t, nb.netns, "tcp", nb.hostIP+":9443"); err == nil {
		t.Errorf("a client outside the source ranges was admitted: %+v", got)
	}
	mustAsk(t, "", "tcp", c.ip(101)+":9443")
}

func TestPortsOfTheHostAreNotTakenAway(t *testing.T) {
	c := startCluster(t)
	server := c.pod("server")
	server.serve("tcp", 8080)
	serveIn(t, "", "host", "tcp", 8081)
	c.service("web", c.ip(100), corev1.ProtocolTCP, 8081, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer })
	c.endpoints("web", corev1.ProtocolTCP, 8080, server)
	if got := mustAsk(t, "", "tcp", "127.0.0.1:8081"); got.server != "host" {
		t.Errorf("a load balancer took a port of the host: %+v", got)
	}
	if got := mustAsk(t, "", "tcp", c.ip(100)+":8081"); got.server != "server" {
		t.Errorf("the cluster address: %+v", got)
	}
	_, err := c.net.Attach(context.Background(), Pod{UID: "u", Namespace: "default", Name: "p", HostPorts: []HostPort{{HostPort: 8081, ContainerPort: 80}}})
	if !errors.Is(err, errPortTaken) {
		t.Errorf("a host port that is taken: %v", err)
	}
	if _, ok := c.net.PodIP("u"); ok {
		t.Error("the refused pod has an address")
	}
}

func TestExternalIPs(t *testing.T) {
	c := startCluster(t)
	client, server := c.pod("client"), c.pod("server")
	server.serve("tcp", 8080)
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80, func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.9"} })
	c.endpoints("web", corev1.ProtocolTCP, 8080, server)
	if got := mustAsk(t, client.NetNS, "tcp", "203.0.113.9:80"); got.server != "server" {
		t.Errorf("got %+v", got)
	}
}

func TestHostPorts(t *testing.T) {
	nb := addNeighbour(t)
	c := startCluster(t)
	p := c.pod("p", HostPort{HostPort: 9090, ContainerPort: 8080}, HostPort{HostPort: 9053, ContainerPort: 53, Protocol: corev1.ProtocolUDP})
	p.serve("tcp", 8080)
	p.serve("udp", 53)
	if got := mustAsk(t, nb.netns, "tcp", nb.hostIP+":9090"); got != (reply{"p", nb.ip}) {
		t.Errorf("got %+v", got)
	}
	if got := mustAsk(t, nb.netns, "udp", nb.hostIP+":9053"); got != (reply{"p", nb.ip}) {
		t.Errorf("got %+v", got)
	}
	must(t, c.net.Detach(context.Background(), p.uid))
	mustRefuse(t, nb.netns, "tcp", nb.hostIP+":9090")
}

// sticky makes clients keep their endpoint for so many seconds.
func sticky(seconds int32) serviceOption {
	return func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}

func TestSessionAffinity(t *testing.T) {
	c := startCluster(t)
	clients := []pod{c.pod("c1"), c.pod("c2"), c.pod("c3"), c.pod("c4")}
	servers := []pod{c.pod("s1"), c.pod("s2"), c.pod("s3")}
	for _, s := range servers {
		s.serve("tcp", 8080)
	}
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80, sticky(100))
	c.endpoints("web", corev1.ProtocolTCP, 8080, servers...)
	addr := c.ip(100) + ":80"
	home := map[string]string{}
	stays := func(when string) {
		t.Helper()
		for _, cl := range clients {
			for range 5 {
				got := mustAsk(t, cl.NetNS, "tcp", addr)
				if home[cl.name] == "" {
					home[cl.name] = got.server
				}
				if got.server != home[cl.name] {
					t.Fatalf("%s: client %s moved from %s to %s", when, cl.name, home[cl.name], got.server)
				}
			}
		}
	}
	stays("at first")
	c.stop()
	c.start()
	stays("after a restart of the server")
	extra := c.pod("s4")
	extra.serve("tcp", 8080)
	c.endpoints("web", corev1.ProtocolTCP, 8080, append(servers, extra)...)
	stays("with one more endpoint")

	// Whose server leaves finds another, and only those.
	gone := home["c1"]
	var rest []pod
	for _, s := range servers {
		if s.name != gone {
			rest = append(rest, s)
		}
	}
	c.endpoints("web", corev1.ProtocolTCP, 8080, rest...)
	for name, server := range home {
		if server == gone || server == "s4" {
			delete(home, name)
		}
	}
	stays("with one endpoint less")
	for name, server := range home {
		if server == gone {
			t.Errorf("client %s still has the server that left", name)
		}
	}
}

func TestTrafficIsSpreadEvenly(t *testing.T) {
	c := startCluster(t)
	client := c.pod("client")
	var servers []pod
	for _, name := range []string{"s1", "s2", "s3"} {
		p := c.pod(name)
		p.serve("tcp", 8080)
		servers = append(servers, p)
	}
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80)
	c.endpoints("web", corev1.ProtocolTCP, 8080, servers...)
	count := map[string]int{}
	const asked = 300
	for range asked {
		count[mustAsk(t, client.NetNS, "tcp", c.ip(100)+":80").server]++
	}
	for _, s := range servers {
		// A third is 100; five standard deviations are 41.
		if count[s.name] < 59 || count[s.name] > 141 {
			t.Errorf("uneven: %v", count)
			break
		}
	}
}

func TestTerminatingEndpointsServeWhenNoOtherIsReady(t *testing.T) {
	c := startCluster(t)
	client, old, fresh := c.pod("client"), c.pod("old"), c.pod("fresh")
	old.serve("tcp", 8080)
	fresh.serve("tcp", 8080)
	yes, no := true, false
	terminating := discoveryv1.Endpoint{
		Addresses:  []string{old.IP.String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes},
	}
	starting := discoveryv1.Endpoint{
		Addresses:  []string{fresh.IP.String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &no},
	}
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80)
	c.slice("web", corev1.ProtocolTCP, 8080, []discoveryv1.Endpoint{terminating, starting})
	for range 5 {
		if got := mustAsk(t, client.NetNS, "tcp", c.ip(100)+":80"); got.server != "old" {
			t.Fatalf("got %+v, want the terminating endpoint", got)
		}
	}
	starting.Conditions.Ready = &yes
	c.slice("web", corev1.ProtocolTCP, 8080, []discoveryv1.Endpoint{terminating, starting})
	for range 5 {
		if got := mustAsk(t, client.NetNS, "tcp", c.ip(100)+":80"); got.server != "fresh" {
			t.Fatalf("got %+v, want the ready endpoint", got)
		}
	}
}

func TestUDPFollowsItsEndpoint(t *testing.T) {
	c := startCluster(t)
	client, one, two := c.pod("client"), c.pod("one"), c.pod("two")
	one.serve("udp", 5000)
	two.serve("udp", 5000)
	c.service("log", c.ip(100), corev1.ProtocolUDP, 514)
	c.endpoints("log", corev1.ProtocolUDP, 5000, one)
	conn := dialIn(t, client.NetNS, "udp", c.ip(100)+":514")
	for _, want := range []pod{one, two, one} {
		c.endpoints("log", corev1.ProtocolUDP, 5000, want)
		eventually(t, "the same socket reaches "+want.name, func() bool {
			got, err := converse(conn, "udp")
			return err == nil && got.server == want.name
		})
	}
}

func TestEndpointSwapFailsNoConnection(t *testing.T) {
	c := startCluster(t)
	client := c.pod("client")
	var servers []pod
	for _, name := range []string{"s1", "s2", "s3", "s4"} {
		p := c.pod(name)
		p.serve("tcp", 8080)
		servers = append(servers, p)
	}
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80)
	c.endpoints("web", corev1.ProtocolTCP, 8080, servers...)
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		asked := 0
		defer func() { done <- asked }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := ask(t, client.NetNS, "tcp", c.ip(100)+":80"); err != nil {
				t.Errorf("connection %d: %v", asked, err)
				return
			}
			asked++
		}
	}()
	for i := range 60 {
		c.endpoints("web", corev1.ProtocolTCP, 8080, servers[i%4:max(i%4+1, 1+(i*7)%4)]...)
	}
	close(stop)
	if asked := <-done; asked < 20 {
		t.Errorf("only %d connections were made", asked)
	}
}

func TestPodsReachTheWorld(t *testing.T) {
	nb := addNeighbour(t)
	c := startCluster(t)
	p := c.pod("p")
	serveIn(t, nb.netns, "world", "tcp", 8080)
	if got := mustAsk(t, p.NetNS, "tcp", nb.ip+":8080"); got != (reply{"world", nb.hostIP}) {
		t.Errorf("got %+v, want the host's address as client", got)
	}
}

// TestNoConnectionIsRefusedWhileTheTableIsReplaced: a start replaces the whole table, and
// no packet may pass between the old one and the new one.
func TestNoConnectionIsRefusedWhileTheTableIsReplaced(t *testing.T) {
	c := startCluster(t)
	client, server := c.pod("client"), c.pod("server")
	server.serve("tcp", 8080)
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80)
	c.endpoints("web", corev1.ProtocolTCP, 8080, server)
	stop := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := ask(t, client.NetNS, "tcp", c.ip(100)+":80"); err != nil {
				t.Errorf("connection %d: %v", n, err)
				return
			}
		}
	})
	priorities := map[string]bool{}
	const rounds = 30
	for range rounds {
		must(t, c.net.proxy.start())
		listed := run(t, "nft", "list", "chain", "ip", c.net.plan.Table, "prerouting")
		priorities[regexp.MustCompile(`hook prerouting priority [^;]*;`).FindString(listed)] = true
	}
	close(stop)
	asking.Wait()
	if len(priorities) != rounds {
		t.Errorf("a new table's chains do not follow the old one's: %v", priorities)
	}
}
