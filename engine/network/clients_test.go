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
	if all, err := connectedTo(ip); err != nil || len(all) != 1 {
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
	if all, err := connectedTo(netip.MustParseAddr("127.0.9.8")); err != nil || len(all) != 0 {
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
