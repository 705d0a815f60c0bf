package crash

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
	"github.com/gantryhq/gantry/test/leak"
)

// TestUpAndDownLeavesNothing scales a deployment up and to nothing again and again:
// after each tide there is no trace of it. GANTRY_TIDE is how many replicas.
func TestUpAndDownLeavesNothing(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	replicas := fromEnv(t, "GANTRY_TIDE", 30)
	in := instance.Start(t, instance.Options{})
	in.BaseImages(t)
	client := in.Client(t)
	d := deployment("tide", in.Registry+"/base/busybox:latest", 0, "sleep 86400")
	if _, err := client.AppsV1().Deployments(namespace).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	scale := func(n int) {
		t.Helper()
		patch := []byte(fmt.Sprintf(`{"spec":{"replicas":%d}}`, n))
		if _, err := client.AppsV1().Deployments(namespace).Patch(t.Context(), "tide", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		waitFor(t, 3*time.Minute, fmt.Sprintf("%d pods", n), func() bool {
			is, err := client.AppsV1().Deployments(namespace).Get(t.Context(), "tide", metav1.GetOptions{})
			pods, err2 := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
			return err == nil && err2 == nil && int(is.Status.AvailableReplicas) == n && len(pods.Items) == n
		})
	}
	for range 3 {
		began := time.Now()
		scale(replicas)
		up := time.Since(began)
		scale(0)
		t.Logf("up to %d in %s, and down in %s", replicas, up.Round(time.Millisecond), (time.Since(began) - up).Round(time.Millisecond))
		leak.Check(t, in)
	}
}
