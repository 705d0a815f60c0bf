package isolation

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/internal/testenv"
)

// forEach runs an attack against every driver.
func forEach(t *testing.T, attack func(t *testing.T, c *candidate)) {
	for _, name := range candidates {
		t.Run(name, func(t *testing.T) { attack(t, open(t, name)) })
	}
}

// fingerprints are those of all programs that the host runs containers with.
func (c *candidate) fingerprints(t *testing.T) map[string][32]byte {
	t.Helper()
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][32]byte{}
	for _, path := range []string{runc, c.shim, c.init, c.programs.probe} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[path] = sha256.Sum256(text)
	}
	return all
}

// broken fails the test, but for the reference, where it is nothing of ours to
// mend: runc 1.1 makes mount targets and the links of /dev through links of the
// image, and shows more to a container that may trace.
func (c *candidate) broken(t *testing.T, format string, args ...any) {
	t.Helper()
	if c.name == candidates[0] {
		t.Logf("the reference: "+format, args...)
		return
	}
	t.Errorf(format, args...)
}

func (c *candidate) unchanged(t *testing.T, before map[string][32]byte) {
	t.Helper()
	for path, sum := range c.fingerprints(t) {
		if before[path] != sum {
			t.Errorf("%s: %s was changed", c.name, path)
		}
	}
}

// A container whose command is /proc/self/exe runs the runtime's own program, if
// anything: it must come to nothing, and the program must stay what it is.
func TestAContainerMayNotRunTheRuntime(t *testing.T) {
	forEach(t, func(t *testing.T, c *candidate) {
		before := c.fingerprints(t)
		k := c.container()
		k.Args = []string{"/proc/self/exe", "facts"}
		if _, err := c.driver.Start(c.context(), k); err == nil {
			c.wait(k.ID)
			if out := c.output(k); strings.Contains(out, `"pid"`) {
				t.Errorf("it ran: %s", out)
			}
		}
		c.unchanged(t, before)
		link := c.container()
		if err := os.Symlink("/proc/self/exe", filepath.Join(link.Rootfs, "entry")); err != nil {
			t.Fatal(err)
		}
		link.Args = []string{"/entry"}
		if _, err := c.driver.Start(c.context(), link); err == nil {
			c.wait(link.ID)
		}
		c.unchanged(t, before)
	})
}

// A container watches every process that enters it: what it gets to see must not
// be the host's, and writing to it must fail, even when it may trace.
func TestAnExecIsNotADoor(t *testing.T) {
	testenv.LongRunning(t)
	for _, capabilities := range [][]string{nil, {"SYS_PTRACE"}, {"SYS_PTRACE", "SYS_ADMIN", "DAC_READ_SEARCH"}} {
		t.Run("with "+strings.Join(capabilities, " "), func(t *testing.T) {
			forEach(t, func(t *testing.T, c *candidate) {
				before := c.fingerprints(t)
				k := c.container("watch")
				k.Security.AddCapabilities = capabilities
				k.Security.SeccompUnconfined = capabilities != nil
				c.start(k)
				c.says(k, "watching")
				for range 40 {
					c.driver.Exec(c.context(), k.ID, runtime.Exec{Args: []string{"/probe", "true"}}, runtime.Streams{})
				}
				c.sawNothing(t, k, "OVERWROTE", "ESCAPED", "PRIVILEGED")
				for range 20 { // the runtime's program as the container's own
					c.driver.Exec(c.context(), k.ID, runtime.Exec{Args: []string{"/proc/self/exe", "true"}}, runtime.Streams{})
				}
				c.sawNothing(t, k, "OVERWROTE", "ESCAPED", "PRIVILEGED")
				c.unchanged(t, before)
			})
		})
	}
}

