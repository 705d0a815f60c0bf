package controllers

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	storagehelpers "k8s.io/component-helpers/storage/volume"
)

var everything = labels.Everything()

// volumeStep is what to do next about a volume.
type volumeStep int

const (
	nothing volumeStep = iota
	// deleteVolume deletes the object; the directory goes before it does.
	deleteVolume
	// removeDirectory removes the directory and lets the object go.
	removeDirectory
	// keepDirectory lets the object go and keeps the data.
	keepDirectory
)

// nextVolumeStep looks at what is and answers one next step.
func nextVolumeStep(v *corev1.PersistentVolume) volumeStep {
	if v.Annotations[storagehelpers.AnnDynamicallyProvisioned] != localProvisioner {
		return nothing
	}
	reclaim := v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
	if v.DeletionTimestamp == nil {
		if reclaim && v.Status.Phase == corev1.VolumeReleased {
			return deleteVolume
		}
		return nothing
	}
	switch {
	case !slices.Contains(v.Finalizers, storagehelpers.PVDeletionProtectionFinalizer):
		return nothing
	case len(v.Finalizers) > 1:
		return nothing // bound, or somebody else is not done with it
	case reclaim:
		return removeDirectory
	default:
		return keepDirectory
	}
}

// volumeFor is the volume that satisfies a claim.
func volumeFor(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, dir *volumeDir) *corev1.PersistentVolume {
	name := "pvc-" + string(claim.UID)
	reclaim := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		reclaim = *class.ReclaimPolicy
	}
	mode := corev1.PersistentVolumeFilesystem
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{storagehelpers.AnnDynamicallyProvisioned: localProvisioner},
			// The object stays until its directory is dealt with, whoever deletes it.
			Finalizers: []string{storagehelpers.PVDeletionProtectionFinalizer},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: reclaim,
			StorageClassName:              class.Name,
			VolumeMode:                    &mode,
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir.path(name)}},
			// Local volumes need an affinity. There is one machine, whatever it
			// is called now or after a change of its host name.
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpExists}},
			}}}},
		},
	}
}

// volumeDir is the directory that holds one directory for each volume. Its
// methods never reach outside it, whatever is in it.
type volumeDir struct{ root *os.Root }

func (d *volumeDir) path(name string) string { return filepath.Join(d.root.Name(), name) }

func (d *volumeDir) close() { d.root.Close() }

// make makes a directory that containers of any user can write to.
func (d *volumeDir) make(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := d.root.Mkdir(name, 0o777); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make volume directory: %w", err)
	}
	if err := d.root.Chmod(name, 0o777); err != nil { // whatever the umask
		return fmt.Errorf("make volume directory: %w", err)
	}
	return nil
}

// remove removes a directory and all that is in it, following no links.
func (d *volumeDir) remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := d.root.RemoveAll(name); err != nil {
		return fmt.Errorf("remove volume directory: %w", err)
	}
	return nil
}

func (d *volumeDir) removeEmpty(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return d.root.Remove(name)
}

func (d *volumeDir) names() ([]string, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

func checkName(name string) error {
	if name == "" || name == "." || filepath.Base(name) != name || !filepath.IsLocal(name) {
		return fmt.Errorf("%q: %w", name, errName)
	}
	return nil
}

func without(list []string, item string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == item })
}
