package node

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/noderesources"
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
		if v := cmp.Or(admitAppArmor(pod, c), admitSELinux(pod, c)); v != nil {
			return v
		}
	}
	if len(pod.Spec.ResourceClaims) > 0 && !scheduled(pod) {
		return &verdict{Reason: "UnexpectedAdmissionError", Message: "the pod has resource claims, and no driver on this machine can satisfy one: remove resourceClaims"}
	}
	if v := n.admitResources(pod); v != nil {
		return v
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

// admitAppArmor refuses a profile that cannot be enforced. RuntimeDefault counts
// when it is asked for; without being asked it is applied where there is AppArmor.
func admitAppArmor(pod *v1.Pod, c *v1.Container) *verdict {
	p := effectiveSecurity(pod, c).AppArmorProfile
	if p == nil || p.Type == v1.AppArmorProfileTypeUnconfined {
		return nil
	}
	loaded, err := os.ReadFile("/sys/kernel/security/apparmor/profiles")
	if err != nil {
		return &verdict{Reason: "AppArmor", Message: fmt.Sprintf("Cannot enforce AppArmor: container %s asks for a profile, and AppArmor is not enabled on this machine: remove appArmorProfile or enable AppArmor", c.Name)}
	}
	if p.Type != v1.AppArmorProfileTypeLocalhost || p.LocalhostProfile == nil {
		return nil
	}
	for line := range strings.Lines(string(loaded)) {
		if name, _, _ := strings.Cut(line, " ("); name == *p.LocalhostProfile {
			return nil
		}
	}
	return &verdict{Reason: "AppArmor", Message: fmt.Sprintf("Cannot enforce AppArmor: profile %q is not loaded: load it with apparmor_parser", *p.LocalhostProfile)}
}

// admitSELinux refuses labels: nothing here applies them, and a container without
// the label it asks for would be less confined.
func admitSELinux(pod *v1.Pod, c *v1.Container) *verdict {
	o := effectiveSecurity(pod, c).SELinuxOptions
	if o == nil || *o == (v1.SELinuxOptions{}) {
		return nil
	}
	return &verdict{Reason: "SELinux", Message: fmt.Sprintf("Cannot enforce SELinux: container %s asks for a label, and containers are not labelled on this machine: remove seLinuxOptions", c.Name)}
}

// admitResources refuses what the machine does not have. The scheduler does not
// bind such a pod, but a pod that is created with a nodeName passes it by.
func (n *Node) admitResources(pod *v1.Pod) *verdict {
	if scheduled(pod) || !asksForResources(pod) {
		return nil
	}
	info := framework.NewNodeInfo(n.others(pod)...)
	info.SetNode(&v1.Node{Status: v1.NodeStatus{Capacity: n.capacity(), Allocatable: n.allocatable()}})
	lacking := noderesources.Fits(pod, info, nil, noderesources.ResourceRequestsOptions{EnablePodLevelResources: true})
	if len(lacking) == 0 {
		return nil
	}
	l := lacking[0]
	return &verdict{Reason: lifecycle.InsufficientResourcePrefix + string(l.ResourceName), Message: fmt.Sprintf(
		"Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d: request less, or leave nodeName to the scheduler, which waits until there is room",
		l.ResourceName, l.Requested, l.Used, l.Capacity)}
}

// scheduled reports whether the scheduler has chosen this machine for the pod.
func scheduled(pod *v1.Pod) bool {
	_, c := podutil.GetPodCondition(&pod.Status, v1.PodScheduled)
	return c != nil && c.Status == v1.ConditionTrue
}

func asksForResources(pod *v1.Pod) bool {
	if r := pod.Spec.Resources; r != nil && len(r.Requests)+len(r.Limits) > 0 {
		return true
	}
	for c := range containersOf(pod) {
		if len(c.Resources.Requests)+len(c.Resources.Limits) > 0 {
			return true
		}
	}
	return false
}
