package crash

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/test/instance"
	"github.com/gantryhq/gantry/test/leak"
)

// machineBoot, when set, makes this test binary the first process of a machine:
// it names the file with the machine's boot id.
const machineBoot = "GANTRY_CRASH_BOOT_ID"

func TestMain(m *testing.M) {
	if path := os.Getenv(machineBoot); path != "" {
		fmt.Fprintln(os.Stderr, "error:", machineMain(path, os.Args[1:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// machineMain is process 1 of namespaces of its own: processes, mounts and the boot
// id are its own, and all are gone when it ends, as with the power of a machine.
func machineMain(bootID string, command []string) error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{bootID, "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := dropForeignMounts(); err != nil {
		return err
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	go func() { <-term; os.Exit(0) }()
	env := []string{}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, machineBoot+"=") {
			env = append(env, e)
		}
	}
	pid, err := syscall.ForkExec(command[0], command, &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}})
	if err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		if err == nil && ended == pid {
			return fmt.Errorf("gantry serve ended with %d", status.ExitStatus())
		}
		if err != nil && err != unix.EINTR {
			return err
		}
	}
}

// dropForeignMounts lets go of the mounts of other instances, which the new
// namespace has copies of: they would live as long as the machine.
func dropForeignMounts() error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(table)) {
		if point := strings.Fields(line)[4]; strings.HasPrefix(point, os.TempDir()+"/") {
			_ = unix.Unmount(point, unix.MNT_DETACH) // it may have gone with another
		}
	}
	return nil
}

// machine is an instance that has a computer for itself.
type machine struct {
	*instance.Instance
	t      *testing.T
	bootID string // path
}

func startMachine(t *testing.T, o instance.Options) *machine {
	t.Helper()
	m := &machine{t: t, bootID: filepath.Join(t.TempDir(), "boot_id")}
	m.newBoot()
	o.Command = func(program string, args ...string) *exec.Cmd {
		c := exec.Command(os.Args[0], append([]string{program}, args...)...)
		c.Env = append(os.Environ(), machineBoot+"="+m.bootID)
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
		return c
	}
	// Ranges that no instance takes by itself while this one's bridge is away.
	o.Args = append(o.Args, "--pod-cidr=10.145.0.0/16", "--service-cidr=10.146.0.0/16")
	m.Instance = instance.Start(t, o)
	return m
}

func (m *machine) newBoot() {
	m.t.Helper()
	if err := os.WriteFile(m.bootID, []byte(strings.ToLower(rand.Text())+"\n"), 0o444); err != nil {
		m.t.Fatal(err)
	}
}

// reset ends everything at once, takes away what no kernel keeps over a boot, and
// starts again. wipe empties DIR/run as well, which is on a disk or in memory as
// the operator chose.
func (m *machine) reset(wipe bool) {
	m.t.Helper()
	m.Stop(m.t, syscall.SIGKILL)
	left, err := leak.Gone(m.DataDir)
	if err != nil {
		m.t.Fatal(err)
	}
	for i := len(left) - 1; i >= 0; i-- { // the innermost groups first
		switch name := left[i].Name; left[i].Kind {
		case "cgroup":
			err = os.Remove(name)
		case "nftables table":
			err = exec.Command("nft", "delete", "table", "ip", name).Run()
		case "bridge":
			err = netlink.LinkDel(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}})
		case "process", "mount":
			m.t.Fatalf("the machine left %s", left[i])
		}
		if err != nil {
			m.t.Fatalf("take away %s: %v", left[i], err)
		}
	}
	if wipe {
		if err := os.RemoveAll(filepath.Join(m.DataDir, "run")); err != nil {
			m.t.Fatal(err)
		}
	}
	m.newBoot()
	m.Serve(m.t)
}
