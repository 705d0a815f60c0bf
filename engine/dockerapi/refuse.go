package dockerapi

import (
	"fmt"
	"slices"
	"strings"

	types "github.com/moby/moby/api/types/container"
	"k8s.io/apimachinery/pkg/util/validation"
)

// refuse returns why a container cannot be what is asked for. What pods cannot give is
// refused, never left out: a container must not run with less isolation, or with less of
// anything, than its owner believes. Warnings are about what is stricter here.
func refuse(c *types.Config, h *types.HostConfig) (warnings []string, err error) {
	no := func(what, why string) error { return invalid("%s is not possible: %s", what, why) }
	pod := "a container is a Kubernetes pod here"
	nil0 := func(v *int64) int64 {
		if v == nil {
			return 0
		}
		return *v
	}
	for _, f := range []struct {
		asked     bool
		what, why string
	}{
		{c.NetworkDisabled || h.NetworkMode.IsNone(), "network mode none", pod + " and a pod has a network; use `docker network create --internal` for one that leads nowhere"},
		{h.NetworkMode.IsContainer(), "network mode " + string(h.NetworkMode), "put both containers into one pod with the Kubernetes API"},
		{h.IpcMode.IsContainer(), "ipc mode " + string(h.IpcMode), "put both containers into one pod with the Kubernetes API"},
		{h.IpcMode.IsNone(), "ipc mode none", pod + " and has shared memory of its own"},
		{h.PidMode.IsContainer(), "pid mode " + string(h.PidMode), "put both containers into one pod with the Kubernetes API"},
		{h.UTSMode.IsHost(), "uts mode host", pod + "; with --network host it has the host's name"},
		{h.CgroupnsMode.IsHost(), "cgroup namespace mode host", "control groups of the host are not shown to containers"},
		{h.CgroupParent != "", "--cgroup-parent", "control groups are the node's business"},
		{h.Cgroup != "", "--cgroup", "control groups are the node's business"},
		{len(h.Devices) > 0, "--device", "devices are given to pods by device plugins"},
		{len(h.DeviceCgroupRules) > 0, "--device-cgroup-rule", "devices are given to pods by device plugins"},
		{len(h.DeviceRequests) > 0, "--gpus", "devices are given to pods by device plugins"},
		{len(h.Links) > 0, "--link", "containers of one user-defined network reach each other by name"},
		{len(h.Ulimits) > 0, "--ulimit", "the Kubernetes API has no word for it; the limits are the host's"},
		{nil0(h.PidsLimit) > 0, "--pids-limit", "the limit of processes is the node's, the same for every pod"},
		{h.OomScoreAdj != 0, "--oom-score-adj", "it follows from memory requests and limits of the pod"},
		{h.OomKillDisable != nil && *h.OomKillDisable, "--oom-kill-disable", "a container that exceeds its memory is killed"},
		{h.MemorySwappiness != nil && *h.MemorySwappiness >= 0, "--memory-swappiness", "pods do not swap"},
		{h.CpusetCpus != "" || h.CpusetMems != "", "--cpuset-cpus and --cpuset-mems", "limit the share with --cpus"},
		{h.CPURealtimePeriod != 0 || h.CPURealtimeRuntime != 0, "real-time scheduling", "the Kubernetes API has no word for it"},
		{h.BlkioWeight != 0 || len(h.BlkioWeightDevice)+len(h.BlkioDeviceReadBps)+len(h.BlkioDeviceWriteBps)+len(h.BlkioDeviceReadIOps)+len(h.BlkioDeviceWriteIOps) > 0, "a limit of block I/O", "the Kubernetes API has no word for it"},
		{len(h.StorageOpt) > 0, "--storage-opt", "the writable layer has no size of its own"},
		{c.Domainname != "", "--domainname", "a pod's domain is the cluster's"},
		{h.VolumeDriver != "" && h.VolumeDriver != "local", "volume driver " + h.VolumeDriver, "there is only local"},
		{h.LogConfig.Type != "" && h.LogConfig.Type != "json-file" && h.LogConfig.Type != "local", "log driver " + h.LogConfig.Type, "logs are kept by the node, in files that it rotates"},
		{!h.Isolation.IsDefault() && !h.Isolation.IsProcess(), "isolation " + string(h.Isolation), "this is Linux"},
		{h.CPUPeriod != 0 && h.CPUQuota <= 0, "--cpu-period without --cpu-quota", "a limit of processor time is a quota per period"},
		{h.Umask != nil, "--umask", "the Kubernetes API has no word for it"},
	} {
		if f.asked {
			return nil, no(f.what, f.why)
		}
	}
	if c.Hostname != "" && len(validation.IsDNS1123Label(c.Hostname)) > 0 {
		return nil, invalid("hostname %q is not possible: a pod's has at most 63 lower-case letters, digits and '-'", c.Hostname)
	}
	if err := types.ValidateRestartPolicy(h.RestartPolicy); err != nil {
		return nil, invalid("%v", err)
	}
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return nil, invalid("can't create 'AutoRemove' container with restart policy")
	}
	if h.Memory != 0 && h.Memory < 6<<20 {
		return nil, invalid("Minimum memory limit allowed is 6MB")
	}
	if h.MemorySwap != 0 && h.MemorySwap != h.Memory {
		warnings = append(warnings, "Pods do not swap: the limit of memory and swap together is the limit of memory.")
	}
	if h.NanoCPUs < 0 || h.Memory < 0 || h.CPUShares < 0 || h.CPUQuota < -1 {
		return nil, invalid("a limit is negative")
	}
	return warnings, refuseSecurity(h)
}

// refuseSecurity judges --security-opt and system paths.
func refuseSecurity(h *types.HostConfig) error {
	for _, option := range h.SecurityOpt {
		switch strings.Replace(option, ":", "=", 1) {
		case "no-new-privileges", "no-new-privileges=true", "no-new-privileges=false", "seccomp=unconfined", "seccomp=builtin",
			"apparmor=unconfined", "apparmor=docker-default", "label=disable", "systempaths=unconfined":
		default:
			return invalid("--security-opt %s is not possible: known are no-new-privileges, seccomp=unconfined, apparmor=unconfined and systempaths=unconfined; a profile of your own is given to pods as a file of the node", option)
		}
	}
	return nil
}

// securityOption is whether an option is given in one of its spellings.
func securityOption(h *types.HostConfig, names ...string) bool {
	return slices.ContainsFunc(h.SecurityOpt, func(o string) bool { return slices.Contains(names, strings.Replace(o, ":", "=", 1)) })
}

// runtimeOf is the RuntimeClass for a runtime's name.
func runtimeOf(name string) (*string, error) {
	switch name {
	case "", "runc", "io.containerd.runc.v2": // what docker calls its default
		return nil, nil
	}
	if msgs := validation.IsDNS1123Label(name); len(msgs) > 0 {
		return nil, invalid("unknown or invalid runtime name: %s", name)
	}
	return &name, nil
}

// shmDefault is what a pod has anyway.
const shmDefault = 64 << 20

func checkShm(h *types.HostConfig) error {
	if h.ShmSize < 0 {
		return invalid("SHM size can not be less than 0")
	}
	return nil
}

var errNoCommand = fmt.Errorf("no command specified")
