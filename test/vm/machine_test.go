package vm

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// patience is for whatever happens on an emulated processor.
const patience = 5 * time.Minute

// machine is a virtual machine that boots from a disk of its own.
type machine struct {
	t     *testing.T
	files string // directory with the kernel, the disk everybody begins with and a key
	dir   string
	login string // host:port that leads to the machine's sshd
	qemu  *exec.Cmd
	shell *ssh.Client
}

// boot starts a machine with a fresh disk and waits until Gantry is ready on it.
func boot(t *testing.T) *machine {
	t.Helper()
	files := os.Getenv("GANTRY_VM")
	if files == "" {
		t.Skip("GANTRY_VM names no directory with a machine: `make vm` does")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	m := &machine{t: t, files: files, dir: t.TempDir(), login: free.Addr().String()}
	overlay := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", filepath.Join(files, "disk.img"), m.disk())
	if out, err := overlay.CombinedOutput(); err != nil {
		t.Fatalf("make a disk: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the journal:\n%s", m.try("journalctl -u gantry -o cat --no-pager | tail -n 40"))
		}
		m.cutPower()
	})
	m.powerOn()
	return m
}

func (m *machine) disk() string { return filepath.Join(m.dir, "disk.qcow2") }

// powerOn boots from the disk as it is.
func (m *machine) powerOn() {
	m.t.Helper()
	m.qemu = exec.Command("qemu-system-x86_64", "-machine", "q35", "-accel", cmp.Or(os.Getenv("VM_ACCEL"), "tcg"), "-cpu", "max", "-smp", "2", "-m", "3072",
		"-display", "none", "-serial", "file:"+filepath.Join(m.dir, "console.log"),
		"-kernel", filepath.Join(m.files, "vmlinuz"), "-initrd", filepath.Join(m.files, "initrd"), "-append", "root=/dev/vda console=ttyS0 quiet",
		"-drive", "file="+m.disk()+",if=virtio,format=qcow2",
		"-netdev", "user,id=n,restrict=on,hostfwd=tcp:"+m.login+"-:22", "-device", "virtio-net-pci,netdev=n", "-device", "virtio-rng-pci")
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.qemu.Stderr = os.Stderr
	if err := m.qemu.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.connect()
}

// cutPower ends the machine at once: what its kernel had not written is lost.
func (m *machine) cutPower() {
	if m.shell != nil {
		m.shell.Close()
		m.shell = nil
	}
	_ = m.qemu.Process.Kill()
	_ = m.qemu.Wait()
}

// connect waits until the machine can be logged in to.
func (m *machine) connect() {
	m.t.Helper()
	text, err := os.ReadFile(filepath.Join(m.files, "key"))
	if err != nil {
		m.t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		m.t.Fatal(err)
	}
	config := &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, Timeout: time.Minute,
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), // our own machine, on loopback
	}
	for deadline := time.Now().Add(patience); ; <-time.After(time.Second) {
		m.shell, err = ssh.Dial("tcp", m.login, config)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			console, _ := os.ReadFile(filepath.Join(m.dir, "console.log"))
			m.t.Fatalf("log in to the machine: %v; its console:\n%s", err, console)
		}
	}
}

// reboot restarts the machine as an operator does, and says how long it took to go down
// and to let somebody log in again.
func (m *machine) reboot() time.Duration {
	m.t.Helper()
	before, began := m.sh("cat /proc/sys/kernel/random/boot_id"), time.Now()
	m.try("systemctl reboot")
	for deadline := time.Now().Add(patience); ; <-time.After(time.Second) {
		m.shell.Close()
		m.connect()
		if now := m.try("cat /proc/sys/kernel/random/boot_id"); len(now) == len(before) && now != before {
			return time.Since(began)
		}
		if time.Now().After(deadline) {
			m.t.Fatal("the machine does not reboot")
		}
	}
}

// run executes a command of the shell, and returns what it writes.
func (m *machine) run(command string) (string, error) {
	if m.shell == nil {
		return "", errors.New("not logged in")
	}
	session, err := m.shell.NewSession()
	if err != nil {
		return "", err
	}
	defer session.Close()
	out, err := session.CombinedOutput("export KUBECONFIG=/var/lib/gantry/kubeconfig PATH=$PATH:/usr/local/bin:/usr/sbin\n" + command)
	return strings.TrimSpace(string(out)), err
}

// sh is run for a command that must succeed.
func (m *machine) sh(command string) string {
	m.t.Helper()
	out, err := m.run(command)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

// try is run for a command that need not.
func (m *machine) try(command string) string {
	out, err := m.run(command)
	if err != nil {
		return fmt.Sprintf("%s (%v)", out, err)
	}
	return out
}

// until repeats a command until it writes exactly this.
func (m *machine) until(command, want string) {
	m.t.Helper()
	var got string
	for deadline := time.Now().Add(patience); ; <-time.After(time.Second) {
		if got = m.try(command); got == want {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s\nwrites %q, want %q", command, got, want)
		}
	}
}

// is reports a command that does not write exactly this.
func (m *machine) is(what, command, want string) {
	m.t.Helper()
	if got := m.try(command); got != want {
		m.t.Errorf("%s: %s\nwrites %q, want %q", what, command, got, want)
	}
}
