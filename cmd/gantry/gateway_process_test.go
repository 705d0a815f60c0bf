package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/process"
)

// A gateway that is replaced still answers at the socket while its successor starts.
func TestOnlyTheSuccessorSaysThatItIsReady(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, gatewaySocket))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go server.Serve(l)
	defer server.Close()
	self, err := process.Find(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	parent, err := process.Find(os.Getppid())
	if err != nil {
		t.Fatal(err)
	}
	if err := (&gatewayProcess{dir: dir, running: self}).waitReady(t.Context()); err != nil {
		t.Errorf("the running gateway answers: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := (&gatewayProcess{dir: dir, running: parent}).waitReady(ctx); err == nil || !strings.Contains(err.Error(), "wait for the gateway") {
		t.Errorf("another process answers: %v", err)
	}
}

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

// A gateway that was told to end a moment ago may still finish its requests.
func TestAWantedPortThatBecomesFreeIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wanted := l.Addr().String()
	time.AfterFunc(50*time.Millisecond, func() { l.Close() })
	if got, err := chooseAddress("gateway-listen", wanted, false, "", ":80"); err != nil || got != wanted {
		t.Errorf("%q, %v; want %s", got, err, wanted)
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
