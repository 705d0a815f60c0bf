package node

import (
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper"
	qoshelper "k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
	"k8s.io/kubernetes/pkg/kubelet/qos"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

const (
	cpuPeriod = 100_000 // µs
	minQuota  = 1_000   // µs, the kernel's least
	minShares = 2
	maxShares = 1 << 18

	// podPidsLimit stops a fork bomb long before it takes the machine's pids.
	podPidsLimit = 16384
)

func cpuShares(milli int64) uint64 {
	return uint64(min(max(milli*1024/1000, minShares), maxShares))
}

func cpuQuota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*cpuPeriod/1000, minQuota)
}

// containerResources are the container's own limits, as the kubelet computes them.
func containerResources(pod *v1.Pod, c *v1.Container, memoryCapacity int64) runtime.Resources {
	request, limit := c.Resources.Requests.Cpu().MilliValue(), c.Resources.Limits.Cpu().MilliValue()
	if _, ok := c.Resources.Requests[v1.ResourceCPU]; !ok {
		request = limit
	}
	r := runtime.Resources{
		CPUShares:   cpuShares(request),
		CPUQuota:    cpuQuota(limit),
		MemoryLimit: c.Resources.Limits.Memory().Value(),
		OOMScoreAdj: qos.GetContainerOOMScoreAdjust(pod, c, memoryCapacity),
	}
	if r.CPUQuota != 0 {
		r.CPUPeriod = cpuPeriod
	}
	for name, q := range c.Resources.Limits {
		if !resource.IsHugePageResourceName(name) {
			continue
		}
		size, err := helper.HugePageSizeFromResourceName(name)
		if err != nil {
			continue // validation has refused it
		}
		if r.Hugepages == nil {
			r.Hugepages = map[string]uint64{}
		}
		r.Hugepages[hugePageName(size.Value())] = uint64(q.Value())
	}
	return r
}

// hugePageName is the kernel's name of a huge page size, such as "2MB".
func hugePageName(bytes int64) string {
	units := []string{"B", "KB", "MB", "GB"}
	i := 0
	for bytes >= 1024 && i < len(units)-1 {
		bytes /= 1024
		i++
	}
	return strconv.FormatInt(bytes, 10) + units[i]
}

// podResources are the limits of the pod's cgroup: what all containers together
// may use when every one of them has a limit.
func podResources(pod *v1.Pod) *runtime.Resources {
	cpuLimited, memoryLimited := true, true
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{
		ContainerFn: func(res v1.ResourceList, _ resourcehelper.ContainerType) {
			cpuLimited = cpuLimited && !res.Cpu().IsZero()
			memoryLimited = memoryLimited && !res.Memory().IsZero()
		},
	})
	if res := pod.Spec.Resources; res != nil {
		cpuLimited = cpuLimited || !res.Limits.Cpu().IsZero()
		memoryLimited = memoryLimited || !res.Limits.Memory().IsZero()
	}
	r := &runtime.Resources{CPUShares: minShares, PidsLimit: podPidsLimit}
	if qoshelper.GetPodQOS(pod) == v1.PodQOSBestEffort {
		return r
	}
	r.CPUShares = cpuShares(requests.Cpu().MilliValue())
	if cpuLimited {
		if r.CPUQuota = cpuQuota(limits.Cpu().MilliValue()); r.CPUQuota != 0 {
			r.CPUPeriod = cpuPeriod
		}
	}
	if memoryLimited {
		r.MemoryLimit = limits.Memory().Value()
	}
	return r
}

// cgroupParent is flat: pods compete by their own requests, so nothing has to
// keep the weights of QoS levels up to date as the kubelet does.
func cgroupParent(pod *v1.Pod) string {
	return "pod" + strings.ReplaceAll(string(pod.UID), "/", "_")
}
