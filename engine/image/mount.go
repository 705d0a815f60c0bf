package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Mount gives a container a writable root directory on top of ref's layers and
// returns its path. It is idempotent: after a restart of the process, or of the
// machine, the same id gets the same files again, whatever ref points at by then.
// Targets are paths of the container on which something will be mounted: for those
// that many containers have, the root has places even if the image has none.
func (s *Store) Mount(ctx context.Context, containerID, ref string, targets []string) (rootfs string, err error) {
	return s.mount(ctx, containerID, ref, rootOptions{targets: targets})
}

// MountReadOnly mounts ref's layers under an id of their own, read-only, for
// image volumes. Unmount ends it.
func (s *Store) MountReadOnly(ctx context.Context, id, ref string) (path string, err error) {
	return s.mount(ctx, id, ref, rootOptions{readOnly: true})
}

// rootOptions are what makes a root unlike others.
type rootOptions struct {
	readOnly bool
	mapping  *IDMapping // of a container in a user namespace
	targets  []string   // of mounts
}

// mount writes nothing to a database: starting a container costs a few
// directories and a mount, whatever the disk's fsync costs.
func (s *Store) mount(ctx context.Context, id, ref string, o rootOptions) (string, error) {
	if !validID.MatchString(id) {
		return "", fmt.Errorf("mount image %q: id %q is not made of lower-case letters, digits, '.', '_' and '-'", ref, id)
	}
	ctx = s.context(ctx)
	key := "root " + id
	if err := s.locks.Lock(ctx, key); err != nil {
		return "", err
	}
	defer s.locks.Unlock(key)

	path := filepath.Join(s.roots, id)
	if o.mapping != nil {
		path = filepath.Join(s.mappedRoots, id)
	}
	if mounted, err := mountinfo.Mounted(path); err == nil && mounted {
		return path, nil
	}
	dir := s.rootDir(id)
	layers, err := s.rootLayers(ctx, id, ref, o)
	if err == nil {
		err = os.MkdirAll(path, 0o700)
	}
	if err != nil {
		return "", fmt.Errorf("mount image %q for %s: %w", ref, id, err)
	}
	if o.mapping != nil {
		err = s.mountMapped(layers, dir, path, *o.mapping)
	} else {
		m := overlayMount(layers, dir, o.readOnly)
		err = m.Mount(path)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("mount image %q for %s: %w", ref, id, err), os.Remove(path))
	}
	return path, nil
}

// rootLayers finds the layers of the root that id already has, or makes a root.
func (s *Store) rootLayers(ctx context.Context, id, ref string, o rootOptions) ([]string, error) {
	s.holding.RLock() // from the hold to the record, no hold is released
	defer s.holding.RUnlock()
	r, err := readRoot(s.rootDir(id))
	switch {
	case errors.Is(err, errNoRoot):
		return s.newRoot(ctx, id, ref, o)
	case err != nil:
		return nil, err
	}
	layers, err := s.hold(ctx, r.ChainID, func() (*Image, error) { return s.Get(ctx, r.ImageDigest) })
	return s.withPlaces(layers, r.Places), err
}

// withPlaces adds the lowest layer of a root.
func (s *Store) withPlaces(layers []string, set string) []string {
	if set == "" || len(layers) == 0 {
		return layers
	}
	return append(slices.Clone(layers), s.placesDir(set))
}

func (s *Store) newRoot(ctx context.Context, id, ref string, o rootOptions) ([]string, error) {
	img, err := s.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	layers, err := s.hold(ctx, img.chainID(), func() (*Image, error) { return img, nil })
	if err != nil {
		return nil, err
	}
	dir := s.rootDir(id)
	// What is there has no record: it was being made, or removed, when the machine stopped.
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	s.used.touch(img.target.Digest)
	r := rootRecord{ImageDigest: img.Digest, ChainID: img.chainID(), ReadOnly: o.readOnly, CreatedAt: time.Now().UTC()}
	if !o.readOnly {
		r.Places = placesFor(layers, o.targets)
	}
	fill := func(dir string) error {
		if err := makeUpper(filepath.Join(dir, upperName), layers[0], o.mapping); err != nil {
			return err
		}
		return r.write(dir)
	}
	taken, err := s.spare.take(dir, fill)
	if err != nil {
		s.log.Debug("image store: a spare root could not be used", "err", err)
	}
	if taken {
		return s.withPlaces(layers, r.Places), nil
	}
	for _, d := range []string{dir, filepath.Join(dir, workName)} {
		if err := os.Mkdir(d, 0o711); err != nil {
			return nil, err
		}
	}
	return s.withPlaces(layers, r.Places), fill(dir)
}

// makeUpper makes the directory that a container writes to. The root of the
// mounted tree looks as it does in the image's last layer.
func makeUpper(upper, topLayer string, mapping *IDMapping) error {
	if err := os.Mkdir(upper, 0o711); err != nil {
		return err
	}
	info, err := os.Stat(topLayer)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		uid, gid := st.Uid, st.Gid
		if mapping != nil {
			uid, gid = mapping.HostID+uid, mapping.HostID+gid
		}
		if err := os.Lchown(upper, int(uid), int(gid)); err != nil {
			return err
		}
	}
	return os.Chmod(upper, info.Mode().Perm()|info.Mode()&(fs.ModeSticky|fs.ModeSetgid))
}

// overlayMount is how a root is mounted. Layers are topmost first, never empty.
func overlayMount(layers []string, dir string, readOnly bool) mount.Mount {
	if readOnly && len(layers) == 1 {
		return mount.Mount{Type: "bind", Source: layers[0], Options: []string{"ro", "rbind"}}
	}
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + strings.Join(layers, ":")}}
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
		// With an index the kernel refuses to mount an upper directory that a
		// process on its way out still holds.
		m.Options = append(m.Options, "index=off")
	}
	if readOnly {
		m.Options = append(m.Options, "ro")
		return m
	}
	m.Options = append(m.Options, "upperdir="+filepath.Join(dir, upperName), "workdir="+filepath.Join(dir, workName))
	return m
}

// Unmount unmounts a container's root directory and deletes its writable
// layer. Nothing to do is no error.
func (s *Store) Unmount(ctx context.Context, containerID string) error {
	if !validID.MatchString(containerID) {
		return fmt.Errorf("unmount root: invalid id %q", containerID)
	}
	key := "root " + containerID
	if err := s.locks.Lock(ctx, key); err != nil {
		return err
	}
	defer s.locks.Unlock(key)

	for _, path := range []string{filepath.Join(s.roots, containerID), filepath.Join(s.mappedRoots, containerID)} {
		// A process on its way out may still have files open: detach, the kernel
		// finishes when the last one is closed.
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount root of %s: %w", containerID, err)
		}
		// Remove, never RemoveAll: should it still be mounted, its files are not ours to delete.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove root of %s: %w", containerID, err)
		}
	}
	if kept, err := s.unlinkKept(containerID); err != nil || kept {
		return err
	}
	if err := s.discard(containerID); err != nil {
		return fmt.Errorf("remove writable layer of %s: %w", containerID, err)
	}
	return nil
}
