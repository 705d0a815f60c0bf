package objects

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type adder = func(value float64, labels ...string)

// each makes a family of objects of one type.
func each[T any](name, kind string, of func(o *T, add adder)) family {
	return family{name, kind, func(object any, add func(float64, ...string)) {
		if o, ok := object.(*T); ok {
			of(o, add)
		}
	}}
}

func pod(name string, of func(p *corev1.Pod, add adder)) family {
	return each(name, "gauge", func(p *corev1.Pod, add adder) {
		of(p, func(v float64, labels ...string) {
			add(v, append([]string{"namespace", p.Namespace, "pod", p.Name, "uid", string(p.UID)}, labels...)...)
		})
	})
}

// container makes a family of the states of a pod's containers.
func container(name, kind string, of func(s *corev1.ContainerStatus, add adder)) family {
	f := pod(name, func(p *corev1.Pod, add adder) {
		for i := range p.Status.ContainerStatuses {
			s := &p.Status.ContainerStatuses[i]
			of(s, func(v float64, labels ...string) { add(v, append([]string{"container", s.Name}, labels...)...) })
		}
	})
	f.kind = kind
	return f
}

// asked makes a family of what containers request or are limited to.
func asked(name string, list func(*corev1.Container) corev1.ResourceList) family {
	return pod(name, func(p *corev1.Pod, add adder) {
		for i := range p.Spec.Containers {
			c := &p.Spec.Containers[i]
			resources(list(c), func(v float64, labels ...string) {
				add(v, append([]string{"container", c.Name, "node", p.Spec.NodeName}, labels...)...)
			})
		}
	})
}

// resources tells a list of resources with their units.
func resources(list corev1.ResourceList, add adder) {
	for name, q := range list {
		unit := "integer"
		switch {
		case name == corev1.ResourceCPU:
			unit = "core"
		case name == corev1.ResourceMemory, name == corev1.ResourceStorage, name == corev1.ResourceEphemeralStorage:
			unit = "byte"
		}
		add(q.AsApproximateFloat64(), "resource", resourceName(name), "unit", unit)
	}
}

func resourceName(n corev1.ResourceName) string {
	b := []byte(n)
	for i, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			b[i] = '_'
		}
	}
	return string(b)
}

var phases = []corev1.PodPhase{corev1.PodPending, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown, corev1.PodRunning}

// owner is the controller of an object, or what kube-state-metrics writes for none.
func owner(m *metav1.ObjectMeta) (kind, name string) {
	if o := metav1.GetControllerOf(m); o != nil {
		return o.Kind, o.Name
	}
	return "", ""
}

