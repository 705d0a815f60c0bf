package login

import (
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/testenv"
)

// dialEnv makes the test program connect to an address, say so, and wait.
const dialEnv = "GANTRY_TEST_DIAL"

func TestMain(m *testing.M) {
	if address := os.Getenv(dialEnv); address != "" {
		c, err := net.Dial("tcp", address)
		if err != nil {
			panic(err)
		}
		_, _ = c.Write([]byte("x"))
		_, _ = c.Read(make([]byte, 1)) // until the test closes
		return
	}
	os.Exit(m.Run())
}

func TestTheKernelSaysWhoseTheOtherEndIs(t *testing.T) {
	testenv.NeedRoot(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Skipf("%s: %v", address, err)
		}
		defer l.Close()
		for _, uid := range []uint32{0, 65534} {
			c := dialAs(t, l, uid)
			if got, err := peerUser(c); err != nil || got != uid {
				t.Errorf("%s: user %d, %v; want %d", address, got, err, uid)
			}
		}
	}
}

// Only loopback is this machine for sure: another address may be another machine's by the
// time that the kernel is asked, or a pod's by way of the bridge.
func TestAConnectionThatIsNotOverLoopbackIsNobodys(t *testing.T) {
	testenv.NeedRoot(t)
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		ip := a.(*net.IPNet).IP
		if ip.IsLoopback() || ip.To4() == nil {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort(ip.String(), "0"))
		if err != nil {
			continue // it has gone since
		}
		defer l.Close()
		if uid, err := peerUser(dialAs(t, l, 0)); err == nil {
			t.Errorf("%s: taken for user %d", ip, uid)
		}
		return
	}
	t.Skip("this machine has no address but loopback")
}

// dialAs returns the connection of a process of another user.
func dialAs(t *testing.T, l net.Listener, uid uint32) net.Conn {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), dialEnv+"="+l.Addr().String())
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		_ = cmd.Wait()
	})
	return c
}

// A socket that its process has closed is nobody's, and the kernel calls nobody user 0.
func TestAClientThatHasGoneIsNotRoot(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, leave := range map[string]func(*net.TCPConn) error{
		"closes":   (*net.TCPConn).Close,
		"resets":   func(c *net.TCPConn) error { _ = c.SetLinger(0); return c.Close() },
		"finishes": (*net.TCPConn).CloseWrite,
	} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("PUT /v2/")); err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		if err := leave(c.(*net.TCPConn)); err != nil {
			t.Fatal(err)
		}
		_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
		for err = error(nil); err == nil; { // until the end has arrived
			_, err = server.Read(make([]byte, 16))
		}
		if uid, err := peerUser(server); err == nil {
			t.Errorf("a client that %s is taken for user %d", name, uid)
		}
	}
}
