package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gantryhq/gantry/engine/network"
	"github.com/gantryhq/gantry/engine/node/runtime"
)

// sandbox is what the containers of a pod share. It is kept in a file beside the
// pinned namespaces; after a reboot the file is stale, told by its boot id.
type sandbox struct {
	ID       string   `json:"id"`
	BootID   string   `json:"bootID"`
	IPs      []string `json:"ips,omitempty"`
	NetNS    string   `json:"netns,omitempty"`
	Hostname string   `json:"hostname"`
	PIDNS    string   `json:"pidns,omitempty"` // of a shared PID namespace

	UserNS *runtime.UserNS `json:"userNS,omitempty"` // of a pod with hostUsers: false
}

func sandboxFile(dir string) string { return filepath.Join(dir, "sandbox.json") }

// loadSandbox returns nil when there is none from this boot.
func loadSandbox(dir, bootID string) *sandbox {
	data, err := os.ReadFile(sandboxFile(dir))
	if err != nil {
		return nil
	}
	var s sandbox
	if json.Unmarshal(data, &s) != nil || s.ID == "" || s.BootID != bootID {
		return nil
	}
	return &s
}

func (s *sandbox) save(dir string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	tmp := sandboxFile(dir) + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	if err := os.Rename(tmp, sandboxFile(dir)); err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	return nil
}

// ensureSandbox makes the pod's sandbox, or finds the one that was made before.
func (n *Node) ensureSandbox(ctx context.Context, pod *v1.Pod, handler string) (*sandbox, error) {
	extras, err := n.extras(pod)
	if err != nil {
		return nil, err
	}
	dir := n.paths.sandbox(pod.UID)
	found := loadSandbox(dir, n.host.BootID)
	if found != nil && found.complete(dir) {
		return found, n.adoptNetwork(ctx, pod, extras, found)
	}
	// What an interrupted attempt or another boot left is of no use.
	if err := n.removeSandbox(pod.UID); err != nil {
		return nil, err
	}
	// First the directory: by it a pod is found that was deleted while nobody looked.
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make sandbox: %w", err)
	}
	s := &sandbox{ID: newSandboxID(), BootID: n.host.BootID, Hostname: podHostname(pod, n.host.Hostname)}
	if extras.HostUTS {
		s.Hostname = n.host.Hostname
	}
	if usesUserNS(pod) {
		if err := n.giveIDs(pod, handler, s); err != nil {
			return nil, err
		}
	}
	if err := n.attach(ctx, pod, extras, s); err != nil {
		return nil, err
	}
	if err := n.kernel.pin(n.podPins(pod, s)); err != nil {
		return nil, err
	}
	if err := n.writePodFiles(pod, s); err != nil {
		return nil, err
	}
	if isTrue(pod.Spec.ShareProcessNamespace) && !pod.Spec.HostPID {
		if err := n.startPause(ctx, pod, s, handler); err != nil {
			return nil, err
		}
	}
	return s, s.save(dir)
}

// giveIDs chooses the host ids of the pod's user namespace.
func (n *Node) giveIDs(pod *v1.Pod, handler string, s *sandbox) error {
	if handler != userNSHandler {
		return fmt.Errorf("runtime handler %q cannot run a pod with hostUsers: false: use a RuntimeClass with handler %q, or leave hostUsers out", handler, userNSHandler)
	}
	if isTrue(pod.Spec.ShareProcessNamespace) {
		return errors.New("hostUsers: false together with shareProcessNamespace is not supported on this machine: leave one of them out")
	}
	dir := n.paths.sandbox(pod.UID)
	if err := os.MkdirAll(dir, 0o711); err != nil { // the claim counts while it exists
		return fmt.Errorf("make sandbox: %w", err)
	}
	var err error
	s.UserNS, err = n.kernel.claimIDs(dir)
	return err
}

// complete reports whether the pins of a saved sandbox are still there.
func (s *sandbox) complete(dir string) bool {
	for _, path := range []string{s.NetNS, s.PIDNS, pins{dir: dir}.etcPath()} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			return false
		}
	}
	return true
}

// adoptNetwork has the network know the pod again after a restart.
func (n *Node) adoptNetwork(ctx context.Context, pod *v1.Pod, e runtime.Extras, s *sandbox) error {
	if !ownNetwork(pod, e) {
		return nil
	}
	a, err := n.cfg.Network.Attach(ctx, podNetwork(pod))
	if err != nil {
		return fmt.Errorf("attach network: %w", err)
	}
	if len(s.IPs) == 0 || a.IP.String() != s.IPs[0] {
		s.IPs, s.NetNS = []string{a.IP.String()}, a.NetNS
		if err := n.writePodFiles(pod, s); err != nil {
			return err
		}
		return s.save(n.paths.sandbox(pod.UID))
	}
	return nil
}