var pods = []family{
	pod("kube_pod_info", func(p *corev1.Pod, add adder) {
		kind, name := owner(&p.ObjectMeta)
		host := "false"
		if p.Spec.HostNetwork {
			host = "true"
		}
		add(1, "host_ip", p.Status.HostIP, "pod_ip", p.Status.PodIP, "node", p.Spec.NodeName, "created_by_kind", kind, "created_by_name", name,
			"priority_class", p.Spec.PriorityClassName, "host_network", host)
	}),
	pod("kube_pod_owner", func(p *corev1.Pod, add adder) {
		kind, name := owner(&p.ObjectMeta)
		add(1, "owner_kind", kind, "owner_name", name, "owner_is_controller", map[bool]string{true: "true", false: ""}[kind != ""])
	}),
	pod("kube_pod_created", func(p *corev1.Pod, add adder) { add(unix(p.CreationTimestamp.Time)) }),
	pod("kube_pod_start_time", func(p *corev1.Pod, add adder) {
		if p.Status.StartTime != nil {
			add(unix(p.Status.StartTime.Time))
		}
	}),
	pod("kube_pod_deletion_timestamp", func(p *corev1.Pod, add adder) {
		if p.DeletionTimestamp != nil {
			add(unix(p.DeletionTimestamp.Time))
		}
	}),
	pod("kube_pod_status_phase", func(p *corev1.Pod, add adder) {
		for _, phase := range phases {
			if p.Status.Phase != "" {
				add(number(p.Status.Phase == phase), "phase", string(phase))
			}
		}
	}),
	pod("kube_pod_status_ready", podCondition(corev1.PodReady)),
	pod("kube_pod_status_scheduled", podCondition(corev1.PodScheduled)),
	pod("kube_pod_status_unschedulable", func(p *corev1.Pod, add adder) {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				add(1)
			}
		}
	}),
	pod("kube_pod_status_reason", func(p *corev1.Pod, add adder) {
		for _, reason := range []string{"Evicted", "NodeAffinity", "NodeLost", "Shutdown", "UnexpectedAdmissionError"} {
			if p.Status.Reason == reason {
				add(1, "reason", reason)
			}
		}
	}),
	container("kube_pod_container_info", "gauge", func(s *corev1.ContainerStatus, add adder) {
		add(1, "image", s.Image, "image_id", s.ImageID, "container_id", s.ContainerID)
	}),
	container("kube_pod_container_status_restarts_total", "counter", func(s *corev1.ContainerStatus, add adder) { add(float64(s.RestartCount)) }),
	container("kube_pod_container_status_ready", "gauge", func(s *corev1.ContainerStatus, add adder) { add(number(s.Ready)) }),
	container("kube_pod_container_status_running", "gauge", func(s *corev1.ContainerStatus, add adder) { add(number(s.State.Running != nil)) }),
	container("kube_pod_container_status_waiting", "gauge", func(s *corev1.ContainerStatus, add adder) { add(number(s.State.Waiting != nil)) }),
	container("kube_pod_container_status_terminated", "gauge", func(s *corev1.ContainerStatus, add adder) { add(number(s.State.Terminated != nil)) }),
	container("kube_pod_container_status_waiting_reason", "gauge", func(s *corev1.ContainerStatus, add adder) {
		if w := s.State.Waiting; w != nil && w.Reason != "" {
			add(1, "reason", w.Reason)
		}
	}),
	container("kube_pod_container_status_terminated_reason", "gauge", func(s *corev1.ContainerStatus, add adder) {
		if t := s.State.Terminated; t != nil && t.Reason != "" {
			add(1, "reason", t.Reason)
		}
	}),
	container("kube_pod_container_status_last_terminated_reason", "gauge", func(s *corev1.ContainerStatus, add adder) {
		if t := s.LastTerminationState.Terminated; t != nil && t.Reason != "" {
			add(1, "reason", t.Reason)
		}
	}),
	container("kube_pod_container_status_last_terminated_exitcode", "gauge", func(s *corev1.ContainerStatus, add adder) {
		if t := s.LastTerminationState.Terminated; t != nil {
			add(float64(t.ExitCode))
		}
	}),
	container("kube_pod_container_state_started", "gauge", func(s *corev1.ContainerStatus, add adder) {
		if r := s.State.Running; r != nil {
			add(unix(r.StartedAt.Time))
		}
	}),
	asked("kube_pod_container_resource_requests", func(c *corev1.Container) corev1.ResourceList { return c.Resources.Requests }),
	asked("kube_pod_container_resource_limits", func(c *corev1.Container) corev1.ResourceList { return c.Resources.Limits }),
}

func podCondition(kind corev1.PodConditionType) func(*corev1.Pod, adder) {
	return func(p *corev1.Pod, add adder) {
		for _, c := range p.Status.Conditions {
			if c.Type == kind {
				conditions(c.Status, "condition", add)
			}
		}
	}
}

// conditions tells which of the three statuses a condition has.
func conditions(status corev1.ConditionStatus, label string, add adder) {
	for s, name := range map[corev1.ConditionStatus]string{
		corev1.ConditionTrue: "true", corev1.ConditionFalse: "false", corev1.ConditionUnknown: "unknown",
	} {
		add(number(status == s), label, name)
	}
}
