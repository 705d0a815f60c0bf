package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/network/rtnl"
)

// podNetNS is an open network namespace of a pod.
type podNetNS struct {
	fd   int
	sock *rtnl.Socket
}

func (p podNetNS) close() {
	p.sock.Close()
	unix.Close(p.fd)
}

// podSysctls are set in every new pod before its interface exists. Pods have no
// IPv6 network, so the interface is spared its duplicate address detection and
// multicast reports; the loopback keeps ::1. The other two let processes without
// privileges bind low ports and send pings, as container runtimes do.
var podSysctls = []sysctl{
	{"net.ipv6.conf.default.disable_ipv6", "1"},
	{"net.ipv4.ip_unprivileged_port_start", "0"},
	{"net.ipv4.ping_group_range", "0 2147483647"},
}

// createNetNS makes a network namespace with these sysctls, set through p.
func createNetNS(p *ownProc, sysctls []sysctl) (ns podNetNS, err error) {
	// A fresh goroutine: when the thread cannot return to the host's namespace the
	// goroutine ends while locked, and the runtime discards the thread.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		host, herr := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if herr != nil {
			err = fmt.Errorf("open host network namespace: %w", herr)
			runtime.UnlockOSThread()
			return
		}
		defer unix.Close(host)
		ns, err = enterNewNetNS(p, sysctls)
		if serr := unix.Setns(host, unix.CLONE_NEWNET); serr != nil {
			err = errors.Join(err, fmt.Errorf("return to the host network namespace: %w", serr))
			return
		}
		runtime.UnlockOSThread()
	}()
	<-done
	return ns, err
}

// enterNewNetNS leaves the calling thread in the new namespace.
func enterNewNetNS(p *ownProc, sysctls []sysctl) (podNetNS, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return podNetNS{}, fmt.Errorf("create network namespace: %w", err)
	}
	if err := p.write(sysctls); err != nil {
		return podNetNS{}, err
	}
	return openPodSockets()
}

// pin keeps the namespace alive by mounting it on a new file at path.
func (p podNetNS) pin(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("create network namespace pin: %w", err)
	}
	f.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", p.fd), path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin network namespace at %s: %w", path, err)
	}
	return nil
}

func openPodSockets() (podNetNS, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return podNetNS{}, fmt.Errorf("open network namespace: %w", err)
	}
	sock, err := rtnl.Open()
	if err != nil {
		unix.Close(fd)
		return podNetNS{}, err
	}
	return podNetNS{fd, sock}, nil
}

// isPinned reports whether a network namespace is mounted at path. After a reboot
// the file may still be there, without a namespace.
func isPinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// unpin removes the pin. The kernel deletes the namespace, and with it the interface
// pair, once the last process in it is gone. Nothing pinned is no error.
func unpin(path string) error {
	for isPinned(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unpin network namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network namespace pin: %w", err)
	}
	return nil
}
