package initd

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// mount mounts one file system or directory.
func (r rootDir) mount(m *recipe.Mount) error {
	if m.Remount {
		return r.remount(m)
	}
	tree, directory, err := detached(m)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	target, err := r.target(m, directory)
	if err != nil {
		return fail("make mount target", m.Target, err)
	}
	defer unix.Close(target)
	if err := guardProc(m, tree, target); err != nil {
		return fail("mount "+kind(m)+" on", m.Target, err)
	}
	if err := place(tree, target); err != nil {
		return fail("mount "+kind(m)+" on", m.Target, err)
	}
	if m.FS == "" && m.Set|m.Clear != 0 {
		if err := setattr(tree, 0, &unix.MountAttr{Attr_set: m.Set, Attr_clr: m.Clear}); err != nil {
			return fail("set the flags of mount", m.Target, err)
		}
	}
	if m.RSet|m.RClear != 0 {
		if err := setattr(tree, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: m.RSet, Attr_clr: m.RClear}); err != nil {
			return fail("set the flags of what is below mount", m.Target, err)
		}
	}
	if m.Propagation != 0 {
		var recursive uint
		if m.Propagation&unix.MS_REC != 0 {
			recursive = unix.AT_RECURSIVE
		}
		if err := setattr(tree, recursive, &unix.MountAttr{Propagation: m.Propagation &^ unix.MS_REC}); err != nil {
			return fail("set the propagation of mount", m.Target, err)
		}
	}
	return nil
}

// remount changes the flags of a mount that is there.
func (r rootDir) remount(m *recipe.Mount) error {
	fd, err := r.open(m.Target, unix.O_PATH, unix.RESOLVE_NO_SYMLINKS)
	if err == nil {
		err = setattr(fd, 0, &unix.MountAttr{Attr_set: m.Set, Attr_clr: m.Clear})
		unix.Close(fd)
	}
	return fail("set the flags of mount", m.Target, err)
}

func kind(m *recipe.Mount) string {
	if m.FS == "" {
		return "\"" + m.Source + "\""
	}
	return m.FS
}

// target opens where a mount goes.
func (r rootDir) target(m *recipe.Mount, directory bool) (int, error) {
	if !m.NoLinks {
		return r.make(m.Target, directory)
	}
	fd, err := r.open(m.Target, unix.O_PATH, unix.RESOLVE_NO_SYMLINKS)
	if err != unix.ENOENT {
		return fd, err
	}
	if fd, err = r.make(m.Target, directory); err != nil {
		return fd, err
	}
	unix.Close(fd)
	return r.open(m.Target, unix.O_PATH, unix.RESOLVE_NO_SYMLINKS)
}

// detached is a mount that is not anywhere yet.
func detached(m *recipe.Mount) (fd int, directory bool, err error) {
	if m.FS != "" {
		fd, err = fileSystem(m)
		return fd, true, err
	}
	fd = descriptor(m.File)
	directory, err = isDirectory(fd)
	return fd, directory, fail("look at mount source", m.Source, err)
}

func isDirectory(fd int) (bool, error) {
	var info unix.Stat_t
	err := unix.Fstat(fd, &info)
	return info.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// fileSystem makes a new file system.
func fileSystem(m *recipe.Mount) (int, error) {
	context, err := unix.Fsopen(m.FS, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fail("open file system", m.FS, err)
	}
	defer unix.Close(context)
	if m.Source != "" {
		if err := unix.FsconfigSetString(context, "source", m.Source); err != nil {
			return -1, fail("set the source of "+m.FS+" to", m.Source, err)
		}
	}
	for _, option := range m.Options {
		if name, value, ok := strings.Cut(option, "="); ok {
			err = unix.FsconfigSetString(context, name, value)
		} else {
			err = unix.FsconfigSetFlag(context, name)
		}
		if err != nil {
			return -1, fail("mount "+m.FS+" with option", option, err)
		}
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, fail("make file system "+m.FS+" for", m.Target, err)
	}
	fd, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, int(m.Set))
	return fd, fail("mount "+m.FS+" for", m.Target, err)
}

// place moves a detached mount to its target.
func place(tree, target int) error {
	return unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

func setattr(fd int, flags uint, attr *unix.MountAttr) error {
	return unix.MountSetattr(fd, "", flags|unix.AT_EMPTY_PATH, attr)
}

// cloneOf is a further mount of what is open.
func cloneOf(fd int, recursive uint) (int, error) {
	return unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|recursive)
}

// protect hides masked paths and makes others read-only. What does not exist
// needs no protection.
func (r rootDir) protect(rec *recipe.Recipe) error {
	for _, path := range rec.ReadonlyPaths {
		if err := r.readonly(path); err != nil {
			return fail("make read-only", path, err)
		}
	}
	if len(rec.MaskedPaths) == 0 {
		return nil
	}
	null, err := r.null()
	if err != nil {
		return fail("open", "/dev/null", err)
	}
	defer unix.Close(null)
	empty := -1
	for _, path := range rec.MaskedPaths {
		if err := r.mask(path, null, &empty); err != nil {
			return fail("mask", path, err)
		}
	}
	if empty >= 0 {
		unix.Close(empty)
	}
	return nil
}

// null opens the container's null device. It is not the host's, which root in the
// container would own under the names of the masked files, and could change.
func (r rootDir) null() (int, error) {
	fd, err := r.open("/dev/null", unix.O_PATH, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return fd, err
	}
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if info.Mode&unix.S_IFMT != unix.S_IFCHR || info.Rdev != unix.Mkdev(1, 3) {
		unix.Close(fd)
		return -1, text("it is not the null device")
	}
	return fd, nil
}

func missing(err error) bool { return err == unix.ENOENT || err == unix.ENOTDIR }

func (r rootDir) readonly(path string) error {
	spot, err := r.find(path)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(spot)
	tree, err := cloneOf(spot, unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := setattr(tree, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return err
	}
	return place(tree, spot)
}

// mask covers a file with /dev/null and a directory with an empty one, which
// all masked directories share.
func (r rootDir) mask(path string, null int, empty *int) error {
	target, err := r.find(path)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	directory, err := isDirectory(target)
	if err != nil {
		return err
	}
	var tree int
	switch {
	case !directory:
		tree, err = cloneOf(null, 0)
	case *empty >= 0:
		tree, err = cloneOf(*empty, 0)
	default:
		tree, err = fileSystem(&recipe.Mount{FS: "tmpfs", Source: "tmpfs", Set: unix.MOUNT_ATTR_RDONLY, Options: []string{"size=0k"}})
	}
	if err != nil {
		return err
	}
	if err = place(tree, target); err == nil && directory && *empty < 0 {
		*empty = tree
		return nil
	}
	unix.Close(tree)
	return err
}
