package launch

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ipcSysctls are the settings below kernel/ that each IPC namespace has.
var ipcSysctls = []string{"msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"}

// guardSysctls refuses settings that are the whole machine's, or those of a
// namespace that the container shares with the host.
func guardSysctls(s *specs.Spec) error {
	for name := range s.Linux.Sysctl {
		var kind specs.LinuxNamespaceType
		elements := sysctlPath(name)
		switch {
		case slices.ContainsFunc(elements, func(e string) bool { return e == "" || e == "." || e == ".." }):
			return fmt.Errorf("sysctl %q: that is no name of a setting", name)
		case elements[0] == "net":
			kind = specs.NetworkNamespace
		case len(elements) == 2 && elements[0] == "kernel" && slices.Contains(ipcSysctls, elements[1]),
			len(elements) == 3 && elements[0] == "fs" && elements[1] == "mqueue":
			kind = specs.IPCNamespace
		case len(elements) == 2 && elements[0] == "kernel" && elements[1] == "domainname":
			kind = specs.UTSNamespace
		default:
			return fmt.Errorf("sysctl %q is a setting of the whole machine: set it on the host", name)
		}
		own, err := ownNamespace(s, kind)
		if err != nil {
			return fmt.Errorf("sysctl %q: %w", name, err)
		}
		if !own {
			return fmt.Errorf("sysctl %q: the container shares the %s namespace with the host, whose setting it would change", name, kind)
		}
	}
	return nil
}

// sysctlPath splits a name, which has dots or, where an element has one itself,
// slashes between its elements.
func sysctlPath(name string) []string {
	if strings.Contains(name, "/") {
		return strings.Split(name, "/")
	}
	return strings.Split(name, ".")
}

// ownNamespace reports whether a container has a namespace that is not the host's.
func ownNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) (bool, error) {
	i := slices.IndexFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
	if i < 0 {
		return false, nil
	}
	path := s.Linux.Namespaces[i].Path
	if path == "" {
		return true, nil
	}
	files := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts"}
	theirs, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	ours, err := os.Stat("/proc/self/ns/" + files[kind])
	if err != nil {
		return false, err
	}
	return !os.SameFile(theirs, ours), nil
}

// guardReadOnly refuses what the host itself mounts read-only to a container that
// could change that: root of a user namespace with CAP_SYS_ADMIN. The kernel locks
// such a flag only when it copies the mount into the namespace with all others.
func (t *translation) guardReadOnly(source *os.File) error {
	if t.out.SecondStage&unix.CLONE_NEWUSER == 0 || t.out.Process.Caps.Bounding&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(source.Fd()), &fs); err != nil {
		return err
	}
	if fs.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	return errors.New("the host mounts it read-only, which a container with CAP_SYS_ADMIN in its user namespace could change: " +
		"leave that capability out, or use the RuntimeClass handler runc")
}