// The same with a pid namespace that containers share: one watches while another
// starts. One that may trace gets hold of whatever starts beside it, as with
// runc; docs/isolation.md says so. It still sees no root of the host.
func TestAStartIsNotADoorForANeighbour(t *testing.T) {
	testenv.LongRunning(t)
	for _, capabilities := range [][]string{nil, {"SYS_PTRACE"}} {
		t.Run("with "+strings.Join(capabilities, " "), func(t *testing.T) {
			forEach(t, func(t *testing.T, c *candidate) {
				before := c.fingerprints(t)
				spy := c.container("watch")
				spy.Security.AddCapabilities = capabilities
				state := c.start(spy)
				c.says(spy, "watching")
				for range 20 {
					k := c.container("true")
					k.Namespaces.PID = "/proc/" + strconv.Itoa(state.PID) + "/ns/pid"
					if _, err := c.driver.Start(c.context(), k); err != nil {
						t.Logf("start: %v", err) // the spy may hold it up, but not get in
					}
				}
				if capabilities == nil {
					c.sawNothing(t, spy, "OVERWROTE", "ESCAPED", "PRIVILEGED")
				} else {
					c.sawNothing(t, spy, "OVERWROTE", "ESCAPED: saw another root")
				}
				c.unchanged(t, before)
				// First the spy: what it traces is gone only when it is.
				c.remove(spy.ID)
			})
		})
	}
}

// sawNothing fails when a spy reports one of these findings.
func (c *candidate) sawNothing(t *testing.T, spy *runtime.Container, findings ...string) {
	t.Helper()
	// The program of a container, which a neighbour may own, is not the host's.
	out := strings.ReplaceAll(c.output(spy), "OVERWROTE /probe", "overwrote /probe")
	t.Logf("%s", out)
	for _, finding := range findings {
		if strings.Contains(out, finding) {
			c.broken(t, "a spy reports %q", finding)
		}
	}
}

// One container exchanges a directory of a shared volume with a link to the
// host, as fast as it can, while another starts that has mounts below it.
func TestMountTargetsCannotBeSwapped(t *testing.T) {
	testenv.LongRunning(t)
	forEach(t, func(t *testing.T, c *candidate) {
		outside, shared := c.directory("outside"), c.directory("shared")
		c.directory("shared/dir")
		if err := os.Symlink(outside, filepath.Join(shared, "link")); err != nil {
			t.Fatal(err)
		}
		source := c.directory("source")
		c.file("source/secret", "x")
		swapper := c.container("swap", "/volume/dir", "/volume/link")
		swapper.Mounts = []runtime.Mount{{Source: shared, Target: "/volume"}}
		c.start(swapper)
		c.says(swapper, "swapping")
		started := 0
		for i := range 40 {
			k := c.container("true")
			k.Mounts = []runtime.Mount{
				{Source: shared, Target: "/volume"},
				{Source: source, Target: "/volume/dir/made-" + strconv.Itoa(i)},
				{Source: filepath.Join(source, "secret"), Target: "/volume/dir/file-" + strconv.Itoa(i)},
				{Target: "/volume/dir/tmpfs-" + strconv.Itoa(i)},
			}
			if _, err := c.driver.Start(c.context(), k); err == nil {
				started++
				c.wait(k.ID)
				c.remove(k.ID)
			}
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil || strings.Contains(string(mounts), outside) {
				t.Fatalf("%s: something was mounted outside (%v)", c.name, err)
			}
		}
		t.Logf("%d of 40 started while the directory was being swapped", started)
		if entries, _ := os.ReadDir(outside); len(entries) > 0 {
			c.broken(t, "something was made outside the containers: %v", entries)
		}
	})
}

// Devices, /proc and /sys of an image that are links lead nowhere.
func TestSystemDirectoriesThatAreLinks(t *testing.T) {
	for _, name := range []string{"proc", "sys", "dev", "etc", "proc/sys", "dev/null"} {
		t.Run(strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
			forEach(t, func(t *testing.T, c *candidate) {
				outside := c.directory("outside")
				k := c.container("true")
				path := filepath.Join(k.Rootfs, name)
				os.RemoveAll(path)
				if err := os.Symlink(outside, path); err != nil {
					t.Fatal(err)
				}
				_, err := c.driver.Start(c.context(), k)
				t.Logf("start: %v", err)
				if err == nil {
					c.wait(k.ID)
				}
				if entries, _ := os.ReadDir(outside); len(entries) > 0 {
					c.broken(t, "something was made outside the container: %v", entries)
				}
				for _, device := range []string{"/dev/null", "/dev/zero", "/dev/tty"} {
					if info, err := os.Lstat(device); err != nil || info.Mode()&os.ModeCharDevice == 0 {
						t.Fatalf("the host's %s is no device any more: %v", device, err)
					}
				}
			})
		})
	}
}

