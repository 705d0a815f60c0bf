package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
)

// setUpEmptyDir makes a directory everyone may write to, or a tmpfs.
func (m *Manager) setUpEmptyDir(pod *v1.Pod, v *v1.Volume) (Volume, error) {
	dir := m.dir(pod.UID, "empty-dir", v.Name)
	_, statErr := os.Lstat(dir)
	if err := makeDir(dir, 0o777); err != nil {
		return Volume{}, err
	}
	switch medium := v.EmptyDir.Medium; medium {
	case v1.StorageMediumDefault:
	case v1.StorageMediumMemory:
		mounted, err := m.mounter.IsMountPoint(dir)
		if err != nil {
			return Volume{}, err
		}
		if mounted {
			statErr = nil
			break
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, tmpfsOptions(pod, v)); err != nil {
			return Volume{}, fmt.Errorf("mount tmpfs: %w", err)
		}
		statErr = os.ErrNotExist
	default:
		return Volume{}, fmt.Errorf("emptyDir medium %q is not supported here: use \"\" or Memory", medium)
	}
	if statErr == nil { // set up before: ownership is the pod's business now
		return Volume{Path: dir}, nil
	}
	return Volume{Path: dir}, setOwnership(pod, dir, false)
}

func tmpfsOptions(pod *v1.Pod, v *v1.Volume) string {
	size := int64(0)
	if l := v.EmptyDir.SizeLimit; l != nil {
		size = l.Value()
	}
	if limit := podMemoryLimit(pod); limit > 0 && (size == 0 || limit < size) {
		size = limit
	}
	if size == 0 {
		return "mode=0777"
	}
	return fmt.Sprintf("mode=0777,size=%d", size)
}

// podMemoryLimit is the sum of the containers' limits, 0 when one has none.
func podMemoryLimit(pod *v1.Pod) int64 {
	var sum int64
	for i := range pod.Spec.Containers {
		l := pod.Spec.Containers[i].Resources.Limits.Memory().Value()
		if l == 0 {
			return 0
		}
		sum += l
	}
	return sum
}

// checkHostPath verifies, or with ...OrCreate establishes, what the type says.
func checkHostPath(h *v1.HostPathVolumeSource) error {
	kind := v1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	switch kind {
	case v1.HostPathUnset:
		return nil
	case v1.HostPathDirectoryOrCreate:
		if _, err := os.Stat(h.Path); errors.Is(err, os.ErrNotExist) {
			if err := os.MkdirAll(h.Path, 0o755); err != nil {
				return err
			}
		}
		kind = v1.HostPathDirectory
	case v1.HostPathFileOrCreate:
		f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_EXCL, 0o644)
		if err == nil {
			f.Close()
		} else if !errors.Is(err, os.ErrExist) {
			return err
		}
		kind = v1.HostPathFile
	}
	got, err := hostutil.NewHostUtil().GetFileType(h.Path)
	if err != nil {
		return fmt.Errorf("hostPath type check failed: %s is not a %s: %w", h.Path, kind, err)
	}
	if string(got) != string(kind) {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, kind)
	}
	return nil
}

// setOwnership gives the volume to the pod's fsGroup, if it has one.
func setOwnership(pod *v1.Pod, dir string, readOnly bool) error {
	sc := pod.Spec.SecurityContext
	if sc == nil || sc.FSGroup == nil {
		return nil
	}
	return volume.NewVolumeOwnership(attributes{readOnly: readOnly}, dir, sc.FSGroup, sc.FSGroupChangePolicy, nil).ChangePermissions()
}

// attributes is all that [volume.NewVolumeOwnership] asks of a mounter.
type attributes struct {
	volume.Mounter
	readOnly bool
}

func (a attributes) GetAttributes() volume.Attributes {
	return volume.Attributes{ReadOnly: a.readOnly, Managed: true}
}

// TooLarge returns the name and size of an emptyDir on disk that outgrew its
// limit, or "".
func (m *Manager) TooLarge(pod *v1.Pod) (name string, limit string) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.Medium != v1.StorageMediumDefault {
			continue
		}
		if diskUsage(m.dir(pod.UID, "empty-dir", v.Name)) > v.EmptyDir.SizeLimit.Value() {
			return v.Name, v.EmptyDir.SizeLimit.String()
		}
	}
	return "", ""
}

// DiskUsage is what the pod's volumes on disk occupy, in bytes.
func (m *Manager) DiskUsage(pod *v1.Pod) int64 {
	return diskUsage(filepath.Join(m.cfg.PodsDir, string(pod.UID), "volumes"))
}

func diskUsage(dir string) int64 {
	bytes, _ := occupied(dir)
	return int64(bytes)
}
