package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/test/instance"
)

// TestAPodGetsTheSeccompProfileThatItAsksFor: as the API server hands pods out, by the
// pod and by one of its containers.
func TestAPodGetsTheSeccompProfileThatItAsksFor(t *testing.T) {
	c := start(t, instance.Options{})
	c.BaseImages(t)
	profiles := filepath.Join(c.DataDir, "seccomp")
	if err := os.MkdirAll(profiles, 0o755); err != nil {
		t.Fatal(err)
	}
	const noDirectories = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}`
	if err := os.WriteFile(filepath.Join(profiles, "no-directories.json"), []byte(noDirectories), 0o644); err != nil {
		t.Fatal(err)
	}
	name, grace := "no-directories.json", int64(0)
	container := func(name string, sc *v1.SecurityContext) v1.Container {
		return v1.Container{Name: name, Image: c.Registry + "/base/busybox:latest", Command: []string{"sh", "-c", "mkdir /tmp/d 2>&1; grep Seccomp: /proc/1/status; exec sleep 86400"}, SecurityContext: sc}
	}
	c.create(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "filtered"}, Spec: v1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		SecurityContext:               &v1.PodSecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: &name}},
		Containers: []v1.Container{
			container("pods", nil),
			container("default", &v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}}),
			container("free", &v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeUnconfined}}),
		},
	}})
	c.until("filtered", "running", running)
	for container, want := range map[string]string{
		"pods":    "mkdir: can't create directory '/tmp/d': Operation not supported Seccomp: 2",
		"default": "Seccomp: 2",
		"free":    "Seccomp: 0",
	} {
		var got string
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && !strings.Contains(got, "Seccomp"); <-time.After(50 * time.Millisecond) {
			log, err := c.client.CoreV1().Pods(namespace).GetLogs("filtered", &v1.PodLogOptions{Container: container}).DoRaw(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got = strings.Join(strings.Fields(string(log)), " ")
		}
		if got != want {
			t.Errorf("container %s says %q, want %q", container, got, want)
		}
	}
}
