package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var getOptions = metav1.GetOptions{}

// dialIn opens a connection from inside the namespace.
func dialIn(t testing.TB, netns, network, addr string) net.Conn {
	t.Helper()
	var conn net.Conn
	must(t, in(t, netns, func() (err error) {
		conn, err = net.Dial(network+"4", addr)
		return err
	}))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// replaceLocalRoute makes the calling namespace send 127.0.0.1 to the gateway, as a
// hostile pod with privileges may.
func replaceLocalRoute(gw netip.Addr) error {
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	eth, err := h.LinkByName(podInterface)
	if err != nil {
		return err
	}
	return errors.Join(
		h.LinkSetDown(lo),
		h.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(32, 32)}, Gw: gw.AsSlice()}))
}

func TestAttachIsIdempotent(t *testing.T) {
	c := startCluster(t)
	a := c.pod("a")
	if again := c.pod("a"); again.Attachment != a.Attachment {
		t.Fatalf("attached twice: %+v, then %+v", a.Attachment, again.Attachment)
	}
	b := c.pod("b")
	if b.IP == a.IP {
		t.Fatal("two pods have the same address")
	}
	le, _ := c.net.leases.get(a.uid)
	for range 2 {
		must(t, c.net.Detach(context.Background(), a.uid))
	}
	if _, err := os.Stat(a.NetNS); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the pin is still there: %v", err)
	}
	if fresh := c.pod("c"); fresh.IP == a.IP {
		t.Fatal("an address was reused at once")
	}
	eventually(t, "the interface is gone", func() bool {
		_, err := netlink.LinkByName(le.Veth)
		return err != nil
	})
}

func TestAttachFiftyAtOnce(t *testing.T) {
	c := startCluster(t)
	const n = 50
	ips := make([]netip.Addr, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { ips[i] = c.pod(fmt.Sprint("p", i)).IP })
	}
	wg.Wait()
	seen := map[netip.Addr]bool{}
	for i, ip := range ips {
		if seen[ip] || !c.net.PodCIDR().Contains(ip) {
			t.Errorf("pod %d has address %s", i, ip)
		}
		seen[ip] = true
	}
	for i := range n {
		wg.Go(func() { must(t, c.net.Detach(context.Background(), fmt.Sprint("uid-p", i))) })
	}
	wg.Wait()
}

func TestAttachAppliesSysctls(t *testing.T) {
	c := startCluster(t)
	at, err := c.net.Attach(context.Background(), Pod{UID: "u", Namespace: "default", Name: "p", Sysctls: map[string]string{"net.core.somaxconn": "777"}})
	must(t, err)
	must(t, in(t, at.NetNS, func() error {
		for name, want := range map[string]string{"net.core.somaxconn": "777", "net.ipv4.ip_unprivileged_port_start": "0"} {
			b, err := os.ReadFile((sysctl{name: name}).path())
			if err != nil {
				return err
			}
			if got := strings.TrimSpace(string(b)); got != want {
				return fmt.Errorf("%s is %s, want %s", name, got, want)
			}
		}
		return nil
	}))
	_, err = c.net.Attach(context.Background(), Pod{UID: "v", Namespace: "default", Name: "q", Sysctls: map[string]string{"kernel.shmmax": "1"}})
	if err == nil || !strings.Contains(err.Error(), "kernel.shmmax") {
		t.Fatalf("a sysctl of the whole host was accepted: %v", err)
	}
	if _, ok := c.net.PodIP("v"); ok || len(pinned(t, c)) != 1 {
		t.Fatal("a failed attach left something behind")
	}
	_, err = c.net.Attach(context.Background(), Pod{UID: "v", Namespace: "default", Name: "q", Sysctls: map[string]string{"net.core.nonsense": "1"}})
	if err == nil || !strings.Contains(err.Error(), "this kernel has no sysctl net.core.nonsense") {
		t.Fatalf("a sysctl that does not exist was accepted: %v", err)
	}
	_, err = c.net.Attach(context.Background(), Pod{UID: "v", Namespace: "default", Name: "q", Sysctls: map[string]string{"net.//.kernel.shmmax": "1"}})
	if err == nil || !strings.Contains(err.Error(), "only net.*") {
		t.Fatalf("a sysctl behind a detour was accepted: %v", err)
	}
}

// pinned lists the network namespaces that are pinned.
func pinned(t testing.TB, c *cluster) []string {
	t.Helper()
	entries, err := os.ReadDir(c.net.netnsDir)
	must(t, err)
	var out []string
	for _, e := range entries {
		if isPinned(c.net.pinPath(e.Name())) {
			out = append(out, e.Name())
		}
	}
	return out
}

func TestRestartKeepsPodsAndServices(t *testing.T) {
	c := startCluster(t)
	client := c.pod("client")
	server := c.pod("server", HostPort{HostPort: 9090, ContainerPort: 8080})
	server.serve("tcp", 8080)
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80)
	c.endpoints("web", corev1.ProtocolTCP, 8080, server)
	established := dialIn(t, client.NetNS, "tcp", c.ip(100)+":80")
	if _, err := converse(established, "tcp"); err != nil {
		t.Fatal(err)
	}

	c.stop()
	mustAsk(t, client.NetNS, "tcp", c.ip(100)+":80") // while nobody is there
	c.start()
	if again := c.pod("server"); again.Attachment != server.Attachment {
		t.Errorf("the pod moved from %+v to %+v", server.Attachment, again.Attachment)
	}
	if fresh := c.pod("fresh"); fresh.IP == client.IP || fresh.IP == server.IP {
		t.Errorf("a new pod got the address of another")
	}
	mustAsk(t, client.NetNS, "tcp", c.ip(100)+":80")
	mustAsk(t, "", "tcp", "127.0.0.1:9090")
	if _, err := fmt.Fprintln(established, "still here"); err != nil {
		t.Error(err)
	}
	buf := make([]byte, 32)
	if k, err := established.Read(buf); err != nil || !strings.HasPrefix(string(buf[:k]), "still") {
		t.Errorf("an established connection broke: %q, %v", buf[:k], err)
	}
}

