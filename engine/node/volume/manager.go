package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	"k8s.io/mount-utils"
)

// Config is what a Manager needs.
type Config struct {
	Client      kubernetes.Interface
	Tokens      Tokens
	PodsDir     string                 // disk-backed volumes are under PodsDir/<uid>/volumes
	MemoryDir   string                 // a tmpfs; secrets and tokens are under MemoryDir/<uid>
	Allocatable func() v1.ResourceList // what resourceFieldRef without a limit means

	// MountImage makes an image volume present and returns its root.
	MountImage func(ctx context.Context, pod *v1.Pod, v *v1.Volume) (path string, err error)
	// UnmountImage undoes it. It is called for every image volume of a pod.
	UnmountImage func(ctx context.Context, podUID types.UID, volume string) error
}

// Tokens hands out service account tokens and renews them in time. Upstream's
// token manager is one.
type Tokens interface {
	GetServiceAccountToken(namespace, name string, tr *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
	DeleteServiceAccountToken(podUID types.UID)
}

// Manager sets volumes up and tears them down. Its methods may be called
// concurrently for different pods.
type Manager struct {
	cfg     Config
	mounter mount.Interface
	subpath subpath.Interface
}

// Volume is a volume that is present.
type Volume struct {
	Path     string
	ReadOnly bool
	Image    bool // the content of an image
	// RefreshAt is when the content must be written anew, zero if never.
	RefreshAt time.Time
}

// New returns a Manager.
func New(cfg Config) *Manager {
	m := mount.NewWithoutSystemd("")
	return &Manager{cfg: cfg, mounter: m, subpath: subpath.New(m)}
}

// SetUp makes all volumes of the pod present and returns them by name. It
// reports the first error; what was set up stays and is found by the next call.
func (m *Manager) SetUp(ctx context.Context, pod *v1.Pod) (map[string]Volume, error) {
	out := make(map[string]Volume, len(pod.Spec.Volumes))
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if mountedAsDevice(pod, v.Name) {
			return nil, fmt.Errorf("set up volume %q: block volumes are not supported here: use volumeMode: Filesystem", v.Name)
		}
		vol, err := m.setUp(ctx, pod, v)
		if err != nil {
			return nil, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
		}
		out[v.Name] = vol
	}
	return out, nil
}

func (m *Manager) setUp(ctx context.Context, pod *v1.Pod, v *v1.Volume) (Volume, error) {
	switch {
	case v.EmptyDir != nil:
		return m.setUpEmptyDir(pod, v)
	case v.HostPath != nil:
		return Volume{Path: v.HostPath.Path}, checkHostPath(v.HostPath)
	case v.PersistentVolumeClaim != nil:
		return m.setUpClaim(ctx, pod, v, v.PersistentVolumeClaim.ClaimName, v.PersistentVolumeClaim.ReadOnly)
	case v.Ephemeral != nil:
		return m.setUpClaim(ctx, pod, v, pod.Name+"-"+v.Name, false)
	case v.Image != nil:
		path, err := m.cfg.MountImage(ctx, pod, v)
		return Volume{Path: path, ReadOnly: true, Image: true}, err
	case projects(v):
		return m.project(ctx, pod, v)
	}
	return Volume{}, errors.New("this kind of volume needs a storage system that a single machine does not have: " +
		"use emptyDir, hostPath, configMap, secret, projected, downwardAPI, image or persistentVolumeClaim")
}

// Refresh writes the projected volumes of a running pod anew and returns when
// to do so again, or zero.
func (m *Manager) Refresh(ctx context.Context, pod *v1.Pod) (time.Time, error) {
	var at time.Time
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !projects(v) {
			continue
		}
		vol, err := m.project(ctx, pod, v)
		if err != nil {
			errs = append(errs, fmt.Errorf("refresh volume %q: %w", v.Name, err))
			continue
		}
		at = earlier(at, vol.RefreshAt)
	}
	return at, errors.Join(errs...)
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// dir is where a volume's content is kept.
func (m *Manager) dir(uid types.UID, kind, name string) string {
	return filepath.Join(m.cfg.PodsDir, string(uid), "volumes", "kubernetes.io~"+kind, name)
}

func (m *Manager) memoryDir(uid types.UID, name string) string {
	return filepath.Join(m.cfg.MemoryDir, string(uid), name)
}

func mountedAsDevice(pod *v1.Pod, name string) bool {
	for i := range pod.Spec.Containers {
		for _, d := range pod.Spec.Containers[i].VolumeDevices {
			if d.Name == name {
				return true
			}
		}
	}
	return false
}

// makeDir creates dir with exactly that mode whatever the umask.
func makeDir(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return err
	}
	err := os.Mkdir(dir, mode.Perm())
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}
