package launch

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// attribute is what a mount option sets or clears.
type attribute struct {
	clear bool
	bits  uint64
}

// attributes are the mount options that are flags of a mount. With an r in
// front they hold for everything below too.
var attributes = map[string]attribute{
	"ro": {false, unix.MOUNT_ATTR_RDONLY}, "rw": {true, unix.MOUNT_ATTR_RDONLY},
	"nosuid": {false, unix.MOUNT_ATTR_NOSUID}, "suid": {true, unix.MOUNT_ATTR_NOSUID},
	"nodev": {false, unix.MOUNT_ATTR_NODEV}, "dev": {true, unix.MOUNT_ATTR_NODEV},
	"noexec": {false, unix.MOUNT_ATTR_NOEXEC}, "exec": {true, unix.MOUNT_ATTR_NOEXEC},
	"nodiratime": {false, unix.MOUNT_ATTR_NODIRATIME}, "diratime": {true, unix.MOUNT_ATTR_NODIRATIME},
	"nosymfollow": {false, unix.MOUNT_ATTR_NOSYMFOLLOW}, "symfollow": {true, unix.MOUNT_ATTR_NOSYMFOLLOW},
}

// accessTimes are the options of which a mount has exactly one.
var accessTimes = map[string]uint64{
	"relatime": unix.MOUNT_ATTR_RELATIME, "noatime": unix.MOUNT_ATTR_NOATIME, "strictatime": unix.MOUNT_ATTR_STRICTATIME,
	"atime": unix.MOUNT_ATTR_RELATIME,
}

var propagations = map[string]uint64{
	"private": unix.MS_PRIVATE, "shared": unix.MS_SHARED, "slave": unix.MS_SLAVE, "unbindable": unix.MS_UNBINDABLE,
	"rprivate": unix.MS_PRIVATE | unix.MS_REC, "rshared": unix.MS_SHARED | unix.MS_REC,
	"rslave": unix.MS_SLAVE | unix.MS_REC, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

func rootPropagation(name string) (uint64, error) {
	flags, ok := propagations[name]
	if name != "" && !ok {
		return 0, fmt.Errorf("root propagation %q: there is none of that name", name)
	}
	return flags, nil
}

func (t *translation) mount(m *specs.Mount) error {
	if !path.IsAbs(m.Destination) {
		return errors.New("an absolute destination is needed")
	}
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return errors.New("id-mapped mounts are not known to gantry's own launcher: use the RuntimeClass handler runc")
	}
	out := recipe.Mount{Target: path.Clean(m.Destination), FS: m.Type, Source: m.Source}
	if slices.Contains(m.Options, "rbind") {
		if t.recursive == nil {
			t.recursive = map[int]bool{}
		}
		t.recursive[len(t.out.Mounts)] = true
	}
	if err := options(&out, m.Options); err != nil {
		return err
	}
	switch {
	case m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind"):
		if !filepath.IsAbs(m.Source) {
			return fmt.Errorf("source %q: an absolute path is needed", m.Source)
		}
		out.FS, out.Options = "", nil
		// What the host mounts read-only stays so: "rw" takes nothing away.
		out.Clear &= unix.MOUNT_ATTR__ATIME
		if out.Propagation == 0 {
			out.Propagation = unix.MS_PRIVATE | unix.MS_REC
		}
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return t.mountCgroups(out)
	case m.Type == "proc" || m.Type == "sysfs":
		out.NoLinks = true
	}
	t.out.Mounts = append(t.out.Mounts, out)
	return nil
}

func options(out *recipe.Mount, list []string) error {
	for _, option := range list {
		if a, ok := attributes[option]; ok {
			setAttribute(a, &out.Set, &out.Clear)
			continue
		}
		if bits, ok := accessTimes[option]; ok {
			out.Set, out.Clear = out.Set&^unix.MOUNT_ATTR__ATIME|bits, out.Clear|unix.MOUNT_ATTR__ATIME
			continue
		}
		if flags, ok := propagations[option]; ok {
			out.Propagation = flags
			continue
		}
		if a, ok := attributes[strings.TrimPrefix(option, "r")]; ok && strings.HasPrefix(option, "r") {
			setAttribute(a, &out.RSet, &out.RClear)
			continue
		}
		switch option {
		case "bind", "rbind", "defaults":
		case "tmpcopyup", "idmap", "ridmap":
			return fmt.Errorf("option %q is not known to gantry's own launcher: use the RuntimeClass handler runc", option)
		default:
			out.Options = append(out.Options, option)
		}
	}
	return nil
}

func setAttribute(a attribute, set, clear *uint64) {
	if a.clear {
		*set, *clear = *set&^a.bits, *clear|a.bits
	} else {
		*set, *clear = *set|a.bits, *clear&^a.bits
	}
}

// mountCgroups shows the container its own control groups: the file system of
// v2 in a namespace of its own, or its group of each v1 hierarchy.
func (t *translation) mountCgroups(m recipe.Mount) error {
	if t.cgroups.Unified() {
		m.FS, m.Source, m.Options, m.NoLinks = "cgroup2", "cgroup", nil, true
		if !t.out.CgroupNamespace {
			m.FS, m.Source = "", t.cgroups.Dir("", t.spec.Linux.CgroupsPath)
		}
		t.out.Mounts = append(t.out.Mounts, m)
		return nil
	}
	readOnly := m.Set & unix.MOUNT_ATTR_RDONLY
	t.out.Mounts = append(t.out.Mounts, recipe.Mount{
		Target: m.Target, FS: "tmpfs", Source: "tmpfs", Set: m.Set &^ unix.MOUNT_ATTR_RDONLY, Options: []string{"mode=755"}, NoLinks: true,
	})
	for name, dir := range t.cgroups.Hierarchies(t.spec.Linux.CgroupsPath) {
		t.out.Mounts = append(t.out.Mounts, recipe.Mount{
			Target: path.Join(m.Target, name), Source: dir, Set: m.Set | readOnly, Clear: m.Clear,
			Propagation: unix.MS_PRIVATE, NoLinks: true,
		})
	}
	if readOnly != 0 {
		t.out.Mounts = append(t.out.Mounts, recipe.Mount{Target: m.Target, Set: readOnly, Remount: true})
	}
	return nil
}
