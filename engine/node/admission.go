package node

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/securitycontext"
)

// safeSysctls are namespaced and cannot harm other pods: upstream's list.
var safeSysctls = []string{
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range",
	"net.ipv4.tcp_syncookies",
	"net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports",
	"net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_rmem",
	"net.ipv4.tcp_wmem",
}

// admit refuses what this machine cannot run, with the remedy. A pod that runs
// already is not judged again. The caller holds the lock.
func (n *Node) admit(pod *v1.Pod) *verdict {
	if pod.Status.StartTime != nil || pod.DeletionTimestamp != nil {
		return nil
	}
	if os := pod.Spec.OS; os != nil && os.Name != v1.Linux {
		return &verdict{Reason: "PodOSNotSupported", Message: fmt.Sprintf("the pod wants operating system %q, this machine runs linux", os.Name)}
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			if v := n.admitSysctl(pod, strings.ReplaceAll(s.Name, "/", ".")); v != nil {
				return v
			}
		}
	}
	for c := range containersOf(pod) {
		if v := admitAppArmor(pod, c); v != nil {
			return v
		}
	}
	return admitHostPorts(pod, n.admitted(pod))
}

func (n *Node) admitSysctl(pod *v1.Pod, name string) *verdict {
	refuse := func(why string) *verdict {
		return &verdict{Reason: "SysctlForbidden", Message: fmt.Sprintf("forbidden sysctl: %q %s", name, why)}
	}
	ipc := strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")
	switch {
	case !ipc && !strings.HasPrefix(name, "net."):
		return refuse("is not namespaced: set it on the host")
	case ipc && pod.Spec.HostIPC:
		return refuse("not allowed with host ipc enabled")
	case !ipc && pod.Spec.HostNetwork:
		return refuse("not allowed with host net enabled")
	case slices.Contains(safeSysctls, name):
		return nil
	}
	for _, pattern := range n.cfg.UnsafeSysctls {
		if ok, _ := path.Match(pattern, name); ok {
			return nil
		}
	}
	return refuse("is not in the safe set and this node does not allow it")
}

func admitAppArmor(pod *v1.Pod, c *v1.Container) *verdict {
	p := securitycontext.DetermineEffectiveSecurityContext(pod, c).AppArmorProfile
	if p == nil || p.Type != v1.AppArmorProfileTypeLocalhost || p.LocalhostProfile == nil {
		return nil
	}
	loaded, err := os.ReadFile("/sys/kernel/security/apparmor/profiles")
	if err != nil {
		return &verdict{Reason: "AppArmor", Message: fmt.Sprintf("Cannot enforce AppArmor: container %s wants profile %q, and AppArmor is not enabled on this machine: remove the profile or enable AppArmor", c.Name, *p.LocalhostProfile)}
	}
	for line := range strings.Lines(string(loaded)) {
		if name, _, _ := strings.Cut(line, " ("); name == *p.LocalhostProfile {
			return nil
		}
	}
	return &verdict{Reason: "AppArmor", Message: fmt.Sprintf("Cannot enforce AppArmor: profile %q is not loaded: load it with apparmor_parser", *p.LocalhostProfile)}
}