func (n *Node) attach(ctx context.Context, pod *v1.Pod, e runtime.Extras, s *sandbox) error {
	if pod.Spec.HostNetwork {
		s.IPs = []string{n.cfg.NodeIP.String()}
	}
	if !ownNetwork(pod, e) {
		return nil
	}
	a, err := n.cfg.Network.Attach(ctx, podNetwork(pod))
	if err != nil {
		return fmt.Errorf("attach network: %w", err)
	}
	s.NetNS, s.IPs = a.NetNS, []string{a.IP.String()}
	return nil
}

func podNetwork(pod *v1.Pod) network.Pod {
	p := network.Pod{UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, Workload: workloadOf(pod), Sysctls: sysctls(pod, true)}
	if _, set := p.Sysctls[unprivilegedPorts]; usesUserNS(pod) && !set {
		// Root of the pod's user namespace has no rights over the network namespace,
		// which is not of that: without this it could not serve port 80.
		p.Sysctls[unprivilegedPorts] = "0"
	}
	for c := range containersOf(pod) {
		for _, port := range c.Ports {
			if port.HostPort == 0 {
				continue
			}
			ip, _ := netip.ParseAddr(port.HostIP)
			p.HostPorts = append(p.HostPorts, network.HostPort{
				HostIP: ip, HostPort: uint16(port.HostPort), ContainerPort: uint16(port.ContainerPort), Protocol: port.Protocol,
			})
		}
	}
	return p
}

const unprivilegedPorts = "net.ipv4.ip_unprivileged_port_start"

// sysctls are those of the network namespace, or the others.
func sysctls(pod *v1.Pod, net bool) map[string]string {
	out := map[string]string{}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, kv := range sc.Sysctls {
			if name := strings.ReplaceAll(kv.Name, "/", "."); strings.HasPrefix(name, "net.") == net {
				out[name] = kv.Value
			}
		}
	}
	return out
}

func (n *Node) podPins(pod *v1.Pod, s *sandbox) pins {
	e, _ := n.extras(pod) // ensureSandbox has told what is wrong with them
	p := pins{
		dir:      n.paths.sandbox(pod.UID),
		hostname: s.Hostname,
		domain:   e.Domainname,
		uts:      !pod.Spec.HostNetwork && !e.HostUTS && e.NetworkOf == "",
		ipc:      !pod.Spec.HostIPC && e.IPCOf == "",
		net:      e.NoNetwork,
		shmBytes: e.ShmBytes,
		sysctls:  sysctls(pod, false),
		ids:      s.UserNS,
	}
	if e.NoNetwork {
		maps.Copy(p.sysctls, sysctls(pod, true))
	}
	return p
}

// namespaces are what a container of the pod joins, and where the files are that it shares
// with who is in them.
func (n *Node) namespaces(pod *v1.Pod, s *sandbox) (runtime.Namespaces, files, error) {
	p := n.podPins(pod, s)
	ns := runtime.Namespaces{Net: s.NetNS, UTS: p.utsPath(), IPC: p.ipcPath(), PID: s.PIDNS, UserNS: s.UserNS}
	if pod.Spec.HostNetwork {
		ns.Net, ns.UTS = runtime.Host, runtime.Host
	}
	if pod.Spec.HostIPC {
		ns.IPC = runtime.Host
	}
	if pod.Spec.HostPID {
		ns.PID = runtime.Host
	}
	e, err := n.extras(pod)
	if err != nil {
		return ns, files{}, err
	}
	return n.joined(e, p, ns)
}

// disconnect ends the process that holds a sandbox's PID namespace, and its network.
func (n *Node) disconnect(ctx context.Context, uid types.UID) error {
	id := containerID(uid, pauseContainer, 0)
	if err := n.cfg.Driver.Remove(ctx, id); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pause process: %w", err)
	}
	if err := n.cfg.Network.Detach(ctx, string(uid)); err != nil {
		return fmt.Errorf("detach network: %w", err)
	}
	return nil
}

// removeSandbox removes the pins and files of a sandbox that nothing uses any more.
func (n *Node) removeSandbox(uid types.UID) error {
	dir := n.paths.sandbox(uid)
	if s := loadSandbox(dir, n.host.BootID); s != nil && s.UserNS != nil {
		n.kernel.releaseIDs(s.UserNS) // while it exists nobody else can have taken them
	}
	return n.kernel.unpin(dir)
}

func newSandboxID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