func TestRebootDropsStaleLeases(t *testing.T) {
	c := startCluster(t)
	p := c.pod("p")
	c.stop()
	// What a reboot leaves: files without anything mounted on them, and no kernel state.
	must(t, unix.Unmount(p.NetNS, unix.MNT_DETACH))
	must(t, removeLinks(c.net.plan.Bridge))
	c.start()
	if ip, ok := c.net.PodIP(p.uid); ok {
		t.Errorf("the pod still has %s", ip)
	}
	if again := c.pod("p"); !isPinned(again.NetNS) {
		t.Error("the pod was not attached anew")
	}
}

func TestCleanupLeavesNothing(t *testing.T) {
	needNetwork(t)
	eventually(t, "the pods of earlier tests are gone", func() bool {
		links, err := listLinks()
		must(t, err)
		return !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Type() == "veth" || l.Type() == "bridge" })
	})
	before := kernelState(t)
	for _, lost := range []string{"", "run", "network.json"} {
		t.Run("without "+lost, func(t *testing.T) {
			c := startCluster(t)
			server := c.pod("server", HostPort{HostPort: 9090, ContainerPort: 8080})
			c.stock(2)
			c.service("web", c.ip(100), corev1.ProtocolTCP, 80, nodePort(30080))
			c.endpoints("web", corev1.ProtocolTCP, 8080, server)
			c.stop()
			if lost == "run" { // reboot with DIR/run on a tmpfs
				must(t, unix.Unmount(server.NetNS, unix.MNT_DETACH))
				must(t, removeVolatile(netnsDir(c.dataDir)))
				must(t, removeVolatile(leaseDir(c.dataDir)))
			}
			if lost != "" {
				must(t, os.RemoveAll(filepath.Join(c.dataDir, lost)))
			}
			for range 2 {
				must(t, Cleanup(c.dataDir))
			}
			if lost == "network.json" { // then only the sysctls' former values are unknown
				for _, s := range hostSysctls {
					must(t, sysctl{s.name, map[string]string{"0": "1", "1": "0"}[s.value]}.write())
				}
			}
			after := ""
			deadline := time.Now().Add(time.Minute)
			for after = kernelState(t); after != before; after = kernelState(t) {
				if time.Now().After(deadline) {
					t.Fatalf("before:\n%s\nafter:\n%s", before, after)
				}
			}
		})
	}
}

// kernelState is everything this package may change, as text.
func kernelState(t testing.TB) string {
	t.Helper()
	var settings []string
	for _, s := range hostSysctls {
		value, err := s.read()
		must(t, err)
		settings = append(settings, s.name+"="+value)
	}
	all, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	mounts := ""
	for line := range strings.Lines(string(all)) {
		if strings.Contains(line, "/TestCleanupLeavesNothing") { // others come and go
			mounts += line
		}
	}
	links, err := listLinks()
	must(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return fmt.Sprintf("%s\n%s\n%v\n%v\n%s", run(t, "nft", "list", "ruleset"), strings.Join(names, " "), run(t, "ip", "route", "show", "table", "all"), settings, mounts)
}

func TestTwoInstancesSideBySide(t *testing.T) {
	one, two := startCluster(t), startCluster(t)
	if one.net.PodCIDR().Overlaps(two.net.PodCIDR()) || one.net.ServiceCIDR().Overlaps(two.net.ServiceCIDR()) {
		t.Fatalf("ranges overlap: %+v and %+v", one.net.plan, two.net.plan)
	}
	for _, c := range []*cluster{one, two} {
		client, server := c.pod("client"), c.pod("server")
		server.serve("tcp", 8080)
		c.service("web", c.ip(100), corev1.ProtocolTCP, 80)
		c.endpoints("web", corev1.ProtocolTCP, 8080, server)
		mustAsk(t, client.NetNS, "tcp", c.ip(100)+":80")
	}
	one.stop()
	must(t, Cleanup(one.dataDir))
	mustAsk(t, two.pod("client").NetNS, "tcp", two.ip(100)+":80")
	two.stop()
	must(t, Cleanup(two.dataDir))
	for _, s := range hostSysctls {
		if now, err := s.read(); err != nil || now == s.value {
			t.Errorf("%s is still %s after the last instance, %v", s.name, now, err)
		}
	}
}

func TestTakenRangeIsRefused(t *testing.T) {
	nb := addNeighbour(t)
	_, err := MakePlan(t.TempDir(), netip.MustParsePrefix("198.51.0.0/16"), netip.Prefix{})
	if err == nil || !strings.Contains(err.Error(), "198.51.100.") {
		t.Fatalf("got %v, want a refusal that names the network of %s", err, nb.hostIP)
	}
}
