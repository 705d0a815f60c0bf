package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/configmap"
	"k8s.io/kubernetes/pkg/volume/downwardapi"
	"k8s.io/kubernetes/pkg/volume/secret"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// projects reports whether the volume's content comes from the API.
func projects(v *v1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// project writes the volume's content, atomically for readers.
func (m *Manager) project(ctx context.Context, pod *v1.Pod, v *v1.Volume) (Volume, error) {
	w := projection{m: m, ctx: ctx, pod: pod, payload: map[string]volumeutil.FileProjection{}}
	if err := w.collect(v); err != nil {
		return Volume{}, err
	}
	dir := m.memoryDir(pod.UID, v.Name)
	if v.ConfigMap != nil {
		dir = m.dir(pod.UID, "configmap", v.Name)
	}
	if err := makeDir(dir, 0o777|os.ModeSticky); err != nil {
		return Volume{}, err
	}
	if err := volumeutil.MakeNestedMountpoints(v.Name, dir, *pod); err != nil {
		return Volume{}, err
	}
	writer, err := volumeutil.NewAtomicWriter(dir, fmt.Sprintf("pod %s/%s volume %s", pod.Namespace, pod.Name, v.Name))
	if err != nil {
		return Volume{}, err
	}
	owners := func(string) error { return setOwnership(pod, dir, true) }
	if err := writer.Write(w.payload, owners); err != nil {
		return Volume{}, fmt.Errorf("write content: %w", err)
	}
	return Volume{Path: dir, ReadOnly: true, RefreshAt: w.refreshAt}, nil
}

// projection collects the files of one volume.
type projection struct {
	m         *Manager
	ctx       context.Context
	pod       *v1.Pod
	payload   map[string]volumeutil.FileProjection
	refreshAt time.Time
}

func (w *projection) collect(v *v1.Volume) error {
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		return w.configMap(s.Name, s.Items, s.DefaultMode, s.Optional)
	case v.Secret != nil:
		s := v.Secret
		return w.secret(s.SecretName, s.Items, s.DefaultMode, s.Optional)
	case v.DownwardAPI != nil:
		return w.downward(v.DownwardAPI.Items, v.DownwardAPI.DefaultMode)
	}
	mode := v.Projected.DefaultMode
	var errs []error
	for i := range v.Projected.Sources {
		switch s := &v.Projected.Sources[i]; {
		case s.ConfigMap != nil:
			errs = append(errs, w.configMap(s.ConfigMap.Name, s.ConfigMap.Items, mode, s.ConfigMap.Optional))
		case s.Secret != nil:
			errs = append(errs, w.secret(s.Secret.Name, s.Secret.Items, mode, s.Secret.Optional))
		case s.DownwardAPI != nil:
			errs = append(errs, w.downward(s.DownwardAPI.Items, mode))
		case s.ServiceAccountToken != nil:
			errs = append(errs, w.token(s.ServiceAccountToken, mode))
		default:
			errs = append(errs, errors.New("this projected source is not supported here: use configMap, secret, downwardAPI or serviceAccountToken"))
		}
	}
	return errors.Join(errs...)
}

func (w *projection) configMap(name string, items []v1.KeyToPath, mode *int32, optional *bool) error {
	opt := optional != nil && *optional
	cm, err := w.m.cfg.Client.CoreV1().ConfigMaps(w.pod.Namespace).Get(w.ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && opt {
		cm, err = &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.pod.Namespace, Name: name}}, nil
	}
	if err != nil {
		return err
	}
	files, err := configmap.MakePayload(items, cm, defaultMode(mode), opt)
	maps.Copy(w.payload, files)
	return err
}

func (w *projection) secret(name string, items []v1.KeyToPath, mode *int32, optional *bool) error {
	opt := optional != nil && *optional
	s, err := w.m.cfg.Client.CoreV1().Secrets(w.pod.Namespace).Get(w.ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && opt {
		s, err = &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.pod.Namespace, Name: name}}, nil
	}
	if err != nil {
		return err
	}
	files, err := secret.MakePayload(items, s, defaultMode(mode), opt)
	maps.Copy(w.payload, files)
	return err
}

func (w *projection) downward(items []v1.DownwardAPIVolumeFile, mode *int32) error {
	files, err := downwardapi.CollectData(items, w.pod, allocatableHost{get: w.m.cfg.Allocatable}, defaultMode(mode))
	maps.Copy(w.payload, files)
	return err
}

func (w *projection) token(s *v1.ServiceAccountTokenProjection, mode *int32) error {
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: w.pod.Name, UID: w.pod.UID,
		},
	}}
	if s.Audience != "" {
		req.Spec.Audiences = []string{s.Audience}
	}
	tr, err := w.m.cfg.Tokens.GetServiceAccountToken(w.pod.Namespace, w.pod.Spec.ServiceAccountName, req)
	if err != nil {
		return err
	}
	file := volumeutil.FileProjection{Data: []byte(tr.Status.Token), Mode: *defaultMode(mode), FsUser: volumeutil.FsUserFrom(w.pod)}
	if sc := w.pod.Spec.SecurityContext; file.FsUser != nil || sc != nil && sc.FSGroup != nil {
		file.Mode = 0o600 // the owner is who needs it; fsGroup adds the group
	}
	w.payload[s.Path] = file
	// The token manager renews at 80 % of the life; a little later it will.
	life := time.Until(tr.Status.ExpirationTimestamp.Time)
	w.refreshAt = earlier(w.refreshAt, time.Now().Add(life*81/100))
	return nil
}

func defaultMode(mode *int32) *int32 {
	if mode == nil {
		m := int32(0o644)
		return &m
	}
	return mode
}

// allocatableHost is all that [downwardapi.CollectData] asks of a host.
type allocatableHost struct {
	volume.VolumeHost
	get func() v1.ResourceList
}

func (h allocatableHost) GetNodeAllocatable() (v1.ResourceList, error) { return h.get(), nil }
