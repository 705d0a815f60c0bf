package launch

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/cgroup"
	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// translation turns one specification into a recipe.
type translation struct {
	spec    *specs.Spec
	cgroups *cgroup.Tree
	filters *filters

	out        recipe.Recipe
	cloneFlags uint64 // for the shim
	kinds      uint64 // of namespaces that are not the host's
	ownPIDs    bool
	recursive  map[int]bool // mounts that bring along what is mounted below their source
}

// namespaceFlags are the clone flags of the specification's namespaces.
var namespaceFlags = map[specs.LinuxNamespaceType]uint64{
	specs.MountNamespace:   unix.CLONE_NEWNS,
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
	specs.UserNamespace:    unix.CLONE_NEWUSER,
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
}

func (t *translation) recipe(id string) (*recipe.Recipe, error) {
	s := t.spec
	if s.Process == nil || s.Root == nil || s.Linux == nil {
		return nil, errors.New("the specification needs process, root and linux")
	}
	if err := refuse(s); err != nil {
		return nil, err
	}
	if err := guardSysctls(s); err != nil {
		return nil, err
	}
	if err := t.namespaces(); err != nil {
		return nil, err
	}
	process, err := processOf(s.Process, s.Linux.Seccomp, t.filters)
	if err != nil {
		return nil, err
	}
	r := &t.out
	r.Process = process
	r.Process.Keyring = "_ses." + id
	r.Root, r.ReadonlyRoot = path.Clean(s.Root.Path), s.Root.Readonly
	r.Hostname, r.Domainname = s.Hostname, s.Domainname
	r.MaskedPaths, r.ReadonlyPaths = s.Linux.MaskedPaths, s.Linux.ReadonlyPaths
	if r.RootPropagation, err = rootPropagation(s.Linux.RootfsPropagation); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(s.Linux.Sysctl)) {
		r.Sysctls = append(r.Sysctls, recipe.Setting{Name: name, Value: s.Linux.Sysctl[name]})
	}
	for i := range s.Mounts {
		if err := t.mount(&s.Mounts[i]); err != nil {
			return nil, fmt.Errorf("mount %q: %w", s.Mounts[i].Destination, err)
		}
	}
	return r, t.devices()
}

// refuse names what a specification can ask for that the launcher does not do.
func refuse(s *specs.Spec) error {
	what := ""
	p := s.Process
	switch {
	case s.Hooks != nil && hooks(s.Hooks) > 0:
		what = "hooks"
	case s.Linux.MountLabel != "":
		what = "SELinux labels of mounts"
	case s.Linux.IntelRdt != nil:
		what = "Intel RDT"
	case s.Linux.Personality != nil && s.Linux.Personality.Domain != specs.PerLinux:
		what = "personalities"
	case len(s.Linux.TimeOffsets) > 0:
		what = "time offsets"
	case len(s.Linux.NetDevices) > 0 || s.Linux.MemoryPolicy != nil:
		what = "network devices and memory policies"
	case p.IOPriority != nil || p.Scheduler != nil || p.ExecCPUAffinity != nil:
		what = "scheduling policies"
	}
	if what == "" {
		return nil
	}
	return fmt.Errorf("%s are not known to gantry's own launcher: use the RuntimeClass handler runc", what)
}

func hooks(h *specs.Hooks) int {
	return len(h.CreateContainer) + len(h.CreateRuntime) + len(h.Poststart) + len(h.Poststop) + len(h.StartContainer) + len(h.Prestart) //nolint:staticcheck // deprecated, and still to be refused
}

// namespaces decides what is cloned, what is joined, and in how many stages.
func (t *translation) namespaces() error {
	var create uint64
	for _, n := range t.spec.Linux.Namespaces {
		flag, ok := namespaceFlags[n.Type]
		if !ok {
			return fmt.Errorf("namespace %q is not known to gantry's own launcher: use the RuntimeClass handler runc", n.Type)
		}
		t.kinds |= flag
		switch {
		case n.Path == "":
			create |= flag
		case n.Type == specs.MountNamespace || n.Type == specs.UserNamespace || n.Type == specs.CgroupNamespace:
			return fmt.Errorf("a %s namespace cannot be joined by gantry's own launcher: use the RuntimeClass handler runc", n.Type)
		default:
			t.out.Joins = append(t.out.Joins, recipe.Join{Kind: flag, Path: n.Path})
		}
	}
	if create&unix.CLONE_NEWNS == 0 {
		return errors.New("a container needs a mount namespace of its own")
	}
	t.ownPIDs = create&unix.CLONE_NEWPID != 0
	t.out.CgroupNamespace = create&unix.CLONE_NEWCGROUP != 0
	create &^= unix.CLONE_NEWCGROUP
	t.out.UIDMap, t.out.GIDMap = idMaps(t.spec.Linux.UIDMappings), idMaps(t.spec.Linux.GIDMappings)
	joinsPIDs := slices.ContainsFunc(t.out.Joins, func(j recipe.Join) bool { return j.Kind == unix.CLONE_NEWPID })
	if joinsPIDs || create&unix.CLONE_NEWUSER != 0 {
		t.out.SecondStage = create
		return nil
	}
	t.cloneFlags = create
	return nil
}

