package cgroup

import (
	"fmt"
	"slices"
	"strconv"

	upstream "github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func settingsV2(r *specs.LinuxResources) (s []setting, err error) {
	add := func(file, value string) { s = append(s, setting{file: file, value: value}) }
	if c := r.CPU; c != nil {
		if c.Shares != nil && *c.Shares != 0 {
			add("cpu.weight", strconv.FormatUint(upstream.ConvertCPUSharesToCgroupV2Value(*c.Shares), 10))
		}
		if max := cpuMax(c); max != "" {
			add("cpu.max", max)
		}
	}
	if m := r.Memory; m != nil {
		if m.Swappiness != nil || m.DisableOOMKiller != nil && *m.DisableOOMKiller {
			return nil, fmt.Errorf("swappiness and switching off the out-of-memory killer are not known to cgroup v2")
		}
		if m.Swap != nil && m.Limit != nil && *m.Swap != 0 {
			swap, err := upstream.ConvertMemorySwapToCgroupV2Value(*m.Swap, *m.Limit)
			if err != nil {
				return nil, err
			}
			value := "max"
			if swap >= 0 {
				value = strconv.FormatInt(swap, 10)
			}
			s = append(s, setting{file: "memory.swap.max", value: value, optional: true})
		}
		if m.Limit != nil && *m.Limit != 0 {
			add("memory.max", limit(*m.Limit))
		}
		if m.Reservation != nil && *m.Reservation != 0 {
			add("memory.low", limit(*m.Reservation))
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		add("pids.max", limit(*p.Limit))
	}
	for _, h := range r.HugepageLimits {
		value := strconv.FormatUint(h.Limit, 10)
		add("hugetlb."+h.Pagesize+".max", value)
		s = append(s, setting{file: "hugetlb." + h.Pagesize + ".rsvd.max", value: value, optional: true})
	}
	for _, name := range sortedKeys(r.Unified) {
		add(name, r.Unified[name])
	}
	return s, nil
}

// cpuMax is "QUOTA PERIOD", or "" when neither was named.
func cpuMax(c *specs.LinuxCPU) string {
	if (c.Quota == nil || *c.Quota == 0) && (c.Period == nil || *c.Period == 0) {
		return ""
	}
	quota, period := "max", uint64(100000)
	if c.Quota != nil && *c.Quota > 0 {
		quota = strconv.FormatInt(*c.Quota, 10)
	}
	if c.Period != nil && *c.Period != 0 {
		period = *c.Period
	}
	return quota + " " + strconv.FormatUint(period, 10)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
