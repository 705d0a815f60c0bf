package controllers

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	storagehelpers "k8s.io/component-helpers/storage/volume"
)

func TestNextVolumeStep(t *testing.T) {
	const ours = storagehelpers.PVDeletionProtectionFinalizer
	now := metav1.Now()
	for _, c := range []struct {
		name       string
		provider   string
		reclaim    corev1.PersistentVolumeReclaimPolicy
		phase      corev1.PersistentVolumePhase
		deleted    bool
		finalizers []string
		want       volumeStep
	}{
		{"in use", localProvisioner, corev1.PersistentVolumeReclaimDelete, corev1.VolumeBound, false, []string{ours, "kubernetes.io/pv-protection"}, nothing},
		{"released", localProvisioner, corev1.PersistentVolumeReclaimDelete, corev1.VolumeReleased, false, []string{ours, "kubernetes.io/pv-protection"}, deleteVolume},
		{"released, another's", "example.com/nfs", corev1.PersistentVolumeReclaimDelete, corev1.VolumeReleased, false, []string{ours}, nothing},
		{"released, to be kept", localProvisioner, corev1.PersistentVolumeReclaimRetain, corev1.VolumeReleased, false, []string{ours}, nothing},
		{"deleted while bound", localProvisioner, corev1.PersistentVolumeReclaimDelete, corev1.VolumeBound, true, []string{"kubernetes.io/pv-protection", ours}, nothing},
		{"deleted and free", localProvisioner, corev1.PersistentVolumeReclaimDelete, corev1.VolumeReleased, true, []string{ours}, removeDirectory},
		{"deleted and free, to be kept", localProvisioner, corev1.PersistentVolumeReclaimRetain, corev1.VolumeReleased, true, []string{ours}, keepDirectory},
		{"deleted, another finalizer left", localProvisioner, corev1.PersistentVolumeReclaimDelete, corev1.VolumeReleased, true, []string{"example.com/backup"}, nothing},
		{"never used, recycled", localProvisioner, corev1.PersistentVolumeReclaimRecycle, corev1.VolumeReleased, false, []string{ours}, nothing},
	} {
		v := &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "v", Finalizers: c.finalizers, Annotations: map[string]string{storagehelpers.AnnDynamicallyProvisioned: c.provider}},
			Spec:       corev1.PersistentVolumeSpec{PersistentVolumeReclaimPolicy: c.reclaim},
			Status:     corev1.PersistentVolumeStatus{Phase: c.phase},
		}
		if c.deleted {
			v.DeletionTimestamp = &now
		}
		if got := nextVolumeStep(v); got != c.want {
			t.Errorf("%s: step %d, want %d", c.name, got, c.want)
		}
	}
}

func TestVolumeDirStaysInside(t *testing.T) {
	parent := t.TempDir()
	outside := filepath.Join(parent, "outside")
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := openVolumeDir(filepath.Join(parent, "volumes"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.close()
	for _, name := range []string{"", ".", "..", "../outside", "/etc", "a/b", "a/../../outside"} {
		if dir.make(name) == nil || dir.remove(name) == nil || dir.removeEmpty(name) == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
	// A link in the place of a volume is removed, not followed.
	if err := os.Symlink(outside, dir.path("pvc-1")); err != nil {
		t.Fatal(err)
	}
	if err := dir.remove("pvc-1"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("the target of a link was removed: %v", err)
	}
}

func pod(name, node string, phase corev1.PodPhase, age int, deleted bool) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(1000-age), 0))},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{Phase: phase},
	}
	if deleted {
		now := metav1.Now()
		p.DeletionTimestamp = &now
	}
	return p
}

func TestCollectablePods(t *testing.T) {
	pods := []*corev1.Pod{
		pod("running", "here", corev1.PodRunning, 9, false),
		pod("leaving", "here", corev1.PodRunning, 9, true),
		pod("old", "here", corev1.PodSucceeded, 9, false),
		pod("older", "here", corev1.PodFailed, 10, false),
		pod("young", "here", corev1.PodSucceeded, 1, false),
		pod("lost", "gone", corev1.PodRunning, 1, false),
		pod("never-placed", "", corev1.PodPending, 1, true),
		pod("waiting", "", corev1.PodPending, 1, false),
	}
	var got []string
	for _, p := range collectable(pods, 1, sets.New("gone")) {
		got = append(got, p.Name)
	}
	if want := "[lost never-placed older old]"; fmt.Sprint(got) != want {
		t.Errorf("collects %v, want %v", got, want)
	}
}

func TestNodesAreGivenUpAfterAWhile(t *testing.T) {
	c := &podCollector{missing: map[string]time.Time{}}
	pods := []*corev1.Pod{pod("a", "here", corev1.PodRunning, 1, false), pod("b", "gone", corev1.PodRunning, 1, false)}
	start := time.Unix(1000, 0)
	c.noteMissing(pods, sets.New("here"), start)
	if gone := c.givenUp(start.Add(missingNodePatience - 1)); gone.Len() != 0 {
		t.Errorf("gave up %v too early", gone)
	}
	c.noteMissing(pods, sets.New("here"), start.Add(missingNodePatience))
	if gone := c.givenUp(start.Add(missingNodePatience)); !gone.Equal(sets.New("gone")) {
		t.Errorf("gave up %v", gone)
	}
	c.noteMissing(pods, sets.New("here", "gone"), start.Add(missingNodePatience))
	if gone := c.givenUp(start.Add(time.Hour)); gone.Len() != 0 {
		t.Errorf("gave up %v, which came back", gone)
	}
}
