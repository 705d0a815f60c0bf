package dockerapi

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	types "github.com/moby/moby/api/types/container"
	"k8s.io/apimachinery/pkg/util/validation"
)

// refuse returns why a container cannot be what is asked for. What pods cannot give is
// refused by the name of its option, never left out: a container must not run with less
// isolation, or with less of anything, than its owner believes. Warnings are about what is
// stricter here, or does not matter.
func refuse(c *types.Config, h *types.HostConfig) (warnings []string, err error) {
	for _, f := range impossible(c, h) {
		if f.asked {
			return nil, invalid("%s is not possible: %s", f.what, f.why)
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
	if len(h.LogConfig.Config) > 0 {
		warnings = append(warnings, "--log-opt has no effect: the node rotates logs at 50 MB.")
	}
	if h.NanoCPUs < 0 || h.Memory < 0 || h.CPUShares < 0 || h.CPUQuota < -1 {
		return nil, invalid("a limit is negative")
	}
	return warnings, errors.Join(refuseSecurity(h), refuseNamespaces(c, h), refuseDevices(h))
}

// refusal is what may be asked for and cannot be had.
type refusal struct {
	asked     bool
	what, why string
}

func impossible(c *types.Config, h *types.HostConfig) []refusal {
	const windows = "it is for Windows, and this is Linux"
	return []refusal{
		{h.IpcMode.IsNone(), "--ipc none", "a container is a pod here and has shared memory of its own; --shm-size bounds it"},
		{h.CgroupnsMode.IsHost() && cgroupVersion() == "2" && !h.Privileged, "--cgroupns host", "control groups of the host are shown to privileged containers only"},
		{h.CgroupnsMode.IsPrivate() && (cgroupVersion() == "1" || h.Privileged), "--cgroupns private", "it needs a host with cgroup v2 and a container without --privileged"},
		{h.CgroupParent != "", "--cgroup-parent", "control groups are the node's business"},
		{h.Cgroup != "", "--cgroup", "control groups are the node's business"},
		{len(h.DeviceRequests) > 0, "--gpus", "no driver of graphics devices or CDI is known here; give the container its device files with --device, as in --device /dev/dri or --device /dev/nvidia0, and its libraries in the image or with -v"},
		{len(h.Links) > 0, "--link", "containers of one user-defined network reach each other by name"},
		{h.OomKillDisable != nil && *h.OomKillDisable, "--oom-kill-disable", "a container that exceeds its memory is killed; raise --memory instead"},
		{h.MemorySwappiness != nil && *h.MemorySwappiness >= 0, "--memory-swappiness", "containers do not swap"},
		{h.CpusetCpus != "", "--cpuset-cpus", "containers are not bound to processors; limit the share with --cpus"},
		{h.CpusetMems != "", "--cpuset-mems", "containers are not bound to memory nodes; limit memory with --memory"},
		{h.CPURealtimePeriod != 0, "--cpu-rt-period", "real-time scheduling is not given to containers"},
		{h.CPURealtimeRuntime != 0, "--cpu-rt-runtime", "real-time scheduling is not given to containers"},
		{h.BlkioWeight != 0, "--blkio-weight", "block devices are not limited by container"},
		{len(h.BlkioWeightDevice) > 0, "--blkio-weight-device", "block devices are not limited by container"},
		{len(h.BlkioDeviceReadBps) > 0, "--device-read-bps", "block devices are not limited by container"},
		{len(h.BlkioDeviceWriteBps) > 0, "--device-write-bps", "block devices are not limited by container"},
		{len(h.BlkioDeviceReadIOps) > 0, "--device-read-iops", "block devices are not limited by container"},
		{len(h.BlkioDeviceWriteIOps) > 0, "--device-write-iops", "block devices are not limited by container"},
		{len(h.StorageOpt) > 0, "--storage-opt", "the writable layer has no size of its own; write to a --tmpfs with a size, or to a volume"},
		{h.VolumeDriver != "" && h.VolumeDriver != "local", "--volume-driver " + h.VolumeDriver, "there is only local"},
		{h.LogConfig.Type != "" && h.LogConfig.Type != "json-file" && h.LogConfig.Type != "local", "--log-driver " + h.LogConfig.Type, "logs are kept by the node, in files that it rotates; leave the option out"},
		{!h.Isolation.IsDefault() && !h.Isolation.IsProcess(), "--isolation " + string(h.Isolation), "this is Linux"},
		{h.CPUCount != 0, "--cpu-count", windows + ": use --cpus"},
		{h.CPUPercent != 0, "--cpu-percent", windows + ": use --cpus"},
		{h.IOMaximumBandwidth != 0, "--io-maxbandwidth", windows},
		{h.IOMaximumIOps != 0, "--io-maxiops", windows},
		{h.CPUPeriod != 0 && h.CPUQuota <= 0, "--cpu-period without --cpu-quota", "a limit of processor time is a quota per period"},
		{h.Umask != nil, "a umask", "the command sets its own; put umask in front of it"},
		{len(h.MaskedPaths) > 0 || len(h.ReadonlyPaths) > 0, "a list of masked or read-only paths", "there is the usual one, or none with --security-opt systempaths=unconfined"},
		{h.UsernsMode != "" && !h.UsernsMode.IsHost(), "--userns " + string(h.UsernsMode), "containers have the host's user ids, as under dockerd without userns-remap; pods can have their own (hostUsers: false)"},
	}
}

// refuseNamespaces judges what is shared with other containers or with the host.
func refuseNamespaces(c *types.Config, h *types.HostConfig) error {
	alone := h.NetworkMode.IsContainer() || h.NetworkMode.IsNone() || c.NetworkDisabled
	for _, f := range []refusal{
		{alone && (len(h.PortBindings) > 0 || h.PublishAllPorts), "--publish with --network " + string(h.NetworkMode), "publish the ports of a container that has an address of its own"},
		{h.NetworkMode.IsContainer() && len(h.ExtraHosts) > 0, "--add-host with --network " + string(h.NetworkMode), "give it to the container whose network is joined"},
		{h.NetworkMode.IsContainer() && len(h.DNS)+len(h.DNSSearch)+len(h.DNSOptions) > 0, "--dns with --network " + string(h.NetworkMode), "give it to the container whose network is joined"},
		{h.NetworkMode.IsContainer() && h.UTSMode.IsHost(), "--uts host with --network " + string(h.NetworkMode), "the host name is that of the container whose network is joined"},
		{h.NetworkMode.IsContainer() && c.Domainname != "", "--domainname with --network " + string(h.NetworkMode), "the names are those of the container whose network is joined"},
		{h.UTSMode.IsHost() && c.Hostname != "", "--hostname with --uts host", "the host has a name; leave one of them out"},
		{(h.UTSMode.IsHost() || h.NetworkMode.IsHost()) && c.Domainname != "", "--domainname with the host's names", "the host has a domain; leave one of them out"},
		{h.PidMode.IsContainer() && h.Init != nil && *h.Init, "--init with --pid " + string(h.PidMode), "the container whose processes are joined has a first process; give --init to that one"},
		{!h.UTSMode.Valid(), "--uts " + string(h.UTSMode), "there is host, or none"},
		{!h.PidMode.Valid(), "--pid " + string(h.PidMode), "there is host and container:NAME"},
		{!h.IpcMode.Valid(), "--ipc " + string(h.IpcMode), "there is private, shareable, host and container:NAME"},
	} {
		if f.asked {
			return invalid("%s is not possible: %s", f.what, f.why)
		}
	}
	for name := range h.Sysctls {
		if strings.HasPrefix(name, "net.") && (h.NetworkMode.IsContainer() || h.NetworkMode.IsHost()) {
			return invalid("--sysctl %s with --network %s is not possible: it would change another network", name, h.NetworkMode)
		}
	}
	for key := range h.Annotations {
		if reserved(key) || len(validation.IsQualifiedName(key)) > 0 {
			return invalid("--annotation %s is not possible: it becomes an annotation of the pod, named PREFIX/NAME or NAME and not below gantry.dev", key)
		}
	}
	return nil
}

// reserved is whether an annotation means something to Gantry or Kubernetes.
func reserved(key string) bool {
	prefix, _, found := strings.Cut(key, "/")
	return found && (prefix == "gantry.dev" || strings.HasSuffix(prefix, ".gantry.dev") || prefix == "kubernetes.io" || strings.HasSuffix(prefix, ".kubernetes.io"))
}

// refuseSecurity judges --security-opt and system paths.
func refuseSecurity(h *types.HostConfig) error {
	for _, option := range h.SecurityOpt {
		option = strings.Replace(option, ":", "=", 1)
		if profile, is := strings.CutPrefix(option, "apparmor="); is && profile != "" {
			continue // the node says when the host has none of that name
		}
		switch option {
		case "no-new-privileges", "no-new-privileges=true", "no-new-privileges=false", "seccomp=unconfined", "seccomp=builtin",
			"label=disable", "systempaths=unconfined":
		default:
			return invalid("--security-opt %s is not possible: known are no-new-privileges, seccomp=unconfined, apparmor=PROFILE, label=disable and systempaths=unconfined; a seccomp profile of your own is given to pods as a file of the node", shortened(option))
		}
	}
	return nil
}

// shortened is an option that may hold a whole profile.
func shortened(option string) string {
	if len(option) > 60 {
		return option[:60] + "…"
	}
	return option
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
