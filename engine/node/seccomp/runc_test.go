package seccomp

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/isolation/filter"
)

// newestKnown is the newest call in the tables of the libseccomp that runc of
// Debian 12 links: futex_requeue of Linux 6.7.
const newestKnown = 456

// known hides calls that libseccomp does not know from our tables, so that both
// compile the same calls.
func known(abis []abi) []abi {
	restricted := slices.Clone(abis)
	for i := range restricted {
		number := restricted[i].number
		restricted[i].number = func(name string) (uint32, bool) {
			n, ok := number(name)
			return n, ok && n <= newestKnown && name != "uretprobe"
		}
	}
	return restricted
}

// The filter that runc has libseccomp install and ours give the same answer to
// every call.
func TestFiltersAnswerAsTheOnesOfRunc(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the comparison is written for x86-64")
	}
	testenv.NeedContainers(t)
	testenv.NeedProgram(t, "busybox", "busybox-static")
	native, err := machine(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	abis := known(native)
	for name, profile := range runnable() {
		t.Run(name, func(t *testing.T) {
			theirs := installedByRunc(t, profile)
			program, err := compile(profile, abis)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("runc's filter has %d instructions, ours %d", len(theirs), len(program.Filter))
			differences := 0
			forEachEvent(profile, abis, func(e filter.Event) {
				want, err := filter.Run(theirs, e)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := filter.Run(program.Filter, e); err != nil || got != want {
					if differences++; differences <= 10 {
						t.Errorf("%v: ours says %#x (%v), runc's %#x", e, got, err, want)
					}
				}
			})
		})
	}
}

// runnable are profiles under which a container can start: containerd's with other
// rules for calls that starting and sleeping do not need.
func runnable() map[string]*specs.LinuxSeccomp {
	plain := func(p *specs.LinuxSeccomp) *specs.LinuxSeccomp {
		p.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86}
		return p
	}
	all := map[string]*specs.LinuxSeccomp{
		"default":     plain(defaultProfile("CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_MKNOD")),
		"no caps":     plain(defaultProfile()),
		"admin":       plain(defaultProfile("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_SYS_TIME", "CAP_BPF", "CAP_SYSLOG", "CAP_SYS_NICE")),
		"native only": defaultProfile(),
	}
	all["native only"].Architectures = nil
	with := func(name string, change func(p *specs.LinuxSeccomp)) {
		p := plain(defaultProfile())
		change(p)
		all[name] = p
	}
	with("kill process", func(p *specs.LinuxSeccomp) { p.DefaultAction = specs.ActKillProcess })
	with("kill", func(p *specs.LinuxSeccomp) { p.DefaultAction = specs.ActKill })
	with("trap", func(p *specs.LinuxSeccomp) { p.DefaultAction = specs.ActTrap })
	with("log", func(p *specs.LinuxSeccomp) { p.DefaultAction = specs.ActLog })
	with("errno 38", func(p *specs.LinuxSeccomp) { p.DefaultErrnoRet = pointer(38) })
	with("errno 13", func(p *specs.LinuxSeccomp) { p.DefaultErrnoRet = pointer(13) })
	for name, p := range profiles() {
		if name == "same argument twice" || name == "unconditional wins" || strings.HasPrefix(name, "SCMP_CMP") {
			with(name, func(base *specs.LinuxSeccomp) { replace(base, p.Syscalls) })
		}
	}
	deny := profiles()["deny list"]
	deny.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86}
	all["deny list"] = deny
	return all
}

// replace gives a profile new rules for some calls. Those that a process needs
// for starting keep their rules, and the new ones go to calls that it does not.
// The rule with two conditions goes to a call without a multiplexed form:
// libseccomp 2.5.4 compares the second argument with the selectors of ipc when a
// second condition fails, and so allows what no rule does. Ours does not.
func replace(p *specs.LinuxSeccomp, rules []specs.LinuxSyscall) {
	spare := map[string]string{"read": "readahead", "write": "add_key", "kill": "msgrcv", "getpid": "shmat", "getppid": "sendto", "ioctl": "mq_open"}
	for _, r := range rules {
		r.Names = []string{spare[r.Names[0]]}
		for i := range p.Syscalls {
			p.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(p.Syscalls[i].Names), func(n string) bool { return n == r.Names[0] || n == "socketcall" || n == "ipc" })
		}
	}
	for _, r := range rules {
		r.Names = []string{spare[r.Names[0]]}
		p.Syscalls = append(p.Syscalls, r)
	}
}

// installedByRunc starts a container under a profile and reads its filter.
func installedByRunc(t *testing.T, profile *specs.LinuxSeccomp) []unix.SockFilter {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "rootfs")
	for _, sub := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "sleep"), text, 0o755); err != nil {
		t.Fatal(err)
	}
	id := "gantry-seccomp-" + strconv.Itoa(os.Getpid())
	spec := specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"/sleep", "1000"}, Cwd: "/", NoNewPrivileges: true},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{
			CgroupsPath: "/" + id,
			Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}},
			Seccomp:     profile,
		},
	}
	config, err := json.Marshal(&spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644); err != nil {
		t.Fatal(err)
	}
	runc := func(args ...string) *exec.Cmd {
		return exec.Command("runc", append([]string{"--root", filepath.Join(dir, "state"), "--log", filepath.Join(dir, "log")}, args...)...)
	}
	t.Cleanup(func() {
		if out, err := runc("delete", "--force", id).CombinedOutput(); err != nil {
			t.Errorf("delete: %v: %s", err, out)
		}
	})
	if err := runc("run", "--detach", "--bundle", dir, "--pid-file", filepath.Join(dir, "pid"), id).Run(); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Fatalf("run: %v: %s", err, log)
	}
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(string(pid))
	if err != nil {
		t.Fatal(err)
	}
	filters, err := filter.Installed(number)
	if err != nil {
		t.Fatal(err)
	}
	if len(filters) != 1 {
		t.Fatalf("%d filters", len(filters))
	}
	return filters[0]
}
