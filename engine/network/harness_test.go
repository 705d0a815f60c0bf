package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/gantryhq/gantry/internal/testenv"
)

// cluster is a network under test with an API of its own.
type cluster struct {
	t       testing.TB
	net     *Network
	api     *fake.Clientset
	dataDir string
	keeper  *drawer // or nil
	stop    func()
}

func needNetwork(t testing.TB) {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedProgram(t, "nft", "nftables")
}

// startCluster opens a network in a new data directory and removes it after the test.
func startCluster(t testing.TB, objects ...any) *cluster {
	t.Helper()
	needNetwork(t)
	c := &cluster{t: t, dataDir: t.TempDir(), api: fake.NewClientset()}
	t.Cleanup(func() {
		c.stop()
		if err := Cleanup(c.dataDir); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	c.start()
	return c
}

// start opens and runs the network, as a start of the server does.
func (c *cluster) start() {
	c.t.Helper()
	resolv := filepath.Join(c.t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, nil, 0o600); err != nil {
		c.t.Fatal(err)
	}
	cfg := Config{DataDir: c.dataDir, ResolvConf: resolv}
	if c.keeper != nil {
		cfg.Keeper = c.keeper
	}
	n, err := Open(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	watching := watchSignals(c.api, "services", "endpointslices", "networkpolicies")
	n.client = c.api
	n.enforcer = newEnforcer(c.api, n.leases, n.table, n.DNS())
	c.net = n
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("run: %v", err)
		}
		if err := n.Close(); err != nil {
			c.t.Errorf("close: %v", err)
		}
	})
	select {
	case <-n.Ready():
	case err := <-done:
		done <- err
		c.t.Fatalf("network did not start: %v", err)
	case <-time.After(10 * time.Second):
		c.t.Fatal("network is not ready after 10 s")
	}
	// The fake API loses what is created between an informer's list and watch.
	for _, w := range watching {
		<-w
	}
}

func watchSignals(api *fake.Clientset, resources ...string) []chan struct{} {
	var all []chan struct{}
	for _, r := range resources {
		signal := make(chan struct{})
		once := sync.OnceFunc(func() { close(signal) })
		all = append(all, signal)
		api.PrependWatchReactor(r, func(a clienttesting.Action) (bool, watch.Interface, error) {
			w, err := api.Tracker().Watch(a.GetResource(), a.GetNamespace())
			once()
			return true, w, err
		})
	}
	return all
}

// pod is an attached pod.
type pod struct {
	Attachment
	c    *cluster
	uid  string
	name string
}

func (c *cluster) pod(name string, ports ...HostPort) pod {
	c.t.Helper()
	uid := "uid-" + name
	at, err := c.net.Attach(context.Background(), Pod{UID: uid, Namespace: "default", Name: name, HostPorts: ports})
	if err != nil {
		c.t.Fatal(err)
	}
	return pod{at, c, uid, name}
}

