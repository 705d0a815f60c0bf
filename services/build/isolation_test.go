package build

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/testenv"
)

// TestAHostileDockerfileReachesNothingOnThisMachine: everything that a step tries
// against the machine fails, and what it needs from outside works.
func TestAHostileDockerfileReachesNothingOnThisMachine(t *testing.T) {
	testenv.NeedContainers(t)
	out := newOutside(t)
	t.Setenv("BUILD_TEST_UPLINK", out.uplink)
	e := newEnv(t)
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("s3cret"), 0o644))
	// On every address of the machine, as the API is.
	all, err := net.Listen("tcp", "0.0.0.0:0")
	must(t, err)
	serveText(t, all, "s3cret")
	port := all.Addr().(*net.TCPAddr).Port

	try := func(name, command string) string {
		return fmt.Sprintf("if %s >/tmp/o 2>&1; then echo %s: yes; else echo %s: no; cat /tmp/o >&2; fi >>/report\n", command, name, name)
	}
	get := func(hostPort string) string { // prints the answer, and fails without one
		host, port, err := net.SplitHostPort(hostPort)
		must(t, err)
		return fmt.Sprintf("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 %s %s | grep .", host, port)
	}
	var script strings.Builder
	for _, c := range [][2]string{
		{"outside", get(out.addr) + " | grep -q outside"},
		{"a port below 1024", "timeout 1 nc -l -p 80 -e true; test $? -eq 143 -o $? -eq 124"},
		{"the registry", get(e.host)},
		{"the loopback of the machine", get(fmt.Sprintf("127.0.0.1:%d", port))},
		{"the address of the machine", get(fmt.Sprintf("%s:%d", out.hostAddr, port))},
		{"the address of the gateway", get(fmt.Sprintf("169.254.1.1:%d", port))},
		{"metadata of a cloud", get("169.254.169.254:80")},
		{"a file of the machine", "cat " + secret},
		{"a process of the machine", "test -e /proc/" + fmt.Sprint(os.Getpid())},
		{"the processes of root", "ls /proc/1/root/" + filepath.Dir(secret)},
		{"a device", "mknod /tmp/d b 259 0"},
		{"a mount", "mount -t tmpfs none /mnt"},
		{"the interface", "ip addr add 192.0.2.99/24 dev eth0"},
		{"kernel settings", "sh -c 'echo 1 >/proc/sys/kernel/sysrq'"},
		{"control groups", "test -e /sys/fs/cgroup"},
		{"a new owner", "sh -c 'touch /tmp/f && chown 12:34 /tmp/f'"},
	} {
		script.WriteString(try(c[0], "{ "+c[1]+"; }"))
	}
	script.WriteString("cat /proc/self/uid_map >>/report\n")
	dir := e.context(t, map[string]string{
		"attack": script.String(),
		"Dockerfile": "FROM " + e.host + "/base/busybox\nADD http://" + out.addr + "/ /added\nCOPY attack /\n" +
			"RUN mkdir -p /tmp /mnt && sh /attack; mkdir -p /data && touch /data/f && chown 4242 /data/f && rm /attack\n",
	})
	tag := e.host + "/hostile:1"
	res := e.build(t, Options{ContextDir: dir, Tags: []string{tag}, Push: true})
	files, _ := pulled(t, tag, res.Digest)
	report := files["report"]
	t.Log(report)
	for _, line := range strings.Split(strings.TrimSpace(report), "\n") {
		name, answer, ok := strings.Cut(line, ": ")
		may := name == "outside" || name == "a new owner" || name == "a port below 1024"
		if ok && (answer == "yes") != may {
			t.Errorf("a step reaches %q: %s", name, answer)
		}
	}
	if strings.Count(report, ": ") != 16 || strings.Contains(report, "0          0 ") {
		t.Errorf("report: %s", report)
	}
	if files["added"] != "outside" || files["attack"] != "" {
		t.Errorf("added %q, removed %q", files["added"], files["attack"])
	}
	if uid := ownerIn(t, tag, "data/f"); uid != 4242 {
		t.Errorf("the owner in the image is %d", uid)
	}
}

func TestWhatADockerfileMayNotAskForIsRefused(t *testing.T) {
	e := newEnv(t)
	inside, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	serveText(t, inside, "s3cret")
	from := "FROM " + e.host + "/base/busybox\n"
	for says, dockerfile := range map[string]string{
		"network.host":                     from + "RUN --network=host true\n",
		"security.insecure":                "# syntax=docker/dockerfile:1\n" + from + "RUN --security=insecure true\n",
		"may not reach 127.0.0.1":          "FROM scratch\nADD http://" + inside.Addr().String() + "/ /x\n",
		"may not reach 169.254.169.254":    "FROM scratch\nADD http://169.254.169.254/latest/ /x\n",
		"a Git repository cannot be added": "FROM scratch\nADD https://127.0.0.1:1/x.git /x\n",
		"\"/etc/passwd\": not found":       "FROM scratch\nCOPY ../../../etc/passwd /x\n",
		"\"/out/passwd\": not found":       "FROM scratch\nCOPY out/passwd /x\n",
		"\"/file\": not found":             "FROM scratch\nCOPY file /x\n",
	} {
		dir := e.context(t, map[string]string{"Dockerfile": dockerfile})
		must(t, os.Symlink("/etc", filepath.Join(dir, "out")))
		must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "file")))
		_, err := e.client.Build(context.Background(), Options{ContextDir: dir})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: want %q, got %v", dockerfile, says, err)
		}
	}
}

// outside is a host in a network namespace, behind an interface that is declared
// the way to the outside.
type outside struct{ uplink, hostAddr, addr string }

func newOutside(t *testing.T) outside {
	t.Helper()
	const hostIP, outsideIP = "198.18.201.1", "198.18.201.2"
	o := outside{uplink: fmt.Sprintf("gbout%d", os.Getpid()%100000), hostAddr: hostIP}
	listener := make(chan net.Listener, 1)
	failed := make(chan error, 1)
	host, err := netns.Get()
	must(t, err)
	defer host.Close()
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread stays inside until it ends
		l, err := func() (net.Listener, error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return nil, err
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "out"
			if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: o.uplink, PeerNamespace: netlink.NsFd(int(host))}); err != nil {
				return nil, err
			}
			if err := configure("out", outsideIP); err != nil {
				return nil, err
			}
			return net.Listen("tcp", outsideIP+":0")
		}()
		failed <- err
		listener <- l
	}()
	must(t, <-failed)
	must(t, configure(o.uplink, hostIP))
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(o.uplink); err == nil {
			_ = netlink.LinkDel(l)
		}
	})
	l := <-listener
	o.addr = l.Addr().String()
	serveText(t, l, "outside")
	return o
}

func configure(name, ip string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(ip + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(l, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func serveText(t *testing.T, l net.Listener, text string) {
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
}
