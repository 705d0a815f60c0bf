package volume

import (
	"context"
	"fmt"
	"os"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// setUpClaim finds the directory that a bound claim stands for.
func (m *Manager) setUpClaim(ctx context.Context, pod *v1.Pod, v *v1.Volume, claim string, readOnly bool) (Volume, error) {
	pvc, err := m.cfg.Client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, claim, metav1.GetOptions{})
	if err != nil {
		return Volume{}, err
	}
	if v.Ephemeral != nil && !metav1.IsControlledBy(pvc, pod) {
		return Volume{}, fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", pod.Namespace, claim, pod.Namespace, pod.Name)
	}
	if pvc.Status.Phase != v1.ClaimBound || pvc.Spec.VolumeName == "" {
		return Volume{}, fmt.Errorf("PVC %s/%s is not bound: it waits for a volume that fits", pod.Namespace, claim)
	}
	pv, err := m.cfg.Client.CoreV1().PersistentVolumes().Get(ctx, pvc.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return Volume{}, err
	}
	if ref := pv.Spec.ClaimRef; ref == nil || ref.UID != pvc.UID {
		return Volume{}, fmt.Errorf("PV %s is bound to another claim than %s/%s", pv.Name, pod.Namespace, claim)
	}
	if pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == v1.PersistentVolumeBlock {
		return Volume{}, fmt.Errorf("PV %s is a block volume, which is not supported here: use volumeMode: Filesystem", pv.Name)
	}
	readOnly = readOnly || readOnlyOnly(pv.Spec.AccessModes)
	switch {
	case pv.Spec.Local != nil:
		path := pv.Spec.Local.Path
		if _, err := os.Stat(path); err != nil {
			return Volume{}, fmt.Errorf("PV %s: %w", pv.Name, err)
		}
		return Volume{Path: path, ReadOnly: readOnly}, setOwnership(pod, path, readOnly)
	case pv.Spec.HostPath != nil:
		return Volume{Path: pv.Spec.HostPath.Path, ReadOnly: readOnly}, checkHostPath(pv.Spec.HostPath)
	}
	return Volume{}, fmt.Errorf("PV %s has a source that a single machine does not have: local and hostPath volumes can be mounted", pv.Name)
}

func readOnlyOnly(modes []v1.PersistentVolumeAccessMode) bool {
	for _, m := range modes {
		if m != v1.ReadOnlyMany {
			return false
		}
	}
	return len(modes) > 0
}
