package controllers_test

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestRestartChangesNothing stops everything and starts it again on the same
// data: what ran runs on, and the controllers take up where they were.
func TestRestartChangesNothing(t *testing.T) {
	dir := t.TempDir()
	onDir := func(c *cluster) { c.dataDir = dir }
	c := startCluster(t, onDir)
	ns := c.namespace(t, "lasting")
	c.deployment(t, ns, "web", 3)
	c.deploymentReady(t, ns, "web", 3)
	eventually(t, "default class", func() string {
		_, err := c.StorageV1().StorageClasses().Get(t.Context(), "gantry-local", metav1.GetOptions{})
		return problem(err)
	})
	pvc := claim("data")
	if _, err := c.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), &pvc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.use(t, ns, "data")
	before := identities(c.pods(t, ns, ""))
	_, volumeBefore := c.volumeOf(t, ns, "data")
	c.stop()

	c = startCluster(t, onDir)
	if after := identities(c.pods(t, ns, "")); !slices.Equal(before, after) {
		t.Errorf("pods %v, were %v", after, before)
	}
	if _, volume := c.volumeOf(t, ns, "data"); volume != volumeBefore {
		t.Errorf("volume %s, was %s", volume, volumeBefore)
	}
	c.scale(t, ns, "web", 5)
	c.deploymentReady(t, ns, "web", 5)
	kept := identities(c.pods(t, ns, ""))
	for _, id := range before {
		if !slices.Contains(kept, id) {
			t.Errorf("%s was replaced", id)
		}
	}
}

func identities(pods []corev1.Pod) []string {
	var ids []string
	for _, p := range pods {
		ids = append(ids, fmt.Sprint(p.Name, " ", p.UID))
	}
	slices.Sort(ids)
	return ids
}
