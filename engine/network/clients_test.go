package network

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"
)

func TestConnectionsOfOtherProcessesAreCounted(t *testing.T) {
	server, err := net.Listen("tcp4", "127.0.9.7:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ip, n := netip.MustParseAddr("127.0.9.7"), &Network{}
	count := func(want int, when string) {
		t.Helper()
		if got, err := n.Clients(ip); err != nil || got != want {
			t.Errorf("%s: %d connections, %v; want %d", when, got, err, want)
		}
	}
	count(0, "nobody has connected")

	own, err := net.Dial("tcp4", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if all, err := connectedTo(netip.PrefixFrom(ip, 32)); err != nil || len(all) != 1 {
		t.Errorf("sockets %v, %v; want one", all, err)
	}
	count(0, "only this process has")
	accept(t, server)

	client := exec.Command("bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.9.7/%d; read", server.Addr().(*net.TCPAddr).Port))
	hold, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	accept(t, server)
	count(1, "another process has, too")
	// Asked for at the same time, addresses are looked for together.
	neighbour := netip.MustParseAddr("127.0.9.4")
	if all, err := clientsOf([]netip.Addr{neighbour, ip}); err != nil || all[ip] != 1 || all[neighbour] != 0 {
		t.Errorf("looked for together, %v, %v; want one to %s", all, err, ip)
	}
	if all, err := connectedTo(netip.MustParsePrefix("127.0.9.8/32")); err != nil || len(all) != 0 {
		t.Errorf("sockets %v, %v of an address that nobody connected to", all, err)
	}
	hold.Close()
	_ = client.Wait() // read fails at the end of its input
	count(0, "the other process has ended")
}

func accept(t *testing.T, l net.Listener) {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

func TestAddressesAreLookedForByTheirCommonPrefix(t *testing.T) {
	for want, addresses := range map[string][]string{
		"10.1.2.3/32": {"10.1.2.3"},
		"10.1.2.2/31": {"10.1.2.3", "10.1.2.2"},
		"10.1.0.0/16": {"10.1.2.3", "10.1.255.1"},
		"0.0.0.0/0":   {"10.1.2.3", "200.1.2.3"},
	} {
		var list []netip.Addr
		for _, a := range addresses {
			list = append(list, netip.MustParseAddr(a))
		}
		if got := common(list).String(); got != want {
			t.Errorf("%v: %s, want %s", addresses, got, want)
		}
	}
}

// Who asks while a look is under way gets what the next one sees, as do all others
// who ask meanwhile.
func TestWhoAsksDuringALookSharesTheNext(t *testing.T) {
	var s looks
	s.turn.Lock() // a look is under way
	ip, other := netip.MustParseAddr("127.0.9.1"), netip.MustParseAddr("127.0.9.2")
	first, leads := s.join(ip)
	if !leads {
		t.Fatal("nobody leads")
	}
	second, leads := s.join(other)
	if leads || second != first {
		t.Error("the second has a look of its own")
	}
	s.turn.Unlock()
	s.lead(first)
	<-second.done
	if len(first.addresses) != 2 || first.err != nil {
		t.Errorf("looked at %v, %v; want both", first.addresses, first.err)
	}
	if third, leads := s.join(ip); !leads || third == first {
		t.Error("the next one joined a look that is over")
	}
}
