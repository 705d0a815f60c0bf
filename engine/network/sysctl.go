package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// sysctl is a kernel setting by its dotted name. In a name, "/" stands for a dot
// inside an interface name, as sysctl(8) has it.
type sysctl struct{ name, value string }

func (s sysctl) path() string {
	return filepath.Join("/proc/sys", strings.NewReplacer(".", "/", "/", ".").Replace(s.name))
}

// write sets it in the calling thread's network namespace.
func (s sysctl) write() error {
	// Not os.WriteFile: it truncates, which the kernel refuses for some settings.
	f, err := os.OpenFile(s.path(), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set %s: %w", s.name, err)
	}
	defer f.Close()
	if _, err := f.WriteString(s.value); err != nil {
		return fmt.Errorf("set %s to %q: %w", s.name, s.value, err)
	}
	return nil
}

// read returns the present value.
func (s sysctl) read() (string, error) {
	b, err := os.ReadFile(s.path())
	if err != nil {
		return "", fmt.Errorf("read %s: %w", s.name, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// ownProc is a proc file system that is mounted nowhere. The kernel keeps what it has found in one
// for each network namespace, all in one chain that every look-up in a new namespace goes through
// to its end. In this one it is short, because it is replaced from time to time. The zero value is
// ready.
type ownProc struct {
	mu   sync.Mutex // guards following
	root *os.File   // or nil
	left int        // how many namespaces may still use it
}

// ownProcUses is how many namespaces use one.
const ownProcUses = 32

// write sets sysctls in the calling thread's network namespace. A kernel that lacks one of them
// needs no setting.
func (p *ownProc) write(sysctls []sysctl) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left--; p.left < 0 {
		if p.root != nil {
			p.root.Close()
		}
		p.root, p.left = newProc(), ownProcUses
	}
	for _, s := range sysctls {
		if err := p.set(s); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (p *ownProc) set(s sysctl) error {
	if p.root == nil {
		return s.write()
	}
	path, _ := strings.CutPrefix(s.path(), "/proc/")
	fd, err := unix.Openat(int(p.root.Fd()), path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set %s: %w", s.name, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(s.value)); err != nil {
		return fmt.Errorf("set %s to %q: %w", s.name, s.value, err)
	}
	return nil
}

// newProc is nil where there can be none; then the machine's has to do.
func newProc() *os.File {
	context, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return nil
	}
	root, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(root), "proc")
}
