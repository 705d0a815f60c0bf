package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// lookup asks cluster DNS for an address from inside a namespace.
func lookup(t testing.TB, c *cluster, netns, network, name string) ([]dns.RR, error) {
	t.Helper()
	var m *dns.Msg
	err := in(t, netns, func() (err error) {
		client := &dns.Client{Net: network, Timeout: time.Second}
		m, _, err = client.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), net.JoinHostPort(c.net.DNS().String(), "53"))
		return err
	})
	if err != nil {
		return nil, err
	}
	return m.Answer, nil
}

func TestClusterDNSIsReachable(t *testing.T) {
	nb := addNeighbour(t)
	for _, taken := range []bool{false, true} {
		name := "alone"
		if taken {
			name = "beside another resolver"
		}
		t.Run(name, func(t *testing.T) {
			if taken {
				other, err := net.ListenPacket("udp4", "0.0.0.0:53")
				must(t, err)
				defer other.Close()
			}
			c := startCluster(t)
			p := c.pod("p")
			c.service("web", c.ip(100), corev1.ProtocolTCP, 80)
			const web = "web.default.svc.cluster.local."
			for what, netns := range map[string]string{"a pod": p.NetNS, "the host": ""} {
				for _, network := range []string{"udp", "tcp"} {
					answer, err := lookup(t, c, netns, network, web)
					if err != nil || len(answer) != 1 || answer[0].(*dns.A).A.String() != c.ip(100) {
						t.Errorf("%s by %s: %v, %v", what, network, answer, err)
					}
				}
			}
			if answer, err := lookup(t, c, nb.netns, "udp", web); err == nil {
				t.Errorf("another machine got an answer: %v", answer)
			}
		})
	}
}

func TestDNSIsSilentWhileItRestarts(t *testing.T) {
	c := startCluster(t)
	p := c.pod("p")
	c.stop()
	_, err := lookup(t, c, p.NetNS, "udp", "web.default.svc.cluster.local.")
	if nerr, ok := err.(net.Error); !ok || !nerr.Timeout() {
		t.Fatalf("got %v, want silence: a refusal makes resolvers give up", err)
	}
}

// drawer keeps files as the shim does.
type drawer struct {
	mu    sync.Mutex
	files map[string]int
}

func (d *drawer) Keep(_ context.Context, files map[string]*os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, f := range files {
		if old, ok := d.files[name]; ok {
			unix.Close(old)
		}
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			return err
		}
		d.files[name] = fd
	}
	return nil
}

func (d *drawer) Kept(_ context.Context, names ...string) (map[string]*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]*os.File{}
	for _, name := range names {
		if kept, ok := d.files[name]; ok {
			fd, err := unix.Dup(kept)
			if err != nil {
				return nil, err
			}
			out[name] = os.NewFile(uintptr(fd), name)
		}
	}
	return out, nil
}

func (d *drawer) has() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.files)
}

func (d *drawer) close() {
	for _, fd := range d.files {
		unix.Close(fd)
	}
}

func TestQueriesWaitWhileDNSRestarts(t *testing.T) {
	for _, taken := range []bool{false, true} {
		t.Run(fmt.Sprint("port 53 is taken: ", taken), func(t *testing.T) {
			if taken {
				other, err := net.ListenPacket("udp4", "0.0.0.0:53")
				must(t, err)
				defer other.Close()
			}
			c := startCluster(t)
			c.stop()
			c.keeper = &drawer{files: map[string]int{}}
			t.Cleanup(c.keeper.close)
			c.start()
			p := c.pod("p")
			c.service("web", c.ip(100), corev1.ProtocolTCP, 80)
			eventually(t, "the sockets are kept", func() bool { return c.keeper.has() == 2 })
			for round := range 2 { // the second life gets the sockets of the first
				c.stop()
				var asked, answered sync.WaitGroup
				for _, network := range []string{"udp", "tcp"} {
					asked.Add(1)
					answered.Go(func() {
						conn := dialIn(t, p.NetNS, network, net.JoinHostPort(c.net.DNS().String(), "53"))
						client := &dns.Conn{Conn: conn}
						err := client.WriteMsg(new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA))
						asked.Done()
						if err != nil {
							t.Error(err)
							return
						}
						must(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
						if m, err := client.ReadMsg(); err != nil || len(m.Answer) != 1 {
							t.Errorf("round %d, asked by %s while nobody was there: %v, %v", round, network, m, err)
						}
					})
				}
				asked.Wait()
				c.start()
				answered.Wait()
			}
			if answer, err := lookup(t, c, p.NetNS, "udp", "web.default.svc.cluster.local."); err != nil || len(answer) != 1 {
				t.Errorf("afterwards: %v, %v", answer, err)
			}
		})
	}
}

func TestKeptSocketsOfAnotherAddressAreNotUsed(t *testing.T) {
	c := startCluster(t)
	c.stop()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	defer udp.Close()
	tcp, err := net.Listen("tcp4", udp.LocalAddr().String())
	must(t, err)
	defer tcp.Close()
	oldUDP, err := udp.(*net.UDPConn).File()
	must(t, err)
	oldTCP, err := tcp.(*net.TCPListener).File()
	must(t, err)
	c.keeper = &drawer{files: map[string]int{}}
	t.Cleanup(c.keeper.close)
	must(t, c.keeper.Keep(context.Background(), map[string]*os.File{keptUDP: oldUDP, keptTCP: oldTCP}))
	closeFiles(map[string]*os.File{keptUDP: oldUDP, keptTCP: oldTCP})
	c.start()
	p := c.pod("p")
	c.service("web", c.ip(100), corev1.ProtocolTCP, 80)
	if answer, err := lookup(t, c, p.NetNS, "udp", "web.default.svc.cluster.local."); err != nil || len(answer) != 1 {
		t.Errorf("%v, %v", answer, err)
	}
}

func TestNamespaceOfPods(t *testing.T) {
	c := startCluster(t)
	p := c.pod("p")
	if got := c.net.leases.namespaceOf(p.IP); got != "default" {
		t.Errorf("got %q", got)
	}
	if got := c.net.leases.namespaceOf(netip.MustParseAddr("10.1.2.3")); got != "" {
		t.Errorf("got %q for a stranger", got)
	}
}
