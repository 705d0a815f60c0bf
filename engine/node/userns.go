package node

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/engine/node/runtime"
)

// A pod with hostUsers: false has 65,536 ids of the host for itself, from a part
// of the id space that distributions leave unused: beyond what systemd gives to
// containers and users (0x6FFFFFFF), short of its foreign ids (0x7FFE0000).
const (
	firstPodID = 0x70000000
	idsPerPod  = 1 << 16
	podIDSlots = 0xFFE
)

// idClaims is where all instances of the machine say which slots they use: a
// symbolic link from the slot to the sandbox that has it. It counts for as long
// as the sandbox exists.
const idClaims = "/run/gantry/ids"

// releaseAllIDs gives back what sandboxes below dir have.
func releaseAllIDs(claims, dir string) error {
	links, err := filepath.Glob(filepath.Join(claims, "*"))
	if err != nil {
		return err
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && filepath.Dir(target) == dir {
			if err := os.Remove(link); err != nil {
				return err
			}
		}
	}
	return nil
}

func usesUserNS(pod *v1.Pod) bool { return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers }

// claimIDs finds a free slot for a sandbox and returns its first id.
func claimIDs(claims, sandboxDir string) (uint32, error) {
	if err := os.MkdirAll(claims, 0o700); err != nil {
		return 0, fmt.Errorf("claim user ids: %w", err)
	}
	lock, err := os.Open(claims)
	if err != nil {
		return 0, fmt.Errorf("claim user ids: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return 0, fmt.Errorf("claim user ids: %w", err)
	}
	// Where to begin depends on the sandbox: ids that were in use a moment ago are
	// not the next ones to be used.
	sum := sha256.Sum256([]byte(sandboxDir))
	begin := binary.BigEndian.Uint32(sum[:4]) % podIDSlots
	for i := range uint32(podIDSlots) {
		slot := (begin + i) % podIDSlots
		claim := filepath.Join(claims, strconv.Itoa(int(slot)))
		if _, err := os.Stat(claim); err == nil {
			continue
		} else if !errors.Is(err, os.ErrNotExist) {
			return 0, fmt.Errorf("claim user ids: %w", err)
		}
		_ = os.Remove(claim) // of a sandbox that is gone
		if err := os.Symlink(sandboxDir, claim); err != nil {
			return 0, fmt.Errorf("claim user ids: %w", err)
		}
		return firstPodID + slot*idsPerPod, nil
	}
	return 0, fmt.Errorf("claim user ids: all %d ranges are in use: delete pods with hostUsers: false", podIDSlots)
}

// releaseIDs gives a claim back. It must come after the end of all that used the ids.
func releaseIDs(claims string, ids *runtime.UserNS) {
	_ = os.Remove(filepath.Join(claims, strconv.Itoa(int((ids.HostID-firstPodID)/idsPerPod))))
}

// userNSPath is where a sandbox's user namespace is pinned, for mapped mounts. Each
// container gets one of its own with the same ids.
func (p pins) userNSPath() string { return filepath.Join(p.shared(), "user") }

// mappedDir holds the views of volumes with mapped owners.
func (p pins) mappedDir() string { return filepath.Join(p.shared(), "mapped") }

// pinUserNS makes a user namespace with the pod's ids and pins it. Files that
// containers share become root's in it.
func (p pins) pinUserNS(holder string) error {
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(p.ids.HostID), Size: int(p.ids.Length)}}
	cmd := exec.Command(holder)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: mapping, GidMappings: mapping, Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make a user namespace, which hostUsers: false asks for: %w: see `gantry doctor`", err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	f, err := os.OpenFile(p.userNSPath(), os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("pin user namespace: %w", err)
	}
	f.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid), p.userNSPath(), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin user namespace: %w", err)
	}
	for _, dir := range []string{p.shmPath(), p.etcPath()} {
		if err := os.Lchown(dir, int(p.ids.HostID), int(p.ids.HostID)); err != nil {
			return fmt.Errorf("give the sandbox to its user namespace: %w", err)
		}
	}
	if err := os.Mkdir(p.mappedDir(), 0o711); err != nil {
		return fmt.Errorf("make sandbox: %w", err)
	}
	return nil
}

// view mounts source for one mount of a container and returns where. It is
// read-only from the beginning: inside the user namespace nobody may make it so.
func (p pins) view(container string, m runtime.Mount, namespace string) (runtime.Mount, error) {
	at := filepath.Join(p.mappedDir(), shortHash(fmt.Sprintf("%s %s %s %v", container, m.Source, m.Target, m.ReadOnly)))
	info, err := os.Stat(m.Source)
	if err != nil {
		return m, err
	}
	if mounted, err := mountinfo.Mounted(at); err != nil || !mounted {
		if info.IsDir() {
			err = os.MkdirAll(at, 0o700)
		} else {
			err = os.WriteFile(at, nil, 0o600)
		}
		if err != nil {
			return m, err
		}
		if err := image.MountView(m.Source, at, namespace, m.ReadOnly); err != nil {
			return m, err
		}
	}
	m.Source, m.ReadOnly = at, false
	return m, nil
}

// mapVolume shows a volume's files as belonging, inside the pod's user namespace,
// to whom they belong outside.
func (p pins) mapVolume(container string, m runtime.Mount) (runtime.Mount, error) {
	m, err := p.view(container, m, p.userNSPath())
	if err != nil {
		return m, fmt.Errorf("%w: the pod has hostUsers: false, and the volume's file system or this kernel cannot map owners (volumes in memory, as tokens and secrets are, need Linux 6.3): use another volume or kernel, or leave hostUsers out", err)
	}
	return m, nil
}

// imageMapping is what the image store needs to know of the pod's user namespace.
func (p pins) imageMapping() image.IDMapping {
	return image.IDMapping{HostID: p.ids.HostID, Length: p.ids.Length, Namespace: p.userNSPath()}
}
