package node

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/engine/node/volume"
)

// pins is what keeps a sandbox alive without a process. Everything is on one
// tmpfs of the pod's own, dir/shared: bind mounts of the namespaces, and the files
// that its containers share and may write to, which can fill nobody else's. To
// unmount that one is to end them all.
type pins struct {
	dir      string
	hostname string
	domain   string            // NIS domain name, "" is the host's
	uts, ipc bool              // make new ones
	net      bool              // make one that leads nowhere; else the network makes it
	shmBytes int64             // of /dev/shm, 0 is the usual
	sysctls  map[string]string // of these namespaces; the network sets its own
	ids      *runtime.UserNS   // of a pod with a user namespace
}

func (p pins) shared() string         { return filepath.Join(p.dir, "shared") }
func (p pins) utsPath() string        { return filepath.Join(p.shared(), "uts") }
func (p pins) ipcPath() string        { return filepath.Join(p.shared(), "ipc") }
func (p pins) netPath() string        { return filepath.Join(p.shared(), "net") }
func (p pins) shmPath() string        { return filepath.Join(p.shared(), "shm") }
func (p pins) etcPath() string        { return filepath.Join(p.shared(), "etc") }
func (p pins) terminationDir() string { return filepath.Join(p.shared(), "termination") }

// sharedBytes bounds /dev/shm, as the container runtimes of Kubernetes do, and
// with it the few small files beside it.
const sharedBytes = 64 << 20

// directories makes those below shared.
func (p pins) directories() error {
	for _, d := range []string{p.etcPath(), p.terminationDir()} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return fmt.Errorf("make sandbox: %w", err)
		}
	}
	if err := os.Mkdir(p.shmPath(), 0o777); err != nil {
		return fmt.Errorf("make /dev/shm: %w", err)
	}
	if err := os.Chmod(p.shmPath(), 0o777|os.ModeSticky); err != nil {
		return fmt.Errorf("make /dev/shm: %w", err)
	}
	return nil
}

// make mounts the tmpfs and creates the namespaces. The holder is a program that
// does nothing for ever.
func (p pins) make(makers *makers, holder string) error {
	if err := os.MkdirAll(p.shared(), 0o711); err != nil {
		return fmt.Errorf("make sandbox: %w", err)
	}
	size := cmp.Or(p.shmBytes, sharedBytes)
	opts := fmt.Sprintf("mode=0711,size=%d", max(size, 1<<18)) // the few small files need some
	if err := unix.Mount("gantry-pod", p.shared(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, opts); err != nil {
		return fmt.Errorf("mount the pod's tmpfs: %w", err)
	}
	if err := p.directories(); err != nil {
		return err
	}
	if p.ids != nil {
		if err := p.pinUserNS(holder); err != nil {
			return err
		}
	}
	if !p.uts && !p.ipc && !p.net {
		return nil
	}
	do := makers.do
	if p.net {
		do = once // or an idle thread would keep the network
	}
	if err := do(p.onThread); err != nil {
		return fmt.Errorf("pin namespaces: %w", err)
	}
	return nil
}

// makers are threads that create namespaces. Each belongs to the ones it created
// last, so nothing else may run on it. Threads are kept because a new one costs
// more than the namespaces. The zero value is ready.
type makers struct {
	mu   sync.Mutex
	idle []chan<- creation
}

type creation struct {
	work func() error
	done chan<- error
}

const maxIdleMakers = 2

// do runs work on a thread of its own.
func (m *makers) do(work func() error) error {
	m.mu.Lock()
	var maker chan<- creation
	if n := len(m.idle); n > 0 {
		maker, m.idle = m.idle[n-1], m.idle[:n-1]
	}
	m.mu.Unlock()
	if maker == nil {
		maker = newMaker()
	}
	done := make(chan error)
	maker <- creation{work, done}
	err := <-done
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil || len(m.idle) >= maxIdleMakers {
		close(maker) // its thread ends with it
	} else {
		m.idle = append(m.idle, maker)
	}
	return err
}

// once does work on a thread that ends with it.
func once(work func() error) error {
	maker, done := newMaker(), make(chan error)
	defer close(maker)
	maker <- creation{work, done}
	return <-done
}

func newMaker() chan<- creation {
	work := make(chan creation)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread is spoilt for everything else
		for c := range work {
			c.done <- c.work()
		}
	}()
	return work
}

func (p pins) onThread() error {
	flags := 0
	if p.uts {
		flags |= unix.CLONE_NEWUTS
	}
	if p.ipc {
		flags |= unix.CLONE_NEWIPC
	}
	if p.net {
		flags |= unix.CLONE_NEWNET
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	for name, value := range p.sysctls {
		if err := writeSysctl(name, value); err != nil {
			return err
		}
	}
	if p.uts {
		if err := unix.Sethostname([]byte(p.hostname)); err != nil {
			return fmt.Errorf("set hostname: %w", err)
		}
		if p.domain != "" {
			if err := unix.Setdomainname([]byte(p.domain)); err != nil {
				return fmt.Errorf("set domain name: %w", err)
			}
		}
		if err := bindNamespace("uts", p.utsPath()); err != nil {
			return err
		}
	}
	if p.net {
		if err := errors.Join(bringUpLoopback(), bindNamespace("net", p.netPath())); err != nil {
			return err
		}
	}
	if p.ipc {
		return bindNamespace("ipc", p.ipcPath())
	}
	return nil
}

func bindNamespace(kind, path string) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDONLY|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	unix.Close(fd)
	source := fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), kind)
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s namespace: %w", kind, err)
	}
	return nil
}

// enterNetNS moves the calling thread; the goroutine must be locked to it.
func enterNetNS(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return nil
}

// unpin removes a sandbox directory with all that is mounted in it.
func unpin(dir string) error {
	err := unix.Unmount(pins{dir: dir}.shared(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	if err := volume.UnmountBelow(dir); err != nil {
		return fmt.Errorf("unpin namespaces: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("unpin namespaces: %w", err)
	}
	return nil
}
