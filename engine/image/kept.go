package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// A kept root is a writable layer that outlives the containers that run on it, one
// after the other. It is a root like any other, made by [Store.Keep] and removed by
// [Store.Drop]; a container that uses it has a link to it where its own root would be,
// so that unmounting the container's root removes the link.

// ErrInUse says that a container stands on a kept root.
var ErrInUse = errors.New("a container uses it")

// KeptName names the kept root of a namespace: nobody reaches another one's.
func KeptName(namespace, name string) string { return "kept." + namespace + "." + name }

// Keep makes a kept root on top of ref's layers. One that exists stays as it is.
func (s *Store) Keep(ctx context.Context, name, ref string) error {
	if !validID.MatchString(name) {
		return fmt.Errorf("keep a root of image %q: invalid name %q", ref, name)
	}
	ctx = s.context(ctx)
	if err := s.locks.Lock(ctx, "root "+name); err != nil {
		return err
	}
	defer s.locks.Unlock("root " + name)
	if _, err := s.rootLayers(ctx, name, ref, rootOptions{targets: []string{tokenTarget}}); err != nil {
		return fmt.Errorf("keep a root of image %q: %w", ref, err)
	}
	return nil
}

// Drop deletes a kept root. It returns [ErrInUse] while a container stands on it;
// nothing to do is no error.
func (s *Store) Drop(ctx context.Context, name string) error {
	user, err := s.userOf(name)
	if err != nil {
		return fmt.Errorf("drop root %s: %w", name, err)
	}
	if user != "" {
		return fmt.Errorf("drop root %s: %w", name, ErrInUse)
	}
	return s.Unmount(ctx, name)
}

// MountKept gives a container a kept root as its own and returns its path. It is
// idempotent. A root that does not exist is fs.ErrNotExist, one that another container
// stands on [ErrInUse].
func (s *Store) MountKept(ctx context.Context, containerID, name string) (rootfs string, err error) {
	if !validID.MatchString(containerID) || !validID.MatchString(name) {
		return "", fmt.Errorf("mount kept root %q: invalid name", name)
	}
	if err := s.linkKept(ctx, containerID, name); err != nil {
		return "", fmt.Errorf("mount kept root %q for %s: %w", name, containerID, err)
	}
	return s.mount(ctx, containerID, name, rootOptions{})
}

func (s *Store) linkKept(ctx context.Context, containerID, name string) error {
	if err := s.locks.Lock(ctx, "root "+name); err != nil {
		return err
	}
	defer s.locks.Unlock("root " + name)
	if _, err := readRoot(s.rootDir(name)); errors.Is(err, errNoRoot) {
		return fs.ErrNotExist
	} else if err != nil {
		return err
	}
	user, err := s.userOf(name)
	switch {
	case err != nil:
		return err
	case user == containerID:
		return nil
	case user != "":
		return ErrInUse
	}
	return os.Symlink(name, s.rootDir(containerID))
}

// userOf finds the container that has a link to a kept root.
func (s *Store) userOf(name string) (containerID string, err error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "roots"))
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		if to, err := os.Readlink(s.rootDir(e.Name())); err == nil && to == name {
			return e.Name(), nil
		}
	}
	return "", nil
}

// InUse is whether a container stands on a kept root.
func (s *Store) InUse(name string) (bool, error) {
	user, err := s.userOf(name)
	return user != "", err
}

// unlinkKept ends a container's use of a kept root, if that is what it has.
func (s *Store) unlinkKept(containerID string) (was bool, err error) {
	info, err := os.Lstat(s.rootDir(containerID))
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return false, nil // nothing, or a root of its own
	}
	return true, os.Remove(s.rootDir(containerID))
}

// WithKept calls use with the mounted kept root, whether a container stands on it or
// not. What use opens must be resolved below the root: a container may have put
// symbolic links there.
func (s *Store) WithKept(ctx context.Context, name string, use func(rootfs string) error) error {
	user, err := s.userOf(name)
	if err != nil {
		return fmt.Errorf("mount kept root %s: %w", name, err)
	}
	if path := filepath.Join(s.roots, user); user != "" {
		if mounted, err := mountinfo.Mounted(path); err == nil && mounted {
			return use(path)
		}
	}
	if _, err := readRoot(s.rootDir(name)); err != nil {
		return fmt.Errorf("mount kept root %s: %w", name, fs.ErrNotExist)
	}
	path, err := s.mount(ctx, name, name, rootOptions{})
	if err != nil {
		return err
	}
	defer func() {
		_ = unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // the next use mounts over nothing
		_ = os.Remove(path)
	}()
	return use(path)
}

// Written is the directory that holds what was written to a kept root: an overlay's
// upper directory, with its whiteouts.
func (s *Store) Written(name string) string { return filepath.Join(s.rootDir(name), upperName) }

// Layers are the directories of the layers below a kept root, topmost first.
func (s *Store) Layers(ctx context.Context, name string) ([]string, error) {
	if _, err := readRoot(s.rootDir(name)); err != nil {
		return nil, fmt.Errorf("layers of kept root %s: %w", name, fs.ErrNotExist)
	}
	return s.rootLayers(s.context(ctx), name, name, rootOptions{})
}
