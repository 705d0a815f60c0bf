package controllers_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func claim(name string) corev1.PersistentVolumeClaim {
	return corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
}

// use makes a pod that mounts a claim.
func (c *cluster) use(t *testing.T, ns, claim string) {
	t.Helper()
	tmpl := template(nil)
	tmpl.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	if _, err := c.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "user"}, Spec: tmpl.Spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "pod with claim", func() string {
		p, err := c.CoreV1().Pods(ns).Get(t.Context(), "user", metav1.GetOptions{})
		if err == nil && p.Status.Phase != corev1.PodRunning {
			return fmt.Sprintf("status %+v", p.Status)
		}
		return problem(err)
	})
}

// volumeOf is the volume and the directory of a bound claim.
func (c *cluster) volumeOf(t *testing.T, ns, name string) (*corev1.PersistentVolume, string) {
	t.Helper()
	var pvc *corev1.PersistentVolumeClaim
	eventually(t, "claim", func() string {
		var err error
		pvc, err = c.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && pvc.Status.Phase != corev1.ClaimBound {
			return "phase " + string(pvc.Status.Phase)
		}
		return problem(err)
	})
	pv, err := c.CoreV1().PersistentVolumes().Get(t.Context(), pvc.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(c.dataDir, "volumes", pv.Name)
	if pv.Spec.Local == nil || pv.Spec.Local.Path != dir {
		t.Fatalf("volume source %+v, want directory %s", pv.Spec.PersistentVolumeSource, dir)
	}
	return pv, dir
}

func (c *cluster) dropPodAndClaim(t *testing.T, ns, claim string) {
	t.Helper()
	if err := c.CoreV1().Pods(ns).Delete(t.Context(), "user", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.CoreV1().PersistentVolumeClaims(ns).Delete(t.Context(), claim, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "claim", func() string {
		_, err := c.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), claim, metav1.GetOptions{})
		return gone(err)
	})
}

func volumeStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "volume"), t.Context()
	eventually(t, "default class", func() string {
		_, err := c.StorageV1().StorageClasses().Get(ctx, "gantry-local", metav1.GetOptions{})
		return problem(err)
	})
	pvc := claim("data")
	if _, err := c.CoreV1().PersistentVolumeClaims(ns).Create(ctx, &pvc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.use(t, ns, "data")
	pv, dir := c.volumeOf(t, ns, "data")
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o777 {
		t.Errorf("mode %o: containers of another user cannot write", info.Mode().Perm())
	}
	if parent, err := os.Stat(filepath.Dir(dir)); err != nil || parent.Mode().Perm() != 0o700 {
		t.Errorf("mode of the parent %v: other users of the machine can write: %v", parent.Mode(), err)
	}

	// A claim can ask for more.
	if _, err := c.CoreV1().PersistentVolumeClaims(ns).Patch(ctx, "data", types.MergePatchType,
		[]byte(`{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "growth", func() string {
		got, err := c.CoreV1().PersistentVolumeClaims(ns).Get(ctx, "data", metav1.GetOptions{})
		if size := got.Status.Capacity[corev1.ResourceStorage]; err == nil && size.String() != "2Gi" {
			return "capacity " + size.String()
		}
		return problem(err)
	})

	// What a container left behind cannot lead the removal astray.
	outside := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	c.dropPodAndClaim(t, ns, "data")
	eventually(t, "volume", func() string {
		_, err := c.CoreV1().PersistentVolumes().Get(ctx, pv.Name, metav1.GetOptions{})
		return gone(err)
	})
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("a file outside was removed: %v", err)
	}
}

func retainStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "retain"), t.Context()
	if _, err := c.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Provisioner: "gantry.dev/local", ReclaimPolicy: ptr(corev1.PersistentVolumeReclaimRetain),
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pvc := claim("data")
	pvc.Spec.StorageClassName = ptr("kept")
	if _, err := c.CoreV1().PersistentVolumeClaims(ns).Create(ctx, &pvc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.use(t, ns, "data")
	pv, dir := c.volumeOf(t, ns, "data")
	c.dropPodAndClaim(t, ns, "data")
	eventually(t, "release", func() string {
		got, err := c.CoreV1().PersistentVolumes().Get(ctx, pv.Name, metav1.GetOptions{})
		if err == nil && got.Status.Phase != corev1.VolumeReleased {
			return "phase " + string(got.Status.Phase)
		}
		return problem(err)
	})
	if err := c.CoreV1().PersistentVolumes().Delete(ctx, pv.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "volume", func() string {
		_, err := c.CoreV1().PersistentVolumes().Get(ctx, pv.Name, metav1.GetOptions{})
		return gone(err)
	})
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the data of a retained volume is gone: %v", err)
	}
}

func refusedClaimStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "refused"), t.Context()
	if _, err := c.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "at-once"}, Provisioner: "gantry.dev/local",
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pvc := claim("raw")
	pvc.Spec.StorageClassName, pvc.Spec.VolumeMode = ptr("at-once"), ptr(corev1.PersistentVolumeBlock)
	if _, err := c.CoreV1().PersistentVolumeClaims(ns).Create(ctx, &pvc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "reason", func() string {
		l, err := c.CoreV1().Events(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		for _, ev := range l.Items {
			if ev.Reason == "ProvisioningFailed" && strings.Contains(ev.Message, "use volumeMode Filesystem") {
				return ""
			}
		}
		return "no event says why"
	})
}
