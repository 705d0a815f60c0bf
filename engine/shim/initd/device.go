package initd

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// device makes a device file, or mounts the host's.
func (r rootDir) device(d *recipe.Device) error {
	if d.File != 0 {
		return r.mount(&recipe.Mount{Source: d.Path, File: d.File, Target: d.Path})
	}
	above, name := split(d.Path)
	parent, err := r.make(above, true)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	number := int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))
	err = unix.Mknodat(parent, name, uint32(d.Mode), number)
	if err == unix.EEXIST { // the image's, which is no device for us
		if err = unix.Unlinkat(parent, name, 0); err == nil {
			err = unix.Mknodat(parent, name, uint32(d.Mode), number)
		}
	}
	if err == nil && d.UID|d.GID != 0 {
		err = unix.Fchownat(parent, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW)
	}
	return err
}

func (r rootDir) link(l recipe.Setting) error {
	above, name := split(l.Name)
	parent, err := r.make(above, true)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err = unix.Symlinkat(l.Value, parent, name); err == unix.EEXIST {
		return nil // as with other runtimes: what is there was mounted on purpose
	}
	return err
}

// terminal opens a terminal of the container's own, sends its master side to
// the shim and makes it the standard streams, and the first one /dev/console.
func (r rootDir) terminal(p *recipe.Process, first bool) error {
	master, err := r.open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(master)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(master, &fs); err != nil {
		return err
	}
	if fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return text("/dev/pts is not a file system of terminals")
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(slave))
	if p.Rows|p.Cols != 0 {
		size := &unix.Winsize{Row: uint16(p.Rows), Col: uint16(p.Cols)}
		if err := unix.IoctlSetWinsize(int(slave), unix.TIOCSWINSZ, size); err != nil {
			return err
		}
	}
	if err := sendFile(recipe.MessageTerminal, master); err != nil {
		return err
	}
	if first {
		if err := r.console(int(slave)); err != nil {
			return fail("mount", "/dev/console", err)
		}
	}
	for fd := range 3 {
		if err := unix.Dup3(int(slave), fd, 0); err != nil {
			return err
		}
	}
	return nil
}

func (r rootDir) console(slave int) error {
	target, err := r.make("/dev/console", false)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	tree, err := cloneOf(slave, 0)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return place(tree, target)
}

// ownStreams lets the process open its own streams again by name, as
// /dev/stdout, when it is not root.
func ownStreams(r *recipe.Recipe) error {
	uid := r.Process.UID
	if r.Enter {
		uid = outside(r.UIDMap, uid)
	}
	for fd := range 3 {
		var info unix.Stat_t
		if err := unix.Fstat(fd, &info); err != nil {
			return fail("look at stream", strconv.Itoa(fd), err)
		}
		if info.Mode&unix.S_IFMT == unix.S_IFCHR && !r.Process.Terminal || info.Uid == uint32(uid) {
			continue // the null device is everyone's
		}
		err := unix.Fchown(fd, int(uid), int(info.Gid))
		if err != nil && err != unix.EINVAL && err != unix.EPERM && err != unix.EROFS {
			return fail("give the process its stream", strconv.Itoa(fd), err)
		}
	}
	return nil
}

// isNull says whether a stream is a null device.
func isNull(fd int) (bool, error) {
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return false, fail("look at stream", strconv.Itoa(fd), err)
	}
	return info.Mode&unix.S_IFMT == unix.S_IFCHR && info.Rdev == unix.Mkdev(1, 3), nil
}

// ownNull replaces the host's null device among the streams by the container's:
// root in the container would own the host's and could change its mode.
func (r rootDir) ownNull() error {
	for fd := range 3 {
		null, err := isNull(fd)
		if err != nil {
			return err
		}
		if !null {
			continue
		}
		own, err := r.open("/dev/null", unix.O_RDWR|unix.O_NOCTTY, unix.RESOLVE_NO_SYMLINKS)
		if err == nil {
			if null, err = isNull(own); err == nil && !null {
				err = text("it is not the null device")
			}
			if err == nil {
				err = unix.Dup3(own, fd, 0)
			}
			unix.Close(own)
		}
		if err != nil {
			return fail("open", "/dev/null", err)
		}
	}
	return nil
}

// outside is the host's number of an id of the container.
func outside(m []recipe.IDMap, id uint64) uint64 {
	for _, e := range m {
		if id >= e.Inside && id-e.Inside < e.Length {
			return e.Outside + id - e.Inside
		}
	}
	return id
}
