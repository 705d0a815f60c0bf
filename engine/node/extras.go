package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// ExtrasAnnotation says in JSON what else the containers of a pod are given
// ([runtime.Extras]). Only pods of [Config.ExtrasNamespace] may carry it.
const ExtrasAnnotation = "gantry.dev/extras"

func (n *Node) extras(pod *v1.Pod) (runtime.Extras, error) {
	text := pod.Annotations[ExtrasAnnotation]
	if text != "" && (n.cfg.ExtrasNamespace == "" || pod.Namespace != n.cfg.ExtrasNamespace) {
		return runtime.Extras{}, fmt.Errorf("annotation %s is only for pods of namespace %q, for it gives rights that the API does not check: remove it", ExtrasAnnotation, n.cfg.ExtrasNamespace)
	}
	e, err := runtime.ParseExtras(text)
	if err != nil {
		return e, fmt.Errorf("annotation %s: %w", ExtrasAnnotation, err)
	}
	return e, nil
}

// ownNetwork is whether a pod gets an interface and an address of its own.
func ownNetwork(pod *v1.Pod, e runtime.Extras) bool {
	return !pod.Spec.HostNetwork && !e.NoNetwork && e.NetworkOf == ""
}

// neighbour finds the sandbox of another pod, whose namespaces are to be joined.
func (n *Node) neighbour(uid string) (pins, *sandbox, error) {
	w := n.worker(types.UID(uid))
	if w == nil {
		return pins{}, nil, fmt.Errorf("the pod %s whose namespaces are to be joined is not on this node", uid)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sandbox == nil {
		return pins{}, nil, fmt.Errorf("pod %s/%s, whose namespaces are to be joined, does not run", w.pod.Namespace, w.pod.Name)
	}
	return n.podPins(w.pod, w.sandbox), w.sandbox, nil
}

// joined replaces the namespaces that a pod has of another one, and tells where the files
// of those are.
func (n *Node) joined(e runtime.Extras, own pins, ns runtime.Namespaces) (runtime.Namespaces, files, error) {
	at := files{etc: own.etcPath(), shm: own.shmPath()}
	if e.HostUTS {
		ns.UTS = runtime.Host
	}
	if e.NoNetwork {
		ns.Net = own.netPath()
	}
	if e.NetworkOf != "" {
		other, s, err := n.neighbour(e.NetworkOf)
		if err != nil {
			return ns, at, err
		}
		ns.Net, ns.UTS, at.etc = s.NetNS, other.utsPath(), other.etcPath()
		if other.net {
			ns.Net = other.netPath()
		}
	}
	if e.IPCOf != "" {
		other, _, err := n.neighbour(e.IPCOf)
		if err != nil {
			return ns, at, err
		}
		ns.IPC, at.shm = other.ipcPath(), other.shmPath()
	}
	if e.PIDsOf != "" {
		w := n.worker(types.UID(e.PIDsOf))
		if w == nil {
			return ns, at, fmt.Errorf("the pod %s whose processes are to be joined is not on this node", e.PIDsOf)
		}
		w.mu.Lock()
		name := w.pod.Spec.Containers[0].Name
		w.mu.Unlock()
		pid := n.pidOf(types.UID(e.PIDsOf), name)
		if pid == 0 {
			return ns, at, errors.New("the container whose processes are to be joined does not run")
		}
		ns.PID = fmt.Sprintf("/proc/%d/ns/pid", pid)
	}
	return ns, at, nil
}

// files are the directories of what containers of a pod share.
type files struct{ etc, shm string }

// grant gives a container its extras.
func (b *build) grant(c *runtime.Container) {
	c.Rlimits, c.Devices, c.DeviceRules = b.extras.Rlimits, b.extras.Devices, b.extras.DeviceRules
	c.Mounts = append(c.Mounts, b.extras.Tmpfs...)
}

// resources are the limits of a container, those among a pod's extras included.
func (n *Node) resources(pod *v1.Pod, c *v1.Container) runtime.Resources {
	r := containerResources(pod, c, n.host.MemoryBytes)
	e, _ := n.extras(pod) // ensureSandbox has told what is wrong with them
	if e.PidsLimit != 0 {
		r.PidsLimit = e.PidsLimit
	}
	if e.OOMScoreAdj != nil {
		r.OOMScoreAdj = *e.OOMScoreAdj
	}
	return r
}

// bringUpLoopback makes 127.0.0.1 work in the network namespace of this thread.
func bringUpLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	return nil
}

// writeSysctl sets a kernel parameter of this thread's namespaces.
func writeSysctl(name, value string) error {
	path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s: %w", name, err)
	}
	return nil
}
