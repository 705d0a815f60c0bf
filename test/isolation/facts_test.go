package isolation

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// situation is a container whose isolation both drivers must make the same way.
type situation struct {
	name string
	make func(t *testing.T, c *candidate, k *runtime.Container)
	// must are findings that are right whatever the reference does: name to value,
	// or values with | between them; the empty one means that there is no finding.
	must map[string]string
}

// situations are the table of containers.
func situations() []situation {
	security := func(s runtime.Security) func(*testing.T, *candidate, *runtime.Container) {
		return func(_ *testing.T, _ *candidate, k *runtime.Container) { k.Security = s }
	}
	return append([]situation{
		{"plain", security(runtime.Security{}), confined},
		{"an ordinary user", func(_ *testing.T, _ *candidate, k *runtime.Container) {
			k.User = runtime.User{UID: 1000, GID: 1001, AdditionalGroups: []uint32{5, 2000}}
			k.Cwd, k.Env = "/tmp", []string{"B=c", "A=b", "PATH=/"}
		}, merge(confined, map[string]string{"status CapEff": "0000000000000000", "groups": "[5 2000]", "status Uid": "1000 1000 1000 1000"})},
		{"nothing allowed", security(runtime.Security{DropCapabilities: []string{"ALL"}}), merge(confined, map[string]string{"status CapBnd": "0000000000000000", "status CapPrm": "0000000000000000"})},
		{"one capability", security(runtime.Security{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}), confined},
		{"network administrator", security(runtime.Security{AddCapabilities: []string{"NET_ADMIN", "NET_RAW"}}), nil},
		{"tracer", security(runtime.Security{AddCapabilities: []string{"SYS_PTRACE"}}), nil},
		{"administrator", security(runtime.Security{AddCapabilities: []string{"SYS_ADMIN", "SYS_TIME", "SYS_MODULE"}, AllowPrivilegeEsc: true}), nil},
		{"all capabilities", security(runtime.Security{AddCapabilities: []string{"ALL"}}), nil},
		{"privilege escalation", security(runtime.Security{AllowPrivilegeEsc: true}), map[string]string{"prctl no new privileges": "0", "status Seccomp": "2"}},
		{"no filter", security(runtime.Security{SeccompUnconfined: true}), map[string]string{"status Seccomp": "0", "session keyring": "keyring;0;0;3f1b0000;_ses.ID|keyring;0;0;3f130000;_ses.ID"}},
		{"unmasked", security(runtime.Security{UnmaskedProc: true}), nil},
		{"privileged", security(runtime.Security{Privileged: true}), nil},
		{"privileged user", func(_ *testing.T, _ *candidate, k *runtime.Container) {
			k.Security, k.User = runtime.Security{Privileged: true}, runtime.User{UID: 1000, GID: 1000}
		}, nil},
		{"filter of its own", func(t *testing.T, c *candidate, k *runtime.Container) {
			path := filepath.Join(c.dir, "profile.json")
			profile := `{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],"syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13},{"names":["socket"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":40,"op":"SCMP_CMP_EQ"}]}]}`
			if err := os.WriteFile(path, []byte(profile), 0o600); err != nil {
				t.Fatal(err)
			}
			k.Security.SeccompProfile = path
		}, map[string]string{"make a directory in /tmp": "EACCES", "socket vsock": "EPERM"}},
		{"read-only root", func(_ *testing.T, _ *candidate, k *runtime.Container) { k.ReadOnlyRootfs = true }, map[string]string{
			"make a file in /tmp": "EROFS", "make a file in /": "EROFS", "make a file in /etc": "EROFS", "make a file in /dev/shm": "done",
		}},
		{"limits", func(_ *testing.T, _ *candidate, k *runtime.Container) {
			k.Resources = runtime.Resources{CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, MemoryLimit: 256 << 20, PidsLimit: 100, OOMScoreAdj: 500}
		}, map[string]string{"self oom_score_adj": "500"}},
		{"sysctls", func(_ *testing.T, _ *candidate, k *runtime.Container) {
			k.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1", "net.core.somaxconn": "1234"}
		}, confined},
	}, placements()...)
}

