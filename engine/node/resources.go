package node

import (
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper"
	"k8s.io/kubernetes/pkg/kubelet/qos"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

const (
	cpuPeriod = 100_000 // µs
	minQuota  = 1_000   // µs, the kernel's least
	minShares = 2
	maxShares = 1 << 18

	// pidsLimit stops a fork bomb long before it takes the machine's pids.
	pidsLimit = 16384
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

// containerResources are the container's limits, as the kubelet computes them.
// There is no cgroup of the pod: containers compete by their own requests, which
// gives every pod the sum of its, and nothing has to keep the weights of parents
// up to date. A limit of the pod bounds each container that has none of its own.
func containerResources(pod *v1.Pod, c *v1.Container, memoryCapacity int64) runtime.Resources {
	var whole v1.ResourceRequirements
	if pod.Spec.Resources != nil {
		whole = *pod.Spec.Resources
	}
	request, limit := c.Resources.Requests.Cpu().MilliValue(), c.Resources.Limits.Cpu().MilliValue()
	if limit == 0 {
		limit = whole.Limits.Cpu().MilliValue()
	}
	memory := c.Resources.Limits.Memory().Value()
	if memory == 0 {
		memory = whole.Limits.Memory().Value()
	}
	if _, ok := c.Resources.Requests[v1.ResourceCPU]; !ok {
		request = c.Resources.Limits.Cpu().MilliValue()
	}
	if request == 0 {
		request = whole.Requests.Cpu().MilliValue() / int64(max(len(pod.Spec.Containers), 1))
	}
	r := runtime.Resources{
		CPUShares:   cpuShares(request),
		CPUQuota:    cpuQuota(limit),
		MemoryLimit: memory,
		PidsLimit:   pidsLimit,
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
