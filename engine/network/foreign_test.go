package network

import (
	"context"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Whoever may make services and pods must not get what is sent to others.
func TestAddressesOfOthersAreNotTakenAway(t *testing.T) {
	c := startCluster(t)
	client, server, thief := c.pod("client"), c.pod("server"), c.pod("thief")
	server.serve("tcp", 8080)
	thief.serve("tcp", 8080)
	serveIn(t, "", "host", "tcp", 8082)
	host := server.Gateway.String()
	c.service("taken", c.ip(99), corev1.ProtocolTCP, 8080, func(s *corev1.Service) {
		s.Spec.ExternalIPs = []string{server.IP.String(), c.ip(100)}
	})
	c.endpoints("taken", corev1.ProtocolTCP, 8080, thief)
	c.service("api", c.ip(98), corev1.ProtocolTCP, 8082, func(s *corev1.Service) { s.Spec.ExternalIPs = []string{host} })
	c.endpoints("api", corev1.ProtocolTCP, 8080, thief)
	c.service("web", c.ip(100), corev1.ProtocolTCP, 8080)
	c.endpoints("web", corev1.ProtocolTCP, 8080, server)

	for address, owner := range map[string]string{
		server.IP.String() + ":8080": "server", c.ip(100) + ":8080": "server", host + ":8082": "host",
		c.ip(99) + ":8080": "thief", c.ip(98) + ":8082": "thief", // their own
	} {
		if got := mustAsk(t, client.NetNS, "tcp", address); got.server != owner {
			t.Errorf("%s leads to %s, want %s", address, got.server, owner)
		}
	}
	for _, address := range []string{server.IP.String(), c.ip(100)} {
		if _, err := c.net.Attach(context.Background(), Pod{UID: "u", Namespace: "default", Name: "p",
			HostPorts: []HostPort{{HostIP: netip.MustParseAddr(address), HostPort: 8080, ContainerPort: 80}}}); err == nil {
			t.Errorf("a host port at %s was let through", address)
		}
	}
}