// placements are situations about mounts, namespaces and devices.
func placements() []situation {
	return []situation{
		{"mounts", func(t *testing.T, c *candidate, k *runtime.Container) {
			source := c.directory("source")
			c.file("source/file", "text")
			k.Mounts = []runtime.Mount{
				{Source: source, Target: "/volume"},
				{Source: source, Target: "/readonly", ReadOnly: true},
				{Source: filepath.Join(source, "file"), Target: "/etc/hostname", ReadOnly: true},
				{Source: source, Target: "/new/directory"},
				{Target: "/scratch", SizeBytes: 1 << 20},
				{Source: source, Target: "/run", Propagation: "rslave"},
			}
		}, map[string]string{"make a file in /readonly": "EROFS", "make a file in /volume": "done", "make a file in /scratch": "done", "open /etc/hostname for writing": "EROFS"}},
		{"devices", func(t *testing.T, _ *candidate, k *runtime.Container) {
			k.Devices = []runtime.Device{{Host: "/dev/full"}, {Host: "/dev/kmsg"}}
			if _, err := os.Stat("/dev/fuse"); err == nil {
				k.Devices = append(k.Devices, runtime.Device{Host: "/dev/fuse"})
			}
		}, nil},
		{"names of the image point elsewhere", func(t *testing.T, c *candidate, k *runtime.Container) {
			outside := c.directory("outside")
			for name, target := range map[string]string{
				"volume": outside, "readonly": "../../../../../../../../../" + outside, "scratch": "/missing/" + outside, "run": "etc/loop", "etc/loop": "/tmp/deep", "tmp/deep": "../etc/end",
			} {
				path := filepath.Join(k.Rootfs, name)
				os.Remove(path)
				if err := os.Symlink(target, path); err != nil {
					t.Fatal(err)
				}
			}
			source := c.directory("source")
			k.Mounts = []runtime.Mount{
				{Source: source, Target: "/volume"}, {Source: source, Target: "/readonly", ReadOnly: true},
				{Source: source, Target: "/scratch/below"}, {Target: "/run/deeper"},
			}
		}, nil},
		{"a namespace of users", func(t *testing.T, c *candidate, k *runtime.Container) {
			k.Namespaces.UserNS = &runtime.UserNS{HostID: 300000, Length: 65536}
			chown(t, k.Rootfs, 300000)
		}, map[string]string{"self uid_map": "0 300000 65536", "self setgroups": "allow", "call reboot": "EPERM", "open own device memory 1:1 for reading": "", "mount (a new sysfs)": "EPERM"}},
		{"a namespace of users, as one of them", func(t *testing.T, c *candidate, k *runtime.Container) {
			k.Namespaces.UserNS = &runtime.UserNS{HostID: 300000, Length: 65536}
			k.User = runtime.User{UID: 1000, GID: 1000, AdditionalGroups: []uint32{7}}
			chown(t, k.Rootfs, 300000)
		}, map[string]string{"status CapEff": "0000000000000000", "groups": "[7]"}},
		{"a privileged namespace of users", func(t *testing.T, c *candidate, k *runtime.Container) {
			k.Namespaces.UserNS = &runtime.UserNS{HostID: 300000, Length: 65536}
			k.Security.Privileged = true
			chown(t, k.Rootfs, 300000)
		}, nil},
		{"what the host mounts read-only", func(t *testing.T, c *candidate, k *runtime.Container) {
			k.Mounts = []runtime.Mount{{Source: c.readOnly(), Target: "/volume"}}
		}, map[string]string{"make a file in /volume": "EROFS"}},
		{"what the host mounts read-only, in a privileged container", func(t *testing.T, c *candidate, k *runtime.Container) {
			k.Security.Privileged = true
			k.Mounts = []runtime.Mount{{Source: c.readOnly(), Target: "/volume"}}
		}, map[string]string{"make a file in /volume": "EROFS"}},
		{"what the host mounts read-only, in a namespace of users", func(t *testing.T, c *candidate, k *runtime.Container) {
			k.Namespaces.UserNS = &runtime.UserNS{HostID: 300000, Length: 65536}
			chown(t, k.Rootfs, 300000)
			k.Mounts = []runtime.Mount{{Source: c.readOnly(), Target: "/volume"}}
		}, map[string]string{"make a file in /volume": "EROFS|EACCES"}},
		{"the host's network", func(_ *testing.T, _ *candidate, k *runtime.Container) { k.Namespaces.Net = runtime.Host }, nil},
		{"the host's names, queues and processes", func(_ *testing.T, _ *candidate, k *runtime.Container) {
			k.Namespaces.UTS, k.Namespaces.IPC, k.Namespaces.PID = runtime.Host, runtime.Host, runtime.Host
		}, nil},
		{"a terminal", func(_ *testing.T, _ *candidate, k *runtime.Container) { k.TTY = true }, nil},
		{"standard input", func(_ *testing.T, _ *candidate, k *runtime.Container) { k.Stdin = true }, nil},
	}
}

