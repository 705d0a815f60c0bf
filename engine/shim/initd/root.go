package initd

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// buildRoot mounts everything below the container's root and moves into it.
func buildRoot(r *recipe.Recipe) error {
	root, err := openRoot(r)
	if err != nil {
		return err
	}
	for i := range r.Mounts {
		if err := root.mount(&r.Mounts[i]); err != nil {
			return err
		}
	}
	for i := range r.Devices {
		if err := root.device(&r.Devices[i]); err != nil {
			return fail("make device", r.Devices[i].Path, err)
		}
	}
	for _, l := range r.Links {
		if err := root.link(l); err != nil {
			return fail("make link", l.Name, err)
		}
	}
	if err := root.ownNull(); err != nil {
		return err
	}
	if r.Process.Terminal {
		if err := root.terminal(&r.Process, true); err != nil {
			return fail("open a terminal", "", err)
		}
	}
	for _, s := range r.Sysctls {
		if err := root.sysctl(s); err != nil {
			return fail("set sysctl "+s.Name+" to", s.Value, err)
		}
	}
	root.home(&r.Process)
	if err := root.protect(r); err != nil {
		return err
	}
	if cwd, err := root.make(r.Process.Cwd, true); err != nil {
		return fail("make working directory", r.Process.Cwd, err)
	} else {
		unix.Close(cwd)
	}
	return root.enter(r)
}

// openRoot mounts the root directory.
func openRoot(r *recipe.Recipe) (rootDir, error) {
	fd := descriptor(r.RootFile)
	err := unix.MoveMount(fd, "", unix.AT_FDCWD, "/root", unix.MOVE_MOUNT_F_EMPTY_PATH)
	return rootDir{fd}, fail("mount root directory", r.Root, err)
}

func (r rootDir) sysctl(s recipe.Setting) error {
	name := s.Name
	if !strings.Contains(name, "/") {
		name = strings.ReplaceAll(name, ".", "/")
	}
	fd, err := r.open("/proc/sys/"+name, unix.O_WRONLY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(s.Value))
	unix.Close(fd)
	return err
}

// enter makes the root the root of this process and lets go of the one before.
func (r rootDir) enter(rec *recipe.Recipe) error {
	if rec.ReadonlyRoot {
		if err := setattr(r.fd, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fail("make the root read-only", "", err)
		}
	}
	if err := unix.Fchdir(r.fd); err != nil {
		return fail("enter root", "", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fail("change root", rec.Root, err)
	}
	// The old root is now mounted on top of the new one, and "." is in it.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fail("let go of the old root", "", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fail("enter root", "", err)
	}
	if rec.RootPropagation != 0 {
		return fail("set the root's propagation", "", unix.Mount("", "/", "", uintptr(rec.RootPropagation), ""))
	}
	return nil
}
