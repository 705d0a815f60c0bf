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
	userNS := r.SecondStage&unix.CLONE_NEWUSER != 0
	for i := range r.Devices {
		if err := root.device(&r.Devices[i], userNS); err != nil {
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

// openRoot gives the root a mount of its own, on top of its directory.
func openRoot(r *recipe.Recipe) (rootDir, error) {
	propagation := uintptr(r.RootPropagation)
	if propagation == 0 {
		// Mounts of the host go on to arrive, those made here stay.
		propagation = unix.MS_SLAVE | unix.MS_REC
	}
	if err := unix.Mount("", "/", "", propagation, ""); err != nil {
		return rootDir{}, fail("separate mounts from the host's", "", err)
	}
	if err := privateParent(r.Root); err != nil {
		return rootDir{}, fail("separate the root directory's mount", r.Root, err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, r.Root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return rootDir{}, fail("open root directory", r.Root, err)
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, r.Root, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return rootDir{}, fail("mount root directory", r.Root, err)
	}
	return rootDir{fd}, nil
}

// privateParent keeps what is mounted on path from being copied to the host,
// and pivot_root from refusing. The mount is the nearest above path.
func privateParent(path string) error {
	for {
		err := unix.Mount("", path, "", unix.MS_PRIVATE, "")
		if err != unix.EINVAL || path == "/" { // EINVAL: nothing is mounted just here
			return err
		}
		if path = path[:strings.LastIndexByte(path, '/')]; path == "" {
			path = "/"
		}
	}
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

// enter makes the root the root of this process and lets go of the host's.
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
	// The host's root is now mounted on top of the new one, and "." is in it.
	if err := unix.Mount("", ".", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fail("separate mounts from the host's", "", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fail("let go of the host's root", "", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fail("enter root", "", err)
	}
	if rec.RootPropagation != 0 {
		return fail("set the root's propagation", "", unix.Mount("", "/", "", uintptr(rec.RootPropagation), ""))
	}
	return nil
}
