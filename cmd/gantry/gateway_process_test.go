package main

import (
	"net"
	"testing"
)

func TestARestartKeepsTheAddressItsGatewayServes(t *testing.T) {
	l, err := net.Listen("tcp", ":0") // as the gateway that goes on serving
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	held := l.Addr().String()
	_, port, err := net.SplitHostPort(held)
	if err != nil {
		t.Fatal(err)
	}
	for _, wanted := range []string{"", ":" + port, "[::]:" + port, held} {
		if got, err := chooseAddress("gateway-listen", wanted, true, held, ":80"); err != nil || got != held {
			t.Errorf("wanted %q: %q, %v; want %s", wanted, got, err, held)
		}
	}
	if got, err := chooseAddress("gateway-listen", ":"+port, false, held, ":80"); err == nil {
		t.Errorf("the port of another program was chosen: %s", got)
	}
}

func TestWhichAddressesAreTheSame(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{":80", "[::]:80", true},
		{"127.0.0.1:80", "127.0.0.1:80", true},
		{":80", "[::]:8080", false},
		{":80", "127.0.0.1:80", false},
		{"0.0.0.0:80", "[::]:80", false},
		{"nonsense", "[::]:80", false},
	} {
		if got := sameAddress(c.a, c.b); got != c.same {
			t.Errorf("%s and %s: %v, want %v", c.a, c.b, got, c.same)
		}
	}
}
