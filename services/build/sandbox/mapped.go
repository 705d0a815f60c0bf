package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/sys"
	"github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/sys/mountinfo"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// The host's ids of a step's users: far from those that people, and pods with user
// namespaces, have. They are nowhere on a disk.
const (
	hostID   = 0x7ffe0000
	idLength = 1 << 16
)

// idMap is the user namespace that mapped views are for.
type idMap struct {
	namespace int    // descriptor of one with the mapping
	dir       string // of the views
	next      atomic.Int64

	mu     sync.Mutex
	shared map[string]*sharedOverlay // guarded by mu; by mount point of the overlay they are views of
}

// sharedOverlay is one mapped view for all steps that share what they write to: the
// kernel does not keep two overlays of the same directories in agreement.
type sharedOverlay struct {
	at     string
	remove func()
	users  int
}

// newIDMap finds out whether the kernel maps the owners on the file system of layers.
func newIDMap(layers, dir string) (*idMap, error) {
	m := &idMap{dir: dir, namespace: -1, shared: map[string]*sharedOverlay{}}
	spec := fmt.Sprintf("0:%d:%d", hostID, idLength)
	err := sys.UnshareAfterEnterUserns(spec, spec, 0, func(pid int) (err error) {
		m.namespace, err = unix.Open(fmt.Sprintf("/proc/%d/ns/user", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	at, remove, err := m.place(layers)
	if err == nil {
		defer remove()
		err = m.view(layers, at)
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *idMap) close() { _ = unix.Close(m.namespace) } // of a namespace: nothing is written

// mapping says to BuildKit what the namespace is.
func (m *idMap) mapping() *user.IdentityMapping {
	ids := []user.IDMap{{ID: 0, ParentID: hostID, Count: idLength}}
	return &user.IdentityMapping{UIDMaps: ids, GIDMaps: ids}
}

// place makes a mount point, for a file or a directory as source is one.
func (m *idMap) place(source string) (at string, remove func(), err error) {
	info, err := os.Stat(source)
	if err != nil {
		return "", nil, err
	}
	at = filepath.Join(m.dir, strconv.FormatInt(m.next.Add(1), 36))
	if info.IsDir() {
		err = os.Mkdir(at, 0o711)
	} else {
		var f *os.File
		if f, err = os.OpenFile(at, os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			err = f.Close()
		}
	}
	return at, func() { unmount(at) }, err
}

// unmount takes away what is at a place, and the place.
func unmount(at string) {
	if unix.Unmount(at, unix.UMOUNT_NOFOLLOW) != nil {
		_ = unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	_ = os.Remove(at)
}

// view shows source at a place with the owners that the namespace gives them.
func (m *idMap) view(source, at string) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("clone the mount of %s: %w", source, err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(m.namespace)}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("map the owners of %s: %w", source, err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at %s: %w", at, err)
	}
	return nil
}

// mounts replaces mounts by mapped views of them, until release is called.
func (m *idMap) mounts(in []mount.Mount) (out []mount.Mount, release func(), err error) {
	var undo []func()
	release = func() {
		for _, f := range slices.Backward(undo) {
			f()
		}
	}
	for _, mnt := range in {
		var at string
		var remove func()
		switch mnt.Type {
		case "overlay":
			at, remove, err = m.overlay(mnt)
		case "bind", "rbind":
			at, remove, err = m.bind(mnt.Source)
		default: // made by runc, in the namespace
			out = append(out, mnt)
			continue
		}
		if remove != nil {
			undo = append(undo, remove)
		}
		if err != nil {
			release()
			return nil, nil, err
		}
		options := append([]string{"rbind"}, restrictions(at)...)
		if mnt.ReadOnly() {
			options = append(options, "ro")
		}
		out = append(out, mount.Mount{Type: "bind", Source: at, Options: options})
	}
	return out, release, nil
}

// restrictions are the options of a mount that nobody in a user namespace can lift.
func restrictions(at string) (options []string) {
	var st unix.Statfs_t
	if unix.Statfs(at, &st) != nil {
		return nil
	}
	for flag, name := range map[int64]string{unix.ST_NOSUID: "nosuid", unix.ST_NODEV: "nodev", unix.ST_NOEXEC: "noexec"} {
		if st.Flags&flag != 0 {
			options = append(options, name)
		}
	}
	return options
}

func (m *idMap) bind(source string) (at string, remove func(), err error) {
	if at, remove, err = m.share(source); at != "" || err != nil {
		return at, remove, err
	}
	at, remove, err = m.place(source)
	if err != nil {
		return "", nil, err
	}
	if err = m.view(source, at); err == nil {
		return at, remove, nil
	}
	// Before Linux 6.3 memory, where secrets are, has no mapped views.
	if info, statErr := os.Stat(source); statErr == nil && info.Mode().IsRegular() && errors.Is(err, unix.EINVAL) {
		err = copySecret(source, at, info.Mode().Perm())
	}
	return at, remove, err
}

// share shows an overlay that BuildKit has mounted at source and steps write to, or
// returns "" when there is none. The kernel has no mapped views of overlays, so it is
// another one of the same layers, in whose time the first is not mounted.
func (m *idMap) share(source string) (at string, release func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.shared[source]
	if s == nil {
		layers, err := overlayAt(source)
		if err != nil || layers == nil {
			return "", nil, err
		}
		away := unix.Unmount(source, 0) == nil
		s = &sharedOverlay{}
		if s.at, s.remove, err = m.overlay(*layers); err != nil {
			return "", s.remove, err
		}
		mapped := s.remove
		s.remove = func() {
			mapped()
			if away {
				_ = layers.Mount(source) // BuildKit unmounts it, and minds nothing when it is not there
			}
		}
		m.shared[source] = s
	}
	s.users++
	return s.at, sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if s.users--; s.users == 0 {
			delete(m.shared, source)
			s.remove()
		}
	}), nil
}

// overlayAt says of which layers the overlay is that is mounted at path, or nil when
// there is none.
func overlayAt(path string) (*mount.Mount, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil || st.Type != unix.OVERLAYFS_SUPER_MAGIC {
		return nil, err
	}
	found, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	if err != nil || len(found) == 0 {
		return nil, err
	}
	m := &mount.Mount{Type: "overlay"}
	var upper string
	options := strings.Split(found[0].VFSOptions, ",")
	for _, o := range options {
		if value, ok := strings.CutPrefix(o, "upperdir="); ok {
			upper = value
		}
	}
	for _, o := range options {
		// Long lists of layers are mounted with paths relative to where all snapshots are.
		if value, ok := strings.CutPrefix(o, "lowerdir="); ok {
			lowers := strings.Split(value, ":")
			for i, l := range lowers {
				if !filepath.IsAbs(l) {
					lowers[i] = filepath.Join(filepath.Dir(filepath.Dir(upper)), l)
				}
			}
			o = "lowerdir=" + strings.Join(lowers, ":")
		}
		if name, _, _ := strings.Cut(o, "="); slices.Contains(mountable, name) {
			m.Options = append(m.Options, o)
		}
	}
	return m, nil
}

// mountable are the options of an overlay that the kernel shows and takes alike.
var mountable = []string{"lowerdir", "upperdir", "workdir", "index", "userxattr", "redirect_dir", "metacopy", "volatile"}

// copySecret copies a small file to one in memory that belongs to the namespace's root.
func copySecret(source, at string, mode os.FileMode) error {
	const limit = 1 << 20
	from, err := os.Open(source)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(at, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	n, err := io.Copy(to, io.LimitReader(from, limit+1))
	if n > limit {
		err = fmt.Errorf("a secret is larger than %d bytes", limit)
	}
	return errors.Join(err, to.Chmod(mode), to.Chown(hostID, hostID), to.Close())
}

// overlay mounts an overlay of mapped layers. It keeps its own references to them,
// so that their places can go at once.
//
// What a step writes does not wait for the disk, even when the step asks for it (a
// package manager does for each file): nobody counts on the result before all of it
// is somewhere else. See [Config.Layers] for what that demands of the caller.
func (m *idMap) overlay(mnt mount.Mount) (at string, remove func(), err error) {
	root, remove, err := m.place(m.dir)
	if err != nil {
		return "", nil, err
	}
	var views []string
	defer func() {
		for _, v := range views {
			unmount(v)
		}
	}()
	// Short names: all options together fit into one page of memory.
	view := func(source string) (string, error) {
		v, _, err := m.place(source)
		if err != nil {
			return "", err
		}
		views = append(views, v)
		return filepath.Base(v), m.view(source, v)
	}
	var options []string
	var upper, work string
	for _, o := range mnt.Options {
		name, value, _ := strings.Cut(o, "=")
		switch name {
		case "lowerdir":
			var lowers []string
			for _, l := range strings.Split(value, ":") {
				v, err := view(l)
				if err != nil {
					return "", remove, err
				}
				lowers = append(lowers, v)
			}
			options = append(options, "lowerdir="+strings.Join(lowers, ":"))
		case "upperdir":
			upper = value
		case "workdir":
			work = value
		case "rw", "ro": // the bind mount of the result says it
		default:
			options = append(options, o)
		}
	}
	if upper != "" {
		if filepath.Dir(upper) != filepath.Dir(work) {
			return "", remove, fmt.Errorf("overlay of %s: its upper and work directories are not side by side", upper)
		}
		v, err := view(filepath.Dir(upper)) // one mount for both, as the kernel wants it
		if err != nil {
			return "", remove, err
		}
		options = append(options, "upperdir="+filepath.Join(v, filepath.Base(upper)), "workdir="+filepath.Join(v, filepath.Base(work)), "volatile")
		unmounted := remove
		remove = func() {
			unmounted()
			// The kernel's mark that the machine may have crashed in between: it has not.
			_ = os.RemoveAll(filepath.Join(work, "work", "incompat"))
		}
	}
	if err := mountMapped(m.dir, filepath.Base(root), strings.Join(options, ",")); err != nil {
		return "", remove, fmt.Errorf("mount an overlay of mapped layers: %w", err)
	}
	return root, remove, nil
}

// mountMapped mounts an overlay at dir/name, with paths relative to dir, as a
// process whose file system ids are the namespace's root's: the overlay makes
// whiteouts as whoever mounted it, and root of the host has no id in the views.
func mountMapped(dir, name, options string) error {
	done := make(chan error, 1)
	var onOtherThread func()
	onOtherThread = func() {
		// Not unlocked: the thread ends with the goroutine, and with it its credentials.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the main thread would stay
			go onOtherThread()
			return
		}
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Chdir(dir); err != nil {
				return err
			}
			if err := errors.Join(unix.Setfsgid(hostID), unix.Setfsuid(hostID)); err != nil {
				return err
			}
			// The change took away the capabilities over files.
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var caps [2]unix.CapUserData
			if err := unix.Capget(&header, &caps[0]); err != nil {
				return err
			}
			for i := range caps {
				caps[i].Effective = caps[i].Permitted
			}
			if err := unix.Capset(&header, &caps[0]); err != nil {
				return err
			}
			return unix.Mount("overlay", name, "overlay", 0, options)
		}()
	}
	go onOtherThread()
	return <-done
}

// mappedExecutor gives steps mapped views of what is mounted for them.
type mappedExecutor struct {
	executor.Executor
	ids *idMap
}

func (e mappedExecutor) Run(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{}) (resourcestypes.Recorder, error) {
	root.Src = mappedSource{root.Src, e.ids}
	mounts = slices.Clone(mounts)
	for i := range mounts {
		if mounts[i].Src != nil {
			mounts[i].Src = mappedSource{mounts[i].Src, e.ids}
		}
	}
	return e.Executor.Run(ctx, id, root, mounts, process, started)
}

type mappedSource struct {
	executor.Mountable
	ids *idMap
}

func (s mappedSource) Mount(ctx context.Context, readonly bool) (executor.MountableRef, error) {
	ref, err := s.Mountable.Mount(ctx, readonly)
	if err != nil {
		return nil, err
	}
	return mappedRef{ref, s.ids}, nil
}

type mappedRef struct {
	executor.MountableRef
	ids *idMap
}

func (r mappedRef) Mount() ([]mount.Mount, func() error, error) {
	mounts, release, err := r.MountableRef.Mount()
	if err != nil {
		return nil, nil, err
	}
	mapped, unmap, err := r.ids.mounts(mounts)
	if err != nil {
		if release != nil {
			err = errors.Join(err, release())
		}
		return nil, nil, err
	}
	return mapped, func() error {
		unmap()
		if release == nil {
			return nil
		}
		return release()
	}, nil
}

// mountsBelow are the mount points at or below dir, parents first.
func mountsBelow(dir string) ([]string, error) {
	found, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return i.Mountpoint != dir && !strings.HasPrefix(i.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return nil, fmt.Errorf("list mounts below %s: %w", dir, err)
	}
	points := make([]string, len(found))
	for i, f := range found {
		points[i] = f.Mountpoint
	}
	return points, nil
}