// Root of a user namespace that may mount could make writable what the host
// mounts read-only. With runc the kernel keeps it from doing so; ours refuses.
func TestReadOnlyOfTheHostStaysSo(t *testing.T) {
	forEach(t, func(t *testing.T, c *candidate) {
		k := c.container("facts")
		k.Namespaces.UserNS = &runtime.UserNS{HostID: 300000, Length: 65536}
		k.Security.Privileged = true
		chown(t, k.Rootfs, 300000)
		k.Mounts = []runtime.Mount{{Source: c.readOnly(), Target: "/volume"}}
		if _, err := c.driver.Start(c.context(), k); err != nil {
			if c.name != "gantry" || !strings.Contains(err.Error(), "the host mounts it read-only") {
				t.Errorf("%v", err)
			}
			return
		}
		c.wait(k.ID)
		if got := c.findings(k, c.output(k))["make a volume writable"]; got != "EPERM" {
			t.Errorf("%s: %q", c.name, got)
		}
	})
}

// A container that asks for what would reach the host is refused.
func TestWhatReachesTheHostIsRefused(t *testing.T) {
	for _, test := range []struct {
		name string
		ask  func(k *runtime.Container)
	}{
		{"a sysctl of the whole machine", func(k *runtime.Container) { k.Sysctls = map[string]string{"kernel.panic": "0"} }},
		{"a sysctl with a path", func(k *runtime.Container) { k.Sysctls = map[string]string{"net/../kernel/panic": "0"} }},
		{"a sysctl of the host's network", func(k *runtime.Container) {
			k.Namespaces.Net = runtime.Host
			k.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"}
		}},
		{"a sysctl of the host's queues", func(k *runtime.Container) {
			k.Namespaces.IPC = runtime.Host
			k.Sysctls = map[string]string{"kernel.shm_rmid_forced": "0"}
		}},
		{"a volume on /proc", func(k *runtime.Container) { k.Mounts = []runtime.Mount{{Source: "/etc", Target: "/proc"}} }},
		{"a volume below /proc", func(k *runtime.Container) {
			k.Mounts = []runtime.Mount{{Source: "/etc", Target: "/proc/sys/kernel"}}
		}},
		{"a volume that covers a mask", func(k *runtime.Container) {
			k.Mounts = []runtime.Mount{{Source: "/etc/hostname", Target: "/proc/self/attr/exec"}}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			forEach(t, func(t *testing.T, c *candidate) {
				k := c.container("true")
				test.ask(k)
				_, err := c.driver.Start(c.context(), k)
				if err == nil {
					t.Error("it started")
				}
				t.Logf("%v", err)
			})
		})
	}
}

func TestALimitOfProcessesHolds(t *testing.T) {
	forEach(t, func(t *testing.T, c *candidate) {
		k := c.container("bomb")
		k.Resources.PidsLimit = 64
		c.start(k)
		c.says(k, "bomb started")
		stats, err := c.driver.Stats(c.context(), k.ID)
		if err != nil || stats.Pids > 64 {
			t.Errorf("%d processes (%v)", stats.Pids, err)
		}
		if out := c.output(k); !strings.Contains(out, "EAGAIN") {
			t.Errorf("the bomb was not stopped by the limit: %s", out)
		}
		if _, err := c.driver.Exec(c.context(), k.ID, runtime.Exec{Args: []string{"/probe", "true"}}, runtime.Streams{}); err == nil {
			t.Log("a process could still enter")
		}
		c.remove(k.ID)
	})
}

func TestALimitOfMemoryHolds(t *testing.T) {
	forEach(t, func(t *testing.T, c *candidate) {
		k := c.container("eat")
		k.Resources.MemoryLimit = 64 << 20
		c.start(k)
		if state := c.wait(k.ID); state.ExitCode != 137 {
			t.Errorf("exit code %d; it says %q", state.ExitCode, c.output(k))
		}
		eventually(t, "the end is known as one for lack of memory", func() bool { return c.state(k.ID).OOMKilled })
	})
}

// Programs of the 32-bit architecture run under the default filter.
func TestTheOtherArchitectureRuns(t *testing.T) {
	forEach(t, func(t *testing.T, c *candidate) {
		k := c.container()
		c.copy(c.probe386, filepath.Join(k.Rootfs, "probe32"))
		k.Args = []string{"/probe32"}
		c.start(k)
		if state := c.wait(k.ID); state.ExitCode != 0 || !strings.Contains(c.output(k), "32 bits: <nil>") {
			t.Errorf("exit code %d: %s", state.ExitCode, c.output(k))
		}
	})
}
