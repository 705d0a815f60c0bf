package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	labelRoot  = "containerd.io/gc.root" // collection treats what carries it as in use
	labelImage = "gantry.dev/image"      // digest a container's root was made from
)

var validID = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,127}$`)

// Mount gives a container a writable root directory on top of ref's layers and
// returns its path. It is idempotent: after a restart of the process, or of the
// machine, the same id gets the same files again, whatever ref points at by then.
func (s *Store) Mount(ctx context.Context, containerID, ref string) (rootfs string, err error) {
	return s.mount(ctx, containerID, ref, s.snaps.Prepare)
}

// MountReadOnly mounts ref's layers under an id of their own, read-only, for
// image volumes. Unmount ends it.
func (s *Store) MountReadOnly(ctx context.Context, id, ref string) (path string, err error) {
	return s.mount(ctx, id, ref, s.snaps.View)
}

type prepareFunc func(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error)

func (s *Store) mount(ctx context.Context, id, ref string, prepare prepareFunc) (string, error) {
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
	if mounted, err := mountinfo.Mounted(path); err == nil && mounted {
		return path, nil
	}
	mounts, err := s.snaps.Mounts(ctx, id)
	if errdefs.IsNotFound(err) {
		mounts, err = s.prepare(ctx, id, ref, prepare)
	}
	if err != nil {
		return "", fmt.Errorf("mount image %q for %s: %w", ref, id, err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", fmt.Errorf("mount image %q for %s: %w", ref, id, err)
	}
	if err := mount.All(mounts, path); err != nil {
		return "", errors.Join(fmt.Errorf("mount image %q for %s: %w", ref, id, err), os.Remove(path))
	}
	return path, nil
}

// prepare creates the snapshot of a container. It is a root for collection
// from the moment it exists.
func (s *Store) prepare(ctx context.Context, id, ref string, prepare prepareFunc) ([]mount.Mount, error) {
	img, err := s.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	opts := snapshots.WithLabels(map[string]string{
		labelRoot:  time.Now().UTC().Format(time.RFC3339),
		labelImage: img.Digest,
	})
	s.used.touch(img.target.Digest)
	mounts, err := prepare(ctx, id, img.chainID(), opts)
	if !errdefs.IsNotFound(err) {
		return mounts, err
	}
	// The content is here, the unpacked layers are not.
	if err := s.unpackAgain(ctx, img); err != nil {
		return nil, err
	}
	return prepare(ctx, id, img.chainID(), opts)
}

func (s *Store) unpackAgain(ctx context.Context, img *Image) error {
	ctx, done, err := s.lease(ctx)
	if err != nil {
		return err
	}
	defer done()
	meter := newMeter(img.Name, func(Progress) {})
	defer meter.stop()
	if err := s.unpackTree(ctx, s.children(), meter, img.target); err != nil {
		return fmt.Errorf("unpack image %q again: %w", img.Name, err)
	}
	return nil
}

// Unmount unmounts a container's root directory and deletes its writable
// layer. Nothing to do is no error.
func (s *Store) Unmount(ctx context.Context, containerID string) error {
	if !validID.MatchString(containerID) {
		return fmt.Errorf("unmount root: invalid id %q", containerID)
	}
	ctx = s.context(ctx)
	key := "root " + containerID
	if err := s.locks.Lock(ctx, key); err != nil {
		return err
	}
	defer s.locks.Unlock(key)

	path := filepath.Join(s.roots, containerID)
	// A process on its way out may still have files open: detach, the kernel
	// finishes when the last one is closed.
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount root of %s: %w", containerID, err)
	}
	// Remove, never RemoveAll: should it still be mounted, its files are not ours to delete.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove root of %s: %w", containerID, err)
	}
	if err := s.snaps.Remove(ctx, containerID); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove writable layer of %s: %w", containerID, err)
	}
	s.collector.kick()
	return nil
}

// Root is a container's root directory as the store knows it.
type Root struct {
	ID          string // container id
	ImageDigest string // Image.Digest it was made from
	Path        string // where it is, or will be, mounted
	CreatedAt   time.Time
}

// Roots lists what Mount and MountReadOnly made and Unmount has not removed,
// so that the caller can remove what belongs to no container any more.
func (s *Store) Roots(ctx context.Context) ([]Root, error) {
	var roots []Root
	err := s.snaps.Walk(s.context(ctx), func(_ context.Context, info snapshots.Info) error {
		if d, ok := info.Labels[labelImage]; ok {
			roots = append(roots, Root{ID: info.Name, ImageDigest: d, Path: filepath.Join(s.roots, info.Name), CreatedAt: info.Created})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list roots: %w", err)
	}
	return roots, nil
}

// digestsInUse are the images that have a mounted or prepared root.
func (s *Store) digestsInUse(ctx context.Context) (map[digest.Digest]bool, error) {
	roots, err := s.Roots(ctx)
	if err != nil {
		return nil, err
	}
	used := make(map[digest.Digest]bool, len(roots))
	for _, r := range roots {
		used[digest.Digest(r.ImageDigest)] = true
	}
	return used, nil
}
