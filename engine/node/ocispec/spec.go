package ocispec

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/cgroup"
	"github.com/gantryhq/gantry/engine/node/runtime"
)

// defaultPath is the PATH of containers whose image names none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maxOpenFiles is the limit of open files that containers get where the host
// allows it, as under Docker and containerd.
const maxOpenFiles = 1 << 20

// Builder translates containers on one host.
type Builder struct {
	cgroups *cgroup.Tree
	base    baseline
}

// New looks at what this process may give to containers.
func New(cgroups *cgroup.Tree) (*Builder, error) {
	base, err := newBaseline()
	return &Builder{cgroups: cgroups, base: base}, err
}

// Spec translates a container into an OCI runtime configuration.
func (b *Builder) Spec(c *runtime.Container) (*specs.Spec, error) {
	if len(c.Args) == 0 {
		return nil, errors.New("it has no command: neither the image nor the pod names one")
	}
	if !filepath.IsAbs(c.Rootfs) {
		return nil, fmt.Errorf("root directory %q: an absolute path is needed", c.Rootfs)
	}
	cgroup, err := b.cgroups.Join(c.CgroupParent, c.ID)
	if err != nil {
		return nil, err
	}
	capabilities, err := b.base.capabilities(&c.Security)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version:  "1.0.2",
		Root:     &specs.Root{Path: c.Rootfs, Readonly: c.ReadOnlyRootfs},
		Hostname: hostname(c),
		Process: &specs.Process{
			Terminal:        c.TTY,
			User:            User(c.User),
			Args:            c.Args,
			Env:             environment(c),
			Cwd:             cwd(c.Cwd),
			Capabilities:    capabilities,
			Rlimits:         b.base.limits(c.Rlimits),
			NoNewPrivileges: !c.Security.AllowPrivilegeEsc && !c.Security.Privileged,
			OOMScoreAdj:     b.base.oomScoreAdj(c.Resources.OOMScoreAdj),
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroup,
			Namespaces:  b.namespaces(c),
			Sysctl:      c.Sysctls,
		},
	}
	if m := c.Namespaces.UserNS; m != nil {
		mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: m.HostID, Size: m.Length}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = mapping, mapping
	}
	if s.Linux.Resources, err = b.Resources(&c.Resources); err != nil {
		return nil, err
	}
	s.Mounts = b.mounts(c)
	s.Linux.RootfsPropagation = rootPropagation(c.Mounts)
	if err := addDevices(s, c); err != nil {
		return nil, err
	}
	return s, b.base.secure(s, &c.Security)
}

func hostname(c *runtime.Container) string {
	if c.Namespaces.UTS != "" {
		return "" // a namespace that is joined has its name: the host's, or the pod's
	}
	return c.Hostname
}

// User translates an identity.
func User(u runtime.User) specs.User {
	return specs.User{UID: u.UID, GID: u.GID, AdditionalGids: u.AdditionalGroups}
}

func cwd(dir string) string {
	if dir == "" {
		return "/"
	}
	return dir
}

// environment adds what programs expect everywhere and the image did not set.
func environment(c *runtime.Container) []string {
	env := slices.Clone(c.Env)
	add := func(name, value string) {
		has := func(e string) bool { return strings.HasPrefix(e, name+"=") }
		if value != "" && !slices.ContainsFunc(env, has) {
			env = append(env, name+"="+value)
		}
	}
	add("PATH", defaultPath)
	add("HOSTNAME", c.Hostname)
	if c.TTY {
		add("TERM", "xterm")
	}
	return env
}

