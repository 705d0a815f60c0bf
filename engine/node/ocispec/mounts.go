package ocispec

import (
	"cmp"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// mounts returns the mounts that every container has, without those that the
// container brings itself, and then the container's, parents first.
func (b *Builder) mounts(c *runtime.Container) []specs.Mount {
	own := map[string]bool{}
	for _, m := range c.Mounts {
		own[filepath.Clean(m.Target)] = true
	}
	var all []specs.Mount
	for _, m := range b.systemMounts(c) {
		if !own[m.Destination] {
			all = append(all, m)
		}
	}
	sorted := slices.Clone(c.Mounts)
	slices.SortStableFunc(sorted, func(a, b runtime.Mount) int {
		return cmp.Compare(depth(a.Target), depth(b.Target))
	})
	for _, m := range sorted {
		all = append(all, bind(m))
	}
	return all
}

func depth(path string) int { return strings.Count(filepath.Clean(path), "/") }

// systemMounts are the file systems of the OCI runtime specification's Linux
// section and /dev/shm, as containerd mounts them.
func (b *Builder) systemMounts(c *runtime.Container) []specs.Mount {
	system := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
	}
	if c.Namespaces.IPC == runtime.Host {
		system[4] = specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"rbind", "nosuid", "noexec", "nodev"}}
	}
	access := "ro"
	if c.Security.Privileged {
		access = "rw"
	}
	foreign := c.Namespaces.UserNS != nil
	if foreign && c.Namespaces.IPC != "" {
		// Only the owner of an IPC namespace may mount its queues. The host's are not
		// the pod's: the directory is left out, the system calls work without it.
		system = slices.Delete(system, 3, 4)
	}
	if foreign && c.Namespaces.Net != "" {
		// And only the owner of a network namespace its sysfs.
		system = append(system, specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}})
	} else {
		system = append(system, specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}})
	}
	return append(system, specs.Mount{
		Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access},
	})
}

// bind translates one of the container's own mounts.
func bind(m runtime.Mount) specs.Mount {
	access := "rw"
	if m.ReadOnly {
		access = "ro"
	}
	if m.Source == "" && m.Options != nil {
		return specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: m.Options}
	}
	if m.Source == "" {
		options := []string{"nosuid", "nodev", "mode=1777", access}
		if m.SizeBytes > 0 {
			options = append(options, "size="+strconv.FormatInt(m.SizeBytes, 10))
		}
		return specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: options}
	}
	propagation := m.Propagation
	if propagation == "" || propagation == "private" {
		propagation = "rprivate"
	}
	return specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: []string{"rbind", propagation, access}}
}

// rootPropagation is what the root must allow for the mounts' propagation.
func rootPropagation(mounts []runtime.Mount) string {
	propagation := ""
	for _, m := range mounts {
		switch {
		case m.Propagation == "rshared":
			return "rshared"
		case m.Propagation == "rslave":
			propagation = "rslave"
		}
	}
	return propagation
}
