package driver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

func TestDefaultsConfine(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		out, _ := h.run(h.container(`
		grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
		wc -c < /proc/timer_list
		ls /sys/firmware
		touch /sys/x 2>/dev/null && echo sys writable
		echo 1 2>/dev/null > /proc/sys/kernel/panic && echo proc/sys writable
		unshare -U true 2>/dev/null && echo may unshare
		mount -t tmpfs x /tmp 2>/dev/null && echo may mount
		head -c1 /dev/null && echo null ok
		mknod /tmp/sda b 8 0 && head -c1 /tmp/sda 2>/dev/null && echo disk readable
		for d in /sys/fs/cgroup/memory /sys/fs/cgroup/system.slice; do mkdir $d/x 2>/dev/null && echo cgroup writable; done
		hostname; ls /proc/1/root/bin/busybox; echo $PATH`))
		for _, want := range []string{
			"CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "NoNewPrivs:\t1", "Seccomp:\t2",
			"\n0\n", "null ok", "\nc1\n", "/usr/sbin",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in:\n%s", want, out)
			}
		}
		for _, bad := range []string{"writable", "may ", "disk readable"} {
			if strings.Contains(out, bad) {
				t.Errorf("%q in:\n%s", bad, out)
			}
		}
	})
}

func TestSecurityContextOpensAndCloses(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		const caps = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; "
		for _, test := range []struct {
			name     string
			security runtime.Security
			want     []string
		}{
			{"drop all", runtime.Security{DropCapabilities: []string{"ALL"}}, []string{"CapEff:\t0000000000000000"}},
			{"drop all add one", runtime.Security{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"net_bind_service"}}, []string{"CapEff:\t0000000000000400"}},
			{"add one", runtime.Security{AddCapabilities: []string{"NET_ADMIN"}, AllowPrivilegeEsc: true}, []string{"CapEff:\t00000000a80435fb", "NoNewPrivs:\t0"}},
			{"no seccomp", runtime.Security{SeccompUnconfined: true}, []string{"Seccomp:\t0"}},
			{"unmasked", runtime.Security{UnmaskedProc: true}, []string{"panic ok"}},
			{"privileged", runtime.Security{Privileged: true}, []string{"Seccomp:\t0", "NoNewPrivs:\t0", "panic ok"}},
		} {
			t.Run(test.name, func(t *testing.T) {
				c := h.container(caps + "cat /proc/sys/kernel/panic > /tmp/p && cat /tmp/p 2>/dev/null > /proc/sys/kernel/panic && echo panic ok")
				c.Security = test.security
				out, _ := h.run(c)
				for _, want := range test.want {
					if !strings.Contains(out, want) {
						t.Errorf("%q is missing in:\n%s", want, out)
					}
				}
			})
		}
	})
}

func TestUnprivilegedUser(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("id; grep CapEff /proc/self/status; echo by name > /dev/stdout; touch /etc/x || echo refused")
		c.User = runtime.User{UID: 1000, GID: 1001, AdditionalGroups: []uint32{5, 6}}
		out, _ := h.run(c)
		for _, want := range []string{"uid=1000 gid=1001 groups=5,6", "CapEff:\t0000000000000000", "by name\n", "refused"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in:\n%s", want, out)
			}
		}
	})
}

func TestReadOnlyRoot(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		source := filepath.Join(h.dir, "volume")
		if err := os.MkdirAll(source, 0o777); err != nil {
			t.Fatal(err)
		}
		c := h.container("touch /x 2>&1; touch /data/y && echo data ok; touch /ro/z 2>&1; echo 1 > /scratch/a && echo scratch ok; echo 1 > /dev/shm/a && echo shm ok")
		c.ReadOnlyRootfs = true
		for _, dir := range []string{"data", "ro", "scratch"} {
			if err := os.Mkdir(filepath.Join(c.Rootfs, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		c.Mounts = []runtime.Mount{
			{Source: source, Target: "/data"},
			{Source: source, Target: "/ro", ReadOnly: true},
			{Target: "/scratch", SizeBytes: 1 << 20},
		}
		out, _ := h.run(c)
		for _, want := range []string{"/x: Read-only file system", "data ok", "/ro/z: Read-only file system", "scratch ok", "shm ok"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in:\n%s", want, out)
			}
		}
	})
}

