package probe

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/kubernetes/pkg/probe"
	tcpprobe "k8s.io/kubernetes/pkg/probe/tcp"
)

// What a probe says must be what upstream's says.
func TestATCPProbeSaysWhatUpstreamSays(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	open := listener.Addr().(*net.TCPAddr).Port
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := gone.Addr().(*net.TCPAddr).Port
	gone.Close()
	ours, theirs := connector{tcpprobe.New()}, tcpprobe.New()
	for _, c := range []struct {
		name, host string
		port       int
		timeout    time.Duration
		want       probe.Result
	}{
		{"listening", "127.0.0.1", open, time.Second, probe.Success},
		{"by name", "localhost", open, time.Second, probe.Success},
		{"not listening", "127.0.0.1", closed, time.Second, probe.Failure},
		{"no such port", "127.0.0.1", 70000, time.Second, probe.Failure},
		{"too late", "127.0.0.1", open, -time.Second, probe.Failure},
	} {
		result, output, err := ours.Probe(c.host, c.port, c.timeout)
		upstream, said, upstreamErr := theirs.Probe(c.host, c.port, c.timeout)
		if result != c.want || result != upstream || output != said || (err == nil) != (upstreamErr == nil) {
			t.Errorf("%s: %s %q %v, upstream %s %q %v", c.name, result, output, err, upstream, said, upstreamErr)
		}
	}
}

// A port whose queue is full lets the question go unanswered.
func TestATCPProbeGivesUpInTime(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	raw, err := listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := shorten(raw); err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	const timeout = 50 * time.Millisecond
	for range 10 { // nobody accepts, so that the queue fills
		began := time.Now()
		result, output, err := connector{tcpprobe.New()}.Probe("127.0.0.1", port, timeout)
		if result == probe.Success {
			continue
		}
		if took := time.Since(began); err != nil || took < timeout || !strings.Contains(output, "i/o timeout") {
			t.Errorf("gave up after %v: %s %q %v", took, result, output, err)
		}
		return
	}
	t.Error("a port that nobody serves answers for ever")
}

// shorten makes a listener's queue as short as can be.
func shorten(raw syscall.RawConn) error {
	var listenErr error
	err := raw.Control(func(fd uintptr) { listenErr = unix.Listen(int(fd), 0) })
	return errors.Join(err, listenErr)
}