func (b *Builder) namespaces(c *runtime.Container) []specs.LinuxNamespace {
	namespaces := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	add := func(kind specs.LinuxNamespaceType, path string) {
		if path != runtime.Host {
			namespaces = append(namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	add(specs.NetworkNamespace, c.Namespaces.Net)
	add(specs.IPCNamespace, c.Namespaces.IPC)
	add(specs.UTSNamespace, c.Namespaces.UTS)
	add(specs.PIDNamespace, c.Namespaces.PID)
	if c.Namespaces.UserNS != nil {
		add(specs.UserNamespace, "")
	}
	if b.cgroups.Unified() && !c.Security.Privileged {
		add(specs.CgroupNamespace, "")
	}
	return namespaces
}

// Resources translates limits. Zero values are left to the kernel.
func (b *Builder) Resources(r *runtime.Resources) (*specs.LinuxResources, error) {
	s := &specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}}
	if r.CPUShares > 0 {
		s.CPU.Shares = &r.CPUShares
	}
	if r.CPUQuota != 0 {
		s.CPU.Quota = &r.CPUQuota
	}
	if r.CPUPeriod > 0 {
		s.CPU.Period = &r.CPUPeriod
	}
	if r.MemoryLimit > 0 {
		s.Memory.Limit = &r.MemoryLimit
		if b.cgroups.SwapLimit() {
			s.Memory.Swap = &r.MemoryLimit // memory and swap together: no swap
		}
		if b.cgroups.Unified() {
			// All of it dies together, as one container that is restarted.
			s.Unified = map[string]string{"memory.oom.group": "1"}
		}
	}
	if r.PidsLimit != 0 {
		s.Pids = &specs.LinuxPids{Limit: &r.PidsLimit}
	}
	for size, limit := range r.Hugepages {
		s.HugepageLimits = append(s.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: limit})
	}
	if len(s.HugepageLimits) > 0 && !b.cgroups.Has("hugetlb") {
		return nil, errors.New("huge pages are limited by the hugetlb cgroup controller, which this host has not mounted")
	}
	return s, nil
}

// addDevices gives a privileged container every device of the host, others only
// those named and what every container has.
func addDevices(s *specs.Spec, c *runtime.Container) error {
	if c.Security.Privileged {
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		devices, err := oci.HostDevices()
		if err != nil {
			return fmt.Errorf("list devices of the host: %w", err)
		}
		s.Linux.Devices = devices
		return nil
	}
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range c.Devices {
		if err := addDevice(s, d); err != nil {
			return fmt.Errorf("add device %q: %w", d.Host, err)
		}
	}
	for _, text := range c.DeviceRules {
		rule, err := deviceRule(text)
		if err != nil {
			return err
		}
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, rule)
	}
	return nil
}

// addDevice adds a device, or all below a directory.
func addDevice(s *specs.Spec, d runtime.Device) error {
	root, err := filepath.EvalSymlinks(d.Host)
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Type()&os.ModeDevice == 0 && path != root {
			return err
		}
		device, err := oci.DeviceFromPath(path)
		if err != nil {
			return err
		}
		device.Path = cmp.Or(d.Inside, d.Host) + strings.TrimPrefix(path, root)
		s.Linux.Devices = append(s.Linux.Devices, *device)
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: device.Type, Major: &device.Major, Minor: &device.Minor, Access: cmp.Or(d.Access, "rwm"),
		})
		return nil
	})
}

// deviceRule reads "TYPE MAJOR:MINOR ACCESS", where a number may be *.
func deviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	rule := specs.LinuxDeviceCgroup{Allow: true}
	bad := fmt.Errorf("device rule %q: it is written as \"c 10:200 rwm\", with a or b for the type and * for any number", text)
	fields := strings.Fields(text)
	if len(fields) != 3 || !strings.Contains("abc", fields[0]) || len(fields[0]) != 1 || strings.Trim(fields[2], "rwm") != "" {
		return rule, bad
	}
	rule.Type, rule.Access = fields[0], fields[2]
	major, minor, found := strings.Cut(fields[1], ":")
	for _, number := range []struct {
		text string
		to   **int64
	}{{major, &rule.Major}, {minor, &rule.Minor}} {
		if number.text == "*" {
			continue
		}
		n, err := strconv.ParseInt(number.text, 10, 32)
		if err != nil || n < 0 || !found {
			return rule, bad
		}
		*number.to = &n
	}
	return rule, nil
}

// openFiles returns the limit of open files that a container can be given.
func openFiles() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	return min(limit.Max, maxOpenFiles), nil
}
