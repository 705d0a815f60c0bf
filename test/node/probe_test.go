package node

import (
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

// TestGRPCProbes: readiness and liveness are asked over gRPC, each from the
// service that the probe names, and a service that is not serving is restarted.
func TestGRPCProbes(t *testing.T) {
	c := start(t, instance.Options{})
	program := filepath.Join(t.TempDir(), "health")
	check(t, testenv.Build(program, "./testdata/health"))
	content, err := os.ReadFile(program)
	check(t, err)
	image := c.Registry + "/test/health:1"
	push(t, image, imageOf(t, "health", 0o755, content))

	probe := func(service string) *v1.Probe {
		return &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: 9090, Service: &service}}}
	}
	well := pod("well", image)
	well.Spec.Volumes = []v1.Volume{{Name: "tmp", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
	main := &well.Spec.Containers[0]
	main.VolumeMounts = []v1.VolumeMount{{Name: "tmp", MountPath: "/tmp"}}
	main.ReadinessProbe, main.LivenessProbe = probe("ready"), probe("alive")
	main.StartupProbe = probe("ready")
	main.StartupProbe.FailureThreshold = 20
	c.create(well)
	unknown := pod("unknown", image)
	unknown.Spec.Containers[0].ReadinessProbe = probe("no-such-service")
	c.create(unknown)

	c.until("well", "ready", ready)
	c.exec("well", "/health", "sick")
	c.untilEvent("well", "Liveness probe failed: service unhealthy (responded with \"NOT_SERVING\")")
	c.until("well", "restarted", func(p *v1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount > 0 })
	c.untilEvent("unknown", "Readiness probe failed")
	if p := c.until("unknown", "running", running); ready(p) {
		t.Error("a pod is ready whose probe names a service that does not exist")
	}
}
