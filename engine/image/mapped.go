package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// IDMapping is a user namespace whose ids 0 to Length-1 are the host's from HostID on.
type IDMapping struct {
	HostID, Length uint32
	Namespace      string // path of the namespace, for mapped mounts
}

// MountMapped is [Store.Mount] for a container in a user namespace: what belongs
// to id n in the image belongs to the namespace's n.
func (s *Store) MountMapped(ctx context.Context, containerID, ref string, targets []string, m IDMapping) (rootfs string, err error) {
	return s.mount(ctx, containerID, ref, rootOptions{mapping: &m, targets: targets})
}

// mountMapped mounts an overlay of mapped layers at path. Where the kernel or the
// file system cannot map, every file's owner is changed instead, which copies all
// of them into the writable layer.
func (s *Store) mountMapped(layers []string, dir, path string, m IDMapping) error {
	mapped, unmount, err := mapLayers(layers, path+layersSuffix, m)
	defer unmount()
	if unmappable(err) {
		s.log.Warn("the kernel cannot map the owners of an image's files, changing them instead, which is slow and takes space", "root", path, "err", err)
		overlay := overlayMount(layers, dir, false)
		if err := overlay.Mount(path); err != nil {
			return err
		}
		if err := shiftOwners(path, m); err != nil {
			return errors.Join(err, unix.Unmount(path, unix.MNT_DETACH))
		}
		return nil
	}
	if err != nil {
		return err
	}
	overlay := overlayMount(mapped, dir, false)
	return overlay.Mount(path)
}

// mapLayers makes mapped views of layers below dir, for as long as it takes to
// mount an overlay of them, which keeps its own. Unmount them whatever the error.
func mapLayers(layers []string, dir string, m IDMapping) (mapped []string, unmount func(), err error) {
	unmount = func() {
		for _, at := range mapped {
			_ = unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			_ = os.Remove(at)
		}
		_ = os.Remove(dir)
	}
	for i, layer := range layers {
		at := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(at, 0o700); err != nil {
			return mapped, unmount, err
		}
		mapped = append(mapped, at)
		if err := MountView(layer, at, m.Namespace, true); err != nil {
			return mapped, unmount, err
		}
	}
	return mapped, unmount, nil
}

// dropMappedLayers unmounts what processes that died while they mounted a root left.
func dropMappedLayers(mappedRoots string) error {
	left, err := filepath.Glob(filepath.Join(mappedRoots, "*"+layersSuffix, "*"))
	for _, at := range left {
		_ = unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		err = errors.Join(err, os.Remove(at))
		_ = os.Remove(filepath.Dir(at))
	}
	return err
}

// layersSuffix names the directory beside a root where its layers are mapped.
const layersSuffix = ".layers"

// MountView shows source at target, a directory or a file as source is one: with
// the owners that a user namespace gives them when it is named, and read-only
// with all that is mounted below when asked.
func MountView(source, target, namespace string, readOnly bool) error {
	var attr unix.MountAttr
	if namespace != "" {
		ns, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open user namespace %s: %w", namespace, err)
		}
		defer unix.Close(ns)
		attr.Attr_set, attr.Userns_fd = unix.MOUNT_ATTR_IDMAP, uint64(ns)
	}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("clone the mount of %s: %w", source, err)
	}
	defer unix.Close(tree)
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("map the owners of %s: %w", source, err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at %s: %w", target, err)
	}
	return nil
}

// unmappable reports whether a kernel or file system without mapped mounts said so.
func unmappable(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)
}

// shiftOwners gives every file to the host's ids for its owner's.
func shiftOwners(root string, m IDMapping) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || st.Uid >= m.Length || st.Gid >= m.Length {
			return nil // the upper directory has its owner already; what the namespace has no id for stays nobody's
		}
		if err := os.Lchown(path, int(m.HostID+st.Uid), int(m.HostID+st.Gid)); err != nil {
			return err
		}
		if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 && info.Mode().IsRegular() {
			return os.Chmod(path, info.Mode()) // a change of the owner takes these away
		}
		return nil
	})
}