// confined is what holds for every container that is given nothing special.
var confined = map[string]string{
	"prctl no new privileges":              "1",
	"status Seccomp":                       "2",
	"status CapInh":                        "0000000000000000",
	"status CapAmb":                        "0000000000000000",
	"prctl securebits":                     "0",
	"self oom_score_adj":                   "0",
	"fd 3":                                 "",
	"fd 4":                                 "",
	"fd 5":                                 "",
	"status SigBlk":                        "0000000000000000",
	"status SigIgn":                        "0000000000000000",
	"processes seen":                       "1",
	"network interfaces":                   "1",
	"is the first process":                 "true",
	"leads its session":                    "true",
	"leads its process group":              "true",
	"terminal":                             "0",
	"outside: inode of fd/0":               "its own",
	"outside: inode of root/dev/null":      "its own",
	"outside: inode of root/proc/keys":     "its own",
	"signal at the parent's death":         "0done",
	"hostname":                             "isolated",
	"see /proc/timer_list":                 "empty",
	"see /sys/firmware":                    "[]",
	"open /proc/sysrq-trigger for writing": "EROFS|EACCES|ENOENT",
	"open /proc/sys/kernel/core_pattern for writing":       "EROFS|EACCES|ENOENT",
	"open /proc/sys/net/ipv4/ip_forward for writing":       "EROFS|EACCES|ENOENT",
	"open /sys/kernel/uevent_helper for writing":           "EROFS|EACCES|ENOENT",
	"open /sys/fs/cgroup/memory/release_agent for writing": "EROFS|EACCES|ENOENT",
	"open /sys/fs/cgroup/memory/cgroup.procs for writing":  "EROFS|EACCES|ENOENT",
	"make a directory in /sys/fs/cgroup/memory":            "EROFS|EACCES",
	"open /dev/mem for reading":                            "ENOENT",
	"open /dev/kmsg for reading":                           "ENOENT",
	"make a directory in /proc/sys":                        "ENOENT",
	"mount (a tmpfs)":                                      "EPERM",
	"mount (a bind)":                                       "EPERM",
	"umount /proc/sys":                                     "EPERM",
	"pivot_root":                                           "EPERM",
	"unshare user":                                         "EPERM",
	"unshare mount":                                        "EPERM",
	"setns to 1's mnt":                                     "EPERM",
	"call bpf":                                             "EPERM",
	"call keyctl":                                          "EPERM",
	"call perf_event_open":                                 "EPERM",
	"call userfaultfd":                                     "EPERM",
	"call kexec_load":                                      "EPERM",
	"call init_module":                                     "EPERM",
	"call open_by_handle_at":                               "EPERM",
	"call clone3":                                          "ENOSYS",
	"call unknown call 2000":                               "ENOSYS",
	"call iopl":                                            "EPERM",
	"socket vsock":                                         "EPERM",
	"socket alg":                                           "EPERM",
	"open own device disk 8:0 for reading":                 "EPERM|",
	"open own device memory 1:1 for reading":               "EPERM|",
	"open own device kmsg 1:11 for reading":                "EPERM|",
}