func TestMountTargetsStayInsideTheRoot(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		source := filepath.Join(h.dir, "volume")
		outside := filepath.Join(h.dir, "outside")
		for _, dir := range []string{source, outside} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(source, "file"), []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
		c := h.container("cat /evil/file; cat /a/new/dir/file")
		if err := os.Symlink(outside, filepath.Join(c.Rootfs, "evil")); err != nil {
			t.Fatal(err)
		}
		c.Mounts = []runtime.Mount{{Source: source, Target: "/evil"}, {Source: source, Target: "/a/new/dir"}}
		out, _ := h.run(c)
		if out != "minemine" {
			t.Errorf("output %q", out)
		}
		if entries, _ := os.ReadDir(outside); len(entries) > 0 {
			t.Errorf("the mount escaped: %v", entries)
		}
	})
}

func TestUserNamespace(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("id -u; cat /proc/self/uid_map; echo to > /dev/stdout; touch /tmp/x && echo wrote; exec sleep 1000")
		c.Namespaces.UserNS = &runtime.UserNS{HostID: 200000, Length: 65536}
		err := filepath.WalkDir(c.Rootfs, func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, 200000, 200000)
		})
		if err != nil {
			t.Fatal(err)
		}
		state := h.start(c)
		eventually(t, "it has written", func() bool { return strings.Contains(h.output(c), "wrote") })
		if out := strings.Join(strings.Fields(h.output(c)), " "); out != "0 0 200000 65536 to wrote" {
			t.Errorf("output %q", out)
		}
		info, err := os.Stat(filepath.Join("/proc", itoa(state.PID)))
		if err != nil {
			t.Fatal(err)
		}
		if owner := uidOf(info); owner != 200000 {
			t.Errorf("on the host the process belongs to %d", owner)
		}
		if out, _ := h.exec(c.ID, "id -u"); out != "0\n" {
			t.Errorf("exec as %q", out)
		}
	})
}

func TestDevicesAndSysctls(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		c := h.container("cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls -l /dev/fuse")
		c.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}
		if _, err := os.Stat("/dev/fuse"); err == nil {
			c.Devices = []runtime.Device{{Host: "/dev/fuse"}}
		}
		out, _ := h.run(c)
		if !strings.HasPrefix(out, "0\n") {
			t.Errorf("output %q", out)
		}
		if c.Devices != nil && !strings.Contains(out, "10, 229") {
			t.Errorf("the device is missing: %q", out)
		}
	})
}

func TestRefusalsExplainThemselves(t *testing.T) {
	eachHandler(t, func(t *testing.T, h *host) {
		for _, test := range []struct {
			name   string
			change func(c *runtime.Container)
			want   string
		}{
			{"unknown command", func(c *runtime.Container) { c.Args = []string{"/no/such/program"} }, "no such file or directory"},
			{"no command", func(c *runtime.Container) { c.Args = nil }, "no command"},
			{"unknown handler", func(c *runtime.Container) { c.Handler = "gvisor" }, `unknown runtime handler "gvisor"`},
			{"unknown capability", func(c *runtime.Container) { c.Security.AddCapabilities = []string{"FLY"} }, `capability "FLY"`},
			{"missing volume", func(c *runtime.Container) {
				c.Mounts = []runtime.Mount{{Source: "/no/such/volume", Target: "/v"}}
			}, "/no/such/volume"},
			{"bad id", func(c *runtime.Container) { c.ID = "../x" }, `container id "../x"`},
			{"escaping cgroup", func(c *runtime.Container) { c.CgroupParent = "../../x" }, "without .."},
			{"missing profile", func(c *runtime.Container) { c.Security.SeccompProfile = "/no/profile" }, "/no/profile"},
		} {
			t.Run(test.name, func(t *testing.T) {
				c := h.container("true")
				test.change(c)
				_, err := h.driver.Start(h.context(), c)
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q in it", err, test.want)
				}
				if test.name == "unknown handler" && !errors.Is(err, ErrUnknownHandler) {
					t.Errorf("%v is not ErrUnknownHandler", err)
				}
				if entries, _ := os.ReadDir(h.driver.containersDir()); len(entries) > 0 {
					t.Errorf("the failed start left %v", entries)
				}
				h.checkGroups()
			})
		}
	})
}

func TestMissingRuntimeNamesTheRemedy(t *testing.T) {
	h := newHost(t)
	h.driver.config.Handlers = map[string]string{"runc": "no-such-runc"}
	c := h.container("true")
	c.Handler = "runc"
	_, err := h.driver.Start(h.context(), c)
	if err == nil || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("error %v", err)
	}
}
