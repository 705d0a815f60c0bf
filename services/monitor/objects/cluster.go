package objects

import (
	corev1 "k8s.io/api/core/v1"
)

// node makes a gauge of a node.
func node(name string, of func(n *corev1.Node, add adder)) family {
	return each(name, "gauge", func(n *corev1.Node, add adder) {
		of(n, func(v float64, labels ...string) { add(v, append([]string{"node", n.Name}, labels...)...) })
	})
}

var nodes = []family{
	node("kube_node_info", func(n *corev1.Node, add adder) {
		i := n.Status.NodeInfo
		internal := ""
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				internal = a.Address
			}
		}
		add(1, "kernel_version", i.KernelVersion, "os_image", i.OSImage, "container_runtime_version", i.ContainerRuntimeVersion,
			"kubelet_version", i.KubeletVersion, "system_uuid", i.SystemUUID, "internal_ip", internal)
	}),
	node("kube_node_created", func(n *corev1.Node, add adder) { add(unix(n.CreationTimestamp.Time)) }),
	node("kube_node_spec_unschedulable", func(n *corev1.Node, add adder) { add(number(n.Spec.Unschedulable)) }),
	node("kube_node_spec_taint", func(n *corev1.Node, add adder) {
		for _, t := range n.Spec.Taints {
			add(1, "key", t.Key, "value", t.Value, "effect", string(t.Effect))
		}
	}),
	node("kube_node_status_condition", func(n *corev1.Node, add adder) {
		for _, c := range n.Status.Conditions {
			conditions(c.Status, "status", func(v float64, labels ...string) {
				add(v, append([]string{"condition", string(c.Type)}, labels...)...)
			})
		}
	}),
	node("kube_node_status_capacity", func(n *corev1.Node, add adder) { resources(n.Status.Capacity, add) }),
	node("kube_node_status_allocatable", func(n *corev1.Node, add adder) { resources(n.Status.Allocatable, add) }),
}

var namespaces = []family{
	each("kube_namespace_created", "gauge", func(n *corev1.Namespace, add adder) { add(unix(n.CreationTimestamp.Time), "namespace", n.Name) }),
	each("kube_namespace_status_phase", "gauge", func(n *corev1.Namespace, add adder) {
		for _, phase := range []corev1.NamespacePhase{corev1.NamespaceActive, corev1.NamespaceTerminating} {
			add(number(n.Status.Phase == phase), "namespace", n.Name, "phase", string(phase))
		}
	}),
}

var service = named[corev1.Service]("service")

var services = []family{
	service("kube_service_info", func(s *corev1.Service, add adder) {
		add(1, "cluster_ip", s.Spec.ClusterIP, "external_name", s.Spec.ExternalName, "load_balancer_ip", s.Spec.LoadBalancerIP)
	}),
	service("kube_service_spec_type", func(s *corev1.Service, add adder) { add(1, "type", string(s.Spec.Type)) }),
}

var claim = named[corev1.PersistentVolumeClaim]("persistentvolumeclaim")

var claims = []family{
	claim("kube_persistentvolumeclaim_info", func(c *corev1.PersistentVolumeClaim, add adder) {
		class := ""
		if c.Spec.StorageClassName != nil {
			class = *c.Spec.StorageClassName
		}
		add(1, "storageclass", class, "volumename", c.Spec.VolumeName)
	}),
	claim("kube_persistentvolumeclaim_status_phase", func(c *corev1.PersistentVolumeClaim, add adder) {
		for _, phase := range []corev1.PersistentVolumeClaimPhase{corev1.ClaimLost, corev1.ClaimBound, corev1.ClaimPending} {
			add(number(c.Status.Phase == phase), "phase", string(phase))
		}
	}),
	claim("kube_persistentvolumeclaim_resource_requests_storage_bytes", func(c *corev1.PersistentVolumeClaim, add adder) {
		if q, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]; ok {
			add(q.AsApproximateFloat64())
		}
	}),
}

var volumes = []family{
	each("kube_persistentvolume_status_phase", "gauge", func(v *corev1.PersistentVolume, add adder) {
		for _, phase := range []corev1.PersistentVolumePhase{
			corev1.VolumePending, corev1.VolumeAvailable, corev1.VolumeBound, corev1.VolumeReleased, corev1.VolumeFailed,
		} {
			add(number(v.Status.Phase == phase), "persistentvolume", v.Name, "phase", string(phase))
		}
	}),
	each("kube_persistentvolume_capacity_bytes", "gauge", func(v *corev1.PersistentVolume, add adder) {
		q := v.Spec.Capacity[corev1.ResourceStorage]
		add(q.AsApproximateFloat64(), "persistentvolume", v.Name)
	}),
}

var quota = named[corev1.ResourceQuota]("resourcequota")

var quotas = []family{
	quota("kube_resourcequota", func(r *corev1.ResourceQuota, add adder) {
		for kind, list := range map[string]corev1.ResourceList{"hard": r.Status.Hard, "used": r.Status.Used} {
			for name, q := range list {
				add(q.AsApproximateFloat64(), "resource", string(name), "type", kind)
			}
		}
	}),
}
