package node

import (
	"crypto/rand"
	"io"
	"log"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/test/instance"
)

// diskMiB is the size of the small disk: the node keeps 5 % of it free, and
// removes images below twice as much.
const diskMiB = 400

// TestDiskNearlyFull: images that nobody uses go first; when that is not enough,
// the pod that writes most is evicted, new pods stay away until there is space,
// and the others run on.
func TestDiskNearlyFull(t *testing.T) {
	disk := instance.SmallDisk(t, diskMiB)
	c := start(t, instance.Options{DataDir: disk})
	c.BaseImages(t)
	busybox := c.Registry + "/base/busybox:latest"
	seen := c.watchPressure()

	quiet := pod("quiet", busybox, "sleep", "infinity")
	writer := pod("writer", busybox, "sleep", "infinity")
	withVolume(writer, nil)
	limited := pod("limited", busybox, "sleep", "infinity")
	limit := resource.MustParse("4Mi")
	withVolume(limited, &limit)
	for _, p := range []*v1.Pod{quiet, writer, limited} {
		c.create(p)
		c.until(p.Name, "running", running)
	}

	// A volume that outgrows its own limit costs only its own pod.
	c.exec("limited", "dd", "if=/dev/zero", "of=/data/file", "bs=1M", "count=6")
	c.evicted("limited", `Usage of EmptyDir volume "data" exceeds the limit "4Mi"`)

	unused := c.pullUnused()
	c.fill("writer", "first", instance.FreeMiB(t, disk)-diskMiB*7/100)
	c.untilNode("without the image that nobody uses", func(n *v1.Node) bool { return !holds(n, unused) })
	if seen.Load() {
		t.Error("the node told disk pressure although removing an image was enough")
	}
	if p := c.until("writer", "running", running); p.Status.Reason != "" {
		t.Errorf("writer is %s: %s", p.Status.Reason, p.Status.Message)
	}

	c.fill("writer", "second", instance.FreeMiB(t, disk)-diskMiB*2/100)
	c.untilNode("under disk pressure", func(n *v1.Node) bool { return underPressure(n) && tainted(n) })
	c.create(pod("late", busybox, "sleep", "infinity"))
	c.evicted("writer", "The node was low on resource: ephemeral-storage.")
	c.untilEvent("late", "untolerated taint")

	c.untilNode("free of disk pressure", func(n *v1.Node) bool { return !underPressure(n) && !tainted(n) })
	c.until("late", "running", running)
	if p := c.until("quiet", "running", running); p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("the pod that wrote nothing was restarted")
	}
}

// withVolume gives a pod an emptyDir on disk at /data.
func withVolume(p *v1.Pod, limit *resource.Quantity) {
	p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: limit}}}}
	p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
}

// pullUnused has the node pull an image of 40 MiB that no pod uses thereafter.
func (c *cluster) pullUnused() (image string) {
	elsewhere := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	c.t.Cleanup(elsewhere.Close)
	image = strings.TrimPrefix(elsewhere.URL, "http://") + "/test/unused:1"
	content := make([]byte, 40<<20)
	_, err := rand.Read(content)
	check(c.t, err)
	push(c.t, image, imageOf(c.t, "ballast", 0o644, content))
	user := pod("user", image)
	user.Spec.RestartPolicy = v1.RestartPolicyNever
	c.create(user)
	c.untilNode("holding the image", func(n *v1.Node) bool { return holds(n, image) })
	check(c.t, c.client.CoreV1().Pods(namespace).Delete(c.t.Context(), "user", metav1.DeleteOptions{}))
	return image
}

func (c *cluster) fill(pod, file string, mib int) {
	c.t.Helper()
	c.exec(pod, "dd", "if=/dev/zero", "of=/data/"+file, "bs=1M", "count="+strconv.Itoa(mib))
}

func (c *cluster) evicted(pod, why string) {
	c.t.Helper()
	p := c.until(pod, "evicted", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed && p.Status.Reason == "Evicted" })
	if !strings.Contains(p.Status.Message, why) {
		c.t.Errorf("the message of %s is %q, want %q", pod, p.Status.Message, why)
	}
	c.untilEvent(pod, "Evicted: "+why)
}

func (c *cluster) untilNode(what string, ok func(*v1.Node) bool) {
	c.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; <-time.After(50 * time.Millisecond) {
		list, err := c.client.CoreV1().Nodes().List(c.t.Context(), metav1.ListOptions{})
		if err == nil && len(list.Items) == 1 && ok(&list.Items[0]) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the node is not %s (%v): %d MiB free\n%+v", what, err, instance.FreeMiB(c.t, c.DataDir), list.Items)
		}
	}
}

// watchPressure says whether the node was ever under disk pressure.
func (c *cluster) watchPressure() *atomic.Bool {
	c.t.Helper()
	w, err := c.client.CoreV1().Nodes().Watch(c.t.Context(), metav1.ListOptions{})
	check(c.t, err)
	c.t.Cleanup(w.Stop)
	var seen atomic.Bool
	go func() {
		for e := range w.ResultChan() {
			if n, ok := e.Object.(*v1.Node); ok && underPressure(n) {
				seen.Store(true)
			}
		}
	}()
	return &seen
}

func underPressure(n *v1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeDiskPressure {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

func tainted(n *v1.Node) bool {
	for _, t := range n.Spec.Taints {
		if t.Key == v1.TaintNodeDiskPressure {
			return true
		}
	}
	return false
}

func holds(n *v1.Node, image string) bool {
	for _, i := range n.Status.Images {
		for _, name := range i.Names {
			if name == image {
				return true
			}
		}
	}
	return false
}
