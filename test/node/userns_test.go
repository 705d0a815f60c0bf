package node

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/gantryhq/gantry/test/instance"
)

// idsOf reads which host id is root in a pod.
func (c *cluster) idsOf(pod string) uint64 {
	c.t.Helper()
	f := strings.Fields(c.exec(pod, "cat", "/proc/self/uid_map"))
	if len(f) != 3 || f[0] != "0" || f[2] != "65536" {
		c.t.Fatalf("uid_map of %s: %v", pod, f)
	}
	first, err := strconv.ParseUint(f[1], 10, 32)
	if err != nil || first < 65536 {
		c.t.Fatalf("root of %s is id %s on the host", pod, f[1])
	}
	return first
}

func TestPodsWithUserNamespacesShareNoIDs(t *testing.T) {
	c := start(t, instance.Options{Args: []string{"--runtime", "gantry"}})
	c.BaseImages(t)
	no, group, grace := false, int64(2000), int64(0)
	if _, err := c.client.CoreV1().Secrets(namespace).Create(t.Context(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"key": "secret"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	mode := int32(0o400)
	pod := func(name string) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{
			HostUsers: &no, TerminationGracePeriodSeconds: &grace,
			SecurityContext: &v1.PodSecurityContext{FSGroup: &group},
			Containers: []v1.Container{{
				Name: "a", Image: c.Registry + "/base/busybox:latest",
				Command:        []string{"sh", "-c", "echo kept > /data/file; exec httpd -f -p 80"},
				ReadinessProbe: &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(80)}}},
				VolumeMounts:   []v1.VolumeMount{{Name: "data", MountPath: "/data"}, {Name: "s", MountPath: "/s"}},
			}},
			Volumes: []v1.Volume{
				{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
				{Name: "s", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s", DefaultMode: &mode}}},
			},
		}}
	}
	var uid string
	for _, name := range []string{"one", "two"} {
		c.create(pod(name))
		uid = string(c.until(name, "ready", ready).UID) // also: root serves port 80
	}
	one, two := c.idsOf("one"), c.idsOf("two")
	if one == two {
		t.Errorf("both pods have the ids from %d", one)
	}
	if got := c.exec("two", "cat", "/s/key", "/data/file"); got != "secretkept\n" {
		t.Errorf("its volumes read %q", got)
	}
	if got := c.exec("two", "stat", "-c", "%u:%g", "/bin", "/etc/hosts", "/data/file"); got != "0:0\n0:0\n0:2000\n" {
		t.Errorf("inside, root's files belong to %q", got)
	}
	var st syscall.Stat_t
	file := filepath.Join(c.DataDir, "pods", uid, "volumes/kubernetes.io~empty-dir/data/file")
	if err := syscall.Stat(file, &st); err != nil || st.Uid != 0 {
		t.Errorf("on disk the volume's file belongs to %d, %v: want the id of inside", st.Uid, err)
	}
	if owner := c.ownerOfProcess("two", "httpd"); owner != two {
		t.Errorf("on the host the process belongs to %d, want %d", owner, two)
	}

	c.Stop(t, syscall.SIGKILL)
	c.Serve(t)
	if c.idsOf("one") != one || c.idsOf("two") != two {
		t.Error("a restart of serve changed the ids")
	}
	for _, name := range []string{"one", "two"} {
		if err := c.client.CoreV1().Pods(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); ; <-time.After(50 * time.Millisecond) {
			if _, err := c.client.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("pod %s is still there", name)
			}
		}
	}
	for deadline := time.Now().Add(20 * time.Second); len(c.claims()) > 0; <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("ids of pods that are gone are still claimed: %v", c.claims())
		}
	}
}

// claims lists the user ids that pods of this instance have.
func (c *cluster) claims() (claims []string) {
	links, _ := filepath.Glob("/run/gantry/ids/*")
	for _, link := range links {
		if target, _ := os.Readlink(link); strings.HasPrefix(target, c.DataDir) {
			claims = append(claims, link)
		}
	}
	return claims
}

// ownerOfProcess finds a process of a pod on the host, by its user namespace, and
// returns whom it belongs to.
func (c *cluster) ownerOfProcess(pod, command string) uint64 {
	c.t.Helper()
	want := strings.TrimSpace(c.exec(pod, "readlink", "/proc/1/ns/user"))
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		line, _ := os.ReadFile(dir + "/cmdline")
		if ns, err := os.Readlink(dir + "/ns/user"); err != nil || ns != want || !strings.HasPrefix(string(line), command) {
			continue
		}
		var st syscall.Stat_t
		if err := syscall.Stat(dir, &st); err != nil {
			c.t.Fatal(err)
		}
		return uint64(st.Uid)
	}
	c.t.Fatalf("no process %s of pod %s on the host", command, pod)
	return 0
}