// in runs f on a thread inside the network namespace at path; "" is the host's.
func in(t testing.TB, path string, f func() error) error {
	t.Helper()
	if path == "" {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- err
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

// serve answers every connection or datagram on the port, inside the pod, with the
// pod's name and the client's address.
func (p pod) serve(network string, port int) {
	p.c.t.Helper()
	serveIn(p.c.t, p.NetNS, p.name, network, port)
}

func serveIn(t testing.TB, netns, name, network string, port int) {
	t.Helper()
	addr := fmt.Sprintf("0.0.0.0:%d", port)
	err := in(t, netns, func() error {
		if network == "udp" {
			conn, err := net.ListenPacket("udp4", addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
			go answerUDP(conn, name)
			return nil
		}
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go answerTCP(l, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func answerTCP(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprintf(c, "%s %s\n", name, hostOf(c.RemoteAddr()))
			_, _ = io.Copy(c, c) // until the client ends
		}()
	}
}

func answerUDP(conn net.PacketConn, name string) {
	var buf [64]byte
	for {
		_, from, err := conn.ReadFrom(buf[:])
		if err != nil {
			return
		}
		_, _ = conn.WriteTo([]byte(fmt.Sprintf("%s %s\n", name, hostOf(from))), from)
	}
}

func hostOf(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	return host
}

// reply is what a server of serve answers.
type reply struct{ server, client string }

// ask connects to the address from inside the namespace and returns the answer.
func ask(t testing.TB, netns, network, addr string) (reply, error) {
	t.Helper()
	return askWithin(t, netns, network, addr, 2*time.Second)
}

func askWithin(t testing.TB, netns, network, addr string, patience time.Duration) (reply, error) {
	t.Helper()
	var r reply
	err := in(t, netns, func() error {
		c, err := net.DialTimeout(network+"4", addr, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		var rerr error
		r, rerr = converse(c, network)
		return rerr
	})
	return r, err
}

func converse(c net.Conn, network string) (reply, error) {
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return reply{}, err
		}
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return reply{}, err
	}
	server, client, _ := strings.Cut(strings.TrimSpace(line), " ")
	return reply{server, client}, nil
}

// mustAsk fails the test unless somebody answers.
func mustAsk(t testing.TB, netns, network, addr string) reply {
	t.Helper()
	r, err := ask(t, netns, network, addr)
	if err != nil {
		t.Fatalf("%s to %s from %q: %v", network, addr, filepath.Base(netns), err)
	}
	return r
}

// mustRefuse fails the test unless the connection is refused at once.
func mustRefuse(t testing.TB, netns, network, addr string) {
	t.Helper()
	start := time.Now()
	r, err := ask(t, netns, network, addr)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("%s to %s: got %+v, %v after %v, want connection refused", network, addr, r, err, time.Since(start))
	}
}

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute still not: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// serviceOption changes a service before it is created.
type serviceOption func(*corev1.Service)

// service creates a service with one port and waits until the kernel knows it.
func (c *cluster) service(name, clusterIP string, proto corev1.Protocol, port int32, opts ...serviceOption) *corev1.Service {
	c.t.Helper()
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: clusterIP,
			Ports: []corev1.ServicePort{{Name: "main", Protocol: proto, Port: port}},
		},
	}
	for _, o := range opts {
		o(s)
	}
	if _, err := c.api.CoreV1().Services("default").Create(context.Background(), s, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
	return s
}

// endpoints makes the pods the endpoints of the service.
func (c *cluster) endpoints(service string, proto corev1.Protocol, port int32, pods ...pod) {
	c.t.Helper()
	var eps []discoveryv1.Endpoint
	for _, p := range pods {
		eps = append(eps, discoveryv1.Endpoint{Addresses: []string{p.IP.String()}})
	}
	c.slice(service, proto, port, eps)
}

func (c *cluster) slice(service string, proto corev1.Protocol, port int32, eps []discoveryv1.Endpoint) {
	c.t.Helper()
	name := "main"
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Protocol: &proto, Port: &port}},
		Endpoints:   eps,
	}
	ctx := context.Background()
	slices := c.api.DiscoveryV1().EndpointSlices("default")
	_, err := slices.Update(ctx, s, metav1.UpdateOptions{})
	if err != nil {
		_, err = slices.Create(ctx, s, metav1.CreateOptions{})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

// settle waits until everything created so far is in the kernel: a service created
// after it has arrived there.
func (c *cluster) settle() {
	c.t.Helper()
	c.markers().wait()
}

// marker creates objects of both kinds after everything else, so that once they
// have arrived, everything before them has too.
type marker struct {
	c   *cluster
	key string
}

func (c *cluster) markers() marker {
	c.t.Helper()
	key := fmt.Sprintf("marker-%d", time.Now().UnixNano())
	ctx := context.Background()
	one := int32(1)
	ip := c.ip(50000)
	_, err1 := c.api.CoreV1().Services("markers").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "markers", Name: key},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 1}}},
	}, metav1.CreateOptions{})
	_, err2 := c.api.DiscoveryV1().EndpointSlices("markers").Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "markers", Name: key, Labels: map[string]string{discoveryv1.LabelServiceName: key}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Port: &one}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.1.1.1"}}},
	}, metav1.CreateOptions{})
	if err := errors.Join(err1, err2); err != nil {
		c.t.Fatal(err)
	}
	return marker{c, key}
}

func (m marker) wait() {
	m.c.t.Helper()
	p := m.c.net.proxy
	eventually(m.c.t, "changes are in the kernel", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, target := range p.wanted["service markers/"+m.key] {
			return len(target.Backends) == 1
		}
		return false
	})
	ctx := context.Background()
	_ = m.c.api.CoreV1().Services("markers").Delete(ctx, m.key, metav1.DeleteOptions{})
	_ = m.c.api.DiscoveryV1().EndpointSlices("markers").Delete(ctx, m.key, metav1.DeleteOptions{})
	eventually(m.c.t, "marker is gone", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.wanted["service markers/"+m.key] == nil
	})
}

// ip returns an address of the service range.
func (c *cluster) ip(n uint32) string { return nth(c.net.plan.ServiceCIDR, n).String() }

// neighbour is another machine on the host's uplink.
type neighbour struct {
	netns  string
	hostIP string // the host's address towards it
	ip     string
}

// addNeighbour connects a namespace to the host by an uplink, as another machine that
// uses the host as its router.
func addNeighbour(t testing.TB) neighbour {
	t.Helper()
	needNetwork(t)
	nb := neighbour{netns: filepath.Join(t.TempDir(), "netns"), hostIP: "198.51.100.1", ip: "198.51.100.2"}
	ns, err := createNetNS(&ownProc{}, nil)
	must(t, err)
	defer ns.close()
	must(t, ns.pin(nb.netns))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "uplink"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer", PeerNamespace: netlink.NsFd(ns.fd)}))
	t.Cleanup(func() {
		_ = netlink.LinkDel(&netlink.Veth{LinkAttrs: attrs})
		_ = unpin(nb.netns)
	})
	configure := func(name, ip string) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr(ip + "/24")
		return errors.Join(netlink.AddrAdd(l, addr), netlink.LinkSetUp(l))
	}
	must(t, configure("uplink", nb.hostIP))
	must(t, in(t, nb.netns, func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName("peer")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr(nb.ip + "/24")
		return errors.Join(h.AddrAdd(l, addr), h.LinkSetUp(l),
			h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(nb.hostIP)}))
	}))
	return nb
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run returns the output of a program.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
