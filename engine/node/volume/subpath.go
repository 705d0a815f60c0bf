package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	"k8s.io/kubernetes/pkg/volume/validation"
)

// SubPath returns the host path of sub inside the volume, creating a directory
// when it is absent. The path is safe against symbolic links in the volume.
// Index is the place of the mount in the container's list.
func (m *Manager) SubPath(pod *v1.Pod, container string, index int, name string, vol Volume, sub string) (string, error) {
	if filepath.IsAbs(sub) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	}
	if err := validation.ValidatePathNoBacksteps(sub); err != nil {
		return "", fmt.Errorf("unable to provision SubPath `%s`: %w", sub, err)
	}
	path := filepath.Join(vol.Path, sub)
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		base, err := os.Stat(vol.Path)
		if err != nil {
			return "", err
		}
		// The causes stay out of the message: they tell about the host.
		if err := m.subpath.SafeMakeDir(sub, vol.Path, base.Mode()); err != nil {
			return "", fmt.Errorf("failed to create subPath directory for volumeMount %q of container %q", name, container)
		}
	}
	safe, _, err := m.subpath.PrepareSafeSubpath(subpath.Subpath{
		VolumeMountIndex: index,
		Path:             path,
		VolumeName:       name,
		VolumePath:       vol.Path,
		PodDir:           filepath.Join(m.cfg.PodsDir, string(pod.UID)),
		ContainerName:    container,
	})
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", name, container)
	}
	return safe, nil
}

// TearDown removes all volumes of a pod. No container may use them any more.
func (m *Manager) TearDown(ctx context.Context, uid types.UID, images []string) error {
	m.cfg.Tokens.DeleteServiceAccountToken(uid)
	for _, name := range images {
		if err := m.cfg.UnmountImage(ctx, uid, name); err != nil {
			return fmt.Errorf("unmount image volume %q: %w", name, err)
		}
	}
	dirs := []string{
		filepath.Join(m.cfg.PodsDir, string(uid), "volume-subpaths"),
		filepath.Join(m.cfg.PodsDir, string(uid), "volumes"),
		filepath.Join(m.cfg.MemoryDir, string(uid)),
	}
	for _, dir := range dirs {
		// Most pods have nothing mounted here. To see that is cheaper than to read
		// the table of all mounts of the machine.
		err := removeTree(dir)
		if errors.Is(err, errMounted) {
			if err := UnmountBelow(dir); err != nil {
				return err
			}
			err = removeTree(dir)
		}
		if err != nil {
			return fmt.Errorf("remove volumes of pod %s: %w", uid, err)
		}
	}
	return nil
}

// UnmountBelow unmounts everything mounted at or below dir, innermost first.
func UnmountBelow(dir string) error {
	// Not mount-utils' parser: it leaves a blank in a name as "\040", and what is not
	// found here is not unmounted but deleted.
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for _, info := range slices.Backward(infos) {
		at := strings.TrimSuffix(info.Mountpoint, "//deleted")
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
	}
	return nil
}

// errMounted means that a directory was left alone because something is mounted in it.
var errMounted = errors.New("is still mounted")

// removeTree deletes dir unless something is mounted at or below it, bind mounts
// of the same file system included: their content would be deleted.
func removeTree(dir string) error {
	parent, err := mountID(filepath.Dir(dir))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		var id uint64
		if err == nil {
			id, err = mountID(path)
		}
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case err == nil && id != parent:
			return fmt.Errorf("%s: %w", path, errMounted)
		}
		return err
	})
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// mountID tells which mount a path belongs to, without following a link at its end.
func mountID(path string) (uint64, error) {
	var st unix.Statx_t
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if err := unix.Statx(unix.AT_FDCWD, path, flags, unix.STATX_MNT_ID, &st); err != nil {
		return 0, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return st.Mnt_id, nil
}
