package network

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
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