func merge(maps_ ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range maps_ {
		maps.Copy(all, m)
	}
	return all
}

// difference is one that is known and explained.
type difference struct {
	situation, finding *regexp.Regexp
	why                string
}

// accepted are the differences between the drivers that are meant.
var accepted = []difference{
	known(``, `cgroup devices/devices.list|own device tun`, "runc 1.1 lets every container use /dev/net/tun; ours only one that asks for it"),
	known(``, `/sys/fs/cgroup/(blkio|cpuset|systemd|freezer|devices)|see /sys/fs/cgroup|(self|outside:) cgroup`, "ours joins only the hierarchies whose limits it sets, and shows those that programs read limits from"),
	known(``, `(mount|make a (directory|file) in) /sys/fs/cgroup$`, "ours is read-only; runc leaves the directory above the hierarchies writable"),
	known(``, `mount /$`, "ours takes the root out of the host's propagation; runc has it follow mounts that the host makes below it"),
	known(``, `device /dev/core`, "runc leaves the link out where /proc/kcore does not exist; it would dangle"),
	known(`namespace of users`, `device /dev/mqueue|/sys/class/net/lo/mtu`, "ours makes the namespaces of queues and network together with that of users, before it has a mapping: what the kernel makes in them at birth belongs to nobody"),
	known(``, `session keyring`, "the keyring is the container's own in both; ours lets nobody join it by its name, so that a process that enters has another"),
	known(`the host's`, `processes seen|network interfaces|see /sys/class/net`, "the host changes while the test runs"),
	known(``, `mount /(proc/(acpi|scsi|asound)|sys/(firmware|devices/virtual/powercap))`, "ours limits the empty directory to no bytes"),
}

// known explains a difference in the situations and findings that match.
func known(situation, finding, why string) difference {
	return difference{regexp.MustCompile(situation), regexp.MustCompile(finding), why}
}

// TestBothDriversIsolateAlike compares everything that the probe finds, in the
// container's first process and in one that enters it.
func TestBothDriversIsolateAlike(t *testing.T) {
	drivers := map[string]*candidate{}
	for _, name := range candidates {
		drivers[name] = open(t, name)
	}
	for _, s := range situations() {
		t.Run(s.name, func(t *testing.T) {
			reports := map[string]map[string]string{}
			for _, name := range candidates {
				reports[name] = observe(t, drivers[name], s)
				for finding, want := range s.must {
					if got := reports[name][finding]; !slices.Contains(strings.Split(want, "|"), got) {
						t.Errorf("%s: %s: %q, want %q", name, finding, got, want)
					}
				}
			}
			compare(t, s.name, reports)
		})
	}
}

