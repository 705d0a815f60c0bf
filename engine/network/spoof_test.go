package network

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestPodsSendOnlyInTheirOwnName: a process with the privilege to choose its source
// address, or even its hardware address, is not heard as somebody else.
func TestPodsSendOnlyInTheirOwnName(t *testing.T) {
	c := startCluster(t)
	liar, victim, honest, server := c.pod("liar"), c.pod("victim"), c.pod("honest"), c.pod("server")
	var heard net.PacketConn
	must(t, in(t, server.NetNS, func() (err error) {
		heard, err = net.ListenPacket("udp4", ":9999")
		return err
	}))
	defer heard.Close()
	send := func(from pod, source net.IP, text string) {
		t.Helper()
		must(t, in(t, from.NetNS, func() error {
			conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: source}, &net.UDPAddr{IP: server.IP.AsSlice(), Port: 9999})
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte(text))
			return err
		}))
	}
	expect := func(want string) {
		t.Helper()
		must(t, heard.SetReadDeadline(time.Now().Add(time.Minute)))
		buf := make([]byte, 64)
		n, from, err := heard.ReadFrom(buf)
		if err != nil || string(buf[:n]) != want {
			t.Fatalf("the server heard %q from %v, %v; want %q", buf[:n], from, err, want)
		}
	}
	configure := func(f func(h *netlink.Handle, eth netlink.Link) error) {
		t.Helper()
		must(t, in(t, liar.NetNS, func() error {
			h, err := netlink.NewHandle()
			if err != nil {
				return err
			}
			defer h.Close()
			eth, err := h.LinkByName(podInterface)
			if err != nil {
				return err
			}
			return f(h, eth)
		}))
	}

	send(liar, nil, "I am the liar")
	expect("I am the liar")
	configure(func(h *netlink.Handle, eth netlink.Link) error {
		return h.AddrAdd(eth, &netlink.Addr{IPNet: &net.IPNet{IP: victim.IP.AsSlice(), Mask: net.CIDRMask(32, 32)}})
	})
	send(liar, victim.IP.AsSlice(), "I am the victim")
	send(honest, nil, "the address was not believed")
	expect("the address was not believed")

	configure(func(h *netlink.Handle, eth netlink.Link) error { return h.LinkSetHardwareAddr(eth, macOf(victim.IP)) })
	send(liar, victim.IP.AsSlice(), "I am the victim, look at my interface")
	send(honest, nil, "the hardware address was not believed")
	expect("the hardware address was not believed")

	// What the liar claimed has taken nothing from the victim.
	send(victim, nil, "I am the victim")
	expect("I am the victim")
	victim.serve("tcp", 80)
	mustAsk(t, honest.NetNS, "tcp", victim.IP.String()+":80")
}

func TestRestartKeepsAddressesToTheirOwners(t *testing.T) {
	c := startCluster(t)
	a, b := c.pod("a"), c.pod("b")
	c.stock(1)
	spare := c.net.spare.all()[0]
	b.serve("tcp", 80)
	for range 2 {
		c.stop()
		mustAsk(t, a.NetNS, "tcp", b.IP.String()+":80")
		c.start()
		mustAsk(t, a.NetNS, "tcp", b.IP.String()+":80")
	}
	listed := run(t, "nft", "list", "set", "ip", c.net.plan.Table, "owners")
	for _, ip := range []string{a.IP.String(), b.IP.String(), spare.IP.String()} {
		if !strings.Contains(listed, ip) {
			t.Errorf("%s has no owner:\n%s", ip, listed)
		}
	}
	must(t, c.net.Detach(t.Context(), b.uid))
	eventually(t, "the address has no owner any more", func() bool {
		return !strings.Contains(run(t, "nft", "list", "set", "ip", c.net.plan.Table, "owners"), b.IP.String()+" ")
	})
}