func idMaps(m []specs.LinuxIDMapping) (out []recipe.IDMap) {
	for _, e := range m {
		out = append(out, recipe.IDMap{Inside: uint64(e.ContainerID), Outside: uint64(e.HostID), Length: uint64(e.Size)})
	}
	return out
}

// rootUID is the host's number of the container's root.
func (t *translation) rootUID() uint64 { return outsideRoot(t.out.UIDMap) }
func (t *translation) rootGID() uint64 { return outsideRoot(t.out.GIDMap) }

func outsideRoot(m []recipe.IDMap) uint64 {
	for _, e := range m {
		if e.Inside == 0 {
			return e.Outside
		}
	}
	return 0
}

// devices adds what every container has in /dev, then what it asked for.
func (t *translation) devices() error {
	if !t.ownDev() {
		return nil
	}
	for _, d := range []recipe.Device{
		{Path: "/dev/null", Major: 1, Minor: 3}, {Path: "/dev/zero", Major: 1, Minor: 5}, {Path: "/dev/full", Major: 1, Minor: 7},
		{Path: "/dev/random", Major: 1, Minor: 8}, {Path: "/dev/urandom", Major: 1, Minor: 9}, {Path: "/dev/tty", Major: 5, Minor: 0},
	} {
		d.Mode = unix.S_IFCHR | 0o666
		t.out.Devices = append(t.out.Devices, d)
	}
	for i := range t.spec.Linux.Devices {
		d, err := device(&t.spec.Linux.Devices[i])
		if err != nil {
			return err
		}
		if d.Path == "/dev/ptmx" {
			continue // a link to the container's own terminals takes its place
		}
		same := func(o recipe.Device) bool { return o.Path == d.Path }
		t.out.Devices = append(slices.DeleteFunc(t.out.Devices, same), d)
	}
	t.out.Links = []recipe.Setting{
		{Name: "/dev/fd", Value: "/proc/self/fd"}, {Name: "/dev/stdin", Value: "/proc/self/fd/0"},
		{Name: "/dev/stdout", Value: "/proc/self/fd/1"}, {Name: "/dev/stderr", Value: "/proc/self/fd/2"},
		{Name: "/dev/ptmx", Value: "pts/ptmx"}, {Name: "/dev/core", Value: "/proc/kcore"},
	}
	return nil
}

// ownDev reports whether the container's /dev is its own and not bound from
// somewhere else, which must not be changed.
func (t *translation) ownDev() bool {
	for i := range t.spec.Mounts {
		if m := &t.spec.Mounts[i]; path.Clean(m.Destination) == "/dev" {
			return m.Type != "bind" && !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind")
		}
	}
	return true
}

func device(d *specs.LinuxDevice) (recipe.Device, error) {
	kinds := map[string]uint64{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}
	kind, ok := kinds[d.Type]
	if !ok {
		return recipe.Device{}, fmt.Errorf("device %q: type %q: one of b, c, u, p is needed", d.Path, d.Type)
	}
	out := recipe.Device{Path: path.Clean(d.Path), Mode: kind | 0o666, Major: uint64(d.Major), Minor: uint64(d.Minor)}
	if d.FileMode != nil {
		out.Mode = kind | uint64(d.FileMode.Perm())
	}
	if d.UID != nil {
		out.UID = uint64(*d.UID)
	}
	if d.GID != nil {
		out.GID = uint64(*d.GID)
	}
	return out, nil
}

// processOf translates the process of a container or of an exec.
func processOf(p *specs.Process, profile *specs.LinuxSeccomp, filters *filters) (recipe.Process, error) {
	if len(p.Args) == 0 {
		return recipe.Process{}, errors.New("no command was given")
	}
	filter, err := filters.compile(profile)
	if err != nil {
		return recipe.Process{}, err
	}
	out := recipe.Process{
		Args: p.Args, Env: p.Env, Cwd: cmp.Or(p.Cwd, "/"),
		UID: uint64(p.User.UID), GID: uint64(p.User.GID), SetGroups: true, Umask: -1,
		NoNewPrivs: p.NoNewPrivileges, Seccomp: filter.code, SeccompFlags: filter.flags,
		AppArmor: p.ApparmorProfile, SELinux: p.SelinuxLabel, Terminal: p.Terminal,
	}
	if !path.IsAbs(out.Cwd) {
		return out, fmt.Errorf("working directory %q: an absolute path is needed", p.Cwd)
	}
	for _, g := range p.User.AdditionalGids {
		out.Groups = append(out.Groups, uint64(g))
	}
	if p.User.Umask != nil {
		out.Umask = int64(*p.User.Umask)
	}
	if p.OOMScoreAdj != nil {
		out.OOMScoreAdj = strconv.Itoa(*p.OOMScoreAdj)
	}
	if p.ConsoleSize != nil {
		out.Rows, out.Cols = uint64(p.ConsoleSize.Height), uint64(p.ConsoleSize.Width)
	}
	if out.Rlimits, err = rlimits(p.Rlimits); err != nil {
		return out, err
	}
	out.Caps, err = capabilities(p.Capabilities)
	return out, err
}