// observe runs a situation with one driver and collects everything about it.
func observe(t *testing.T, c *candidate, s situation) map[string]string {
	t.Helper()
	k := c.container("facts", "hold")
	s.make(t, c, k)
	outside := filepath.Join(c.dir, "outside")
	state := c.start(k)
	defer c.remove(k.ID)
	if k.Stdin || k.TTY {
		c.says(k, "}")
	}
	eventually(t, c.name+": the probe reports; it says "+c.output(k), func() bool {
		return strings.HasSuffix(strings.TrimSpace(c.output(k)), "}")
	})
	report := c.findings(k, strings.ReplaceAll(c.output(k), "\r", ""))
	for finding, value := range fromOutside(t, state.PID) {
		report["outside: "+finding] = strings.NewReplacer("pod"+k.ID, "pod-ID", k.ID, "ID", c.group, "/INSTANCE").Replace(value)
	}
	for finding, value := range answers(t, state.PID) {
		report[finding] = value
	}
	for _, tty := range []bool{false, true} {
		var out strings.Builder
		code, err := c.driver.Exec(c.context(), k.ID, runtime.Exec{Args: []string{"/probe", "facts"}}, runtime.Streams{Stdout: &out, TTY: tty})
		if err != nil || code != 0 {
			t.Fatalf("%s: exec: code %d, %v: %s", c.name, code, err, out.String())
		}
		for finding, value := range c.findings(k, strings.ReplaceAll(out.String(), "\r", "")) {
			report[fmt.Sprintf("exec tty=%v: %s", tty, finding)] = value
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("%s: something was made outside the container: %v", c.name, entries)
	}
	return report
}

// fromOutside is what the host sees of a container's process.
func fromOutside(t *testing.T, pid int) map[string]string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", pid)
	report := map[string]string{}
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "user", "uts"} {
		theirs, err := os.Readlink(dir + "ns/" + name)
		ours, ourErr := os.Readlink("/proc/self/ns/" + name)
		if err != nil || ourErr != nil {
			t.Fatal(err, ourErr)
		}
		report["namespace "+name] = map[bool]string{true: "the host's", false: "new"}[theirs == ours]
	}
	for _, name := range []string{"cgroup", "uid_map", "gid_map", "setgroups", "oom_score_adj", "loginuid", "sessionid", "timerslack_ns", "projid_map"} {
		text, err := os.ReadFile(dir + name)
		report[name] = fmt.Sprint(strings.TrimSpace(string(text)), err)
	}
	// An inode of the host's /dev is one that root in the container could change.
	var null, info unix.Stat_t
	if err := unix.Stat("/dev/null", &null); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"fd/0", "fd/1", "fd/2", "root/dev/null", "root/dev/tty", "root/proc/keys", "root/proc/timer_list", "root/proc/interrupts"} {
		if err := unix.Stat(dir+path, &info); err == nil {
			report["inode of "+path] = map[bool]string{true: "the host's", false: "its own"}[info.Dev == null.Dev]
		}
	}
	if err := unix.Stat(dir, &info); err != nil {
		t.Fatal(err)
	}
	report["owner"] = fmt.Sprint(info.Uid, info.Gid)
	fds, err := os.ReadDir(dir + "fd")
	var open []string
	for _, fd := range fds {
		target, _ := os.Readlink(dir + "fd/" + fd.Name())
		if kind, _, _ := strings.Cut(target, ":"); kind != "anon_inode" {
			open = append(open, fd.Name())
		}
	}
	slices.Sort(open)
	report["descriptors"] = fmt.Sprint(open, err)
	return report
}

// compare fails for every finding that differs and is not explained.
func compare(t *testing.T, name string, reports map[string]map[string]string) {
	t.Helper()
	reference := reports[candidates[0]]
	for _, other := range candidates[1:] {
		findings := slices.Sorted(maps.Keys(merge(reference, reports[other])))
		t.Logf("%d findings compared", len(findings))
		for _, finding := range findings {
			want, got := reference[finding], reports[other][finding]
			if want == got || refused(want) && refused(got) {
				continue
			}
			i := slices.IndexFunc(accepted, func(d difference) bool { return d.situation.MatchString(name) && d.finding.MatchString(finding) })
			if i < 0 {
				t.Errorf("%s:\n  %-7s %q\n  %-7s %q", finding, candidates[0], want, other, got)
			}
		}
	}
}

// refused is true of both errors that opening a file on a read-only mount can
// give, depending on what the kernel looks at first.
func refused(outcome string) bool { return outcome == "EROFS" || outcome == "EACCES" }

// directory makes a directory of the host that containers may be given.
func (c *candidate) directory(name string) string {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.MkdirAll(path, 0o777); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// readOnly makes a directory that the host has mounted read-only.
func (c *candidate) readOnly() string {
	c.t.Helper()
	path := c.directory("read-only")
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err == nil && fs.Flags&unix.ST_RDONLY != 0 {
		return path
	}
	for _, flags := range []uintptr{unix.MS_BIND, unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY} {
		if err := unix.Mount(path, path, "", flags, ""); err != nil {
			c.t.Fatal(err)
		}
	}
	c.t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) }) // before close
	return path
}

func (c *candidate) file(name, text string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// chown gives a root directory to the root user of a user namespace.
func chown(t *testing.T, root string, id int) {
	t.Helper()
	if out, err := exec.Command("chown", "-hR", fmt.Sprintf("%d:%d", id, id), root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
