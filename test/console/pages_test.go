package console

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

const (
	manyPods   = 200
	manyRoutes = 50
)

// BenchmarkPages measures how long the pages take until they can be used, with many pods and routes.
func BenchmarkPages(b *testing.B) {
	testenv.NeedContainers(b)
	needBrowser(b)
	in := instance.Start(b, instance.Options{Args: []string{"--metrics-interval", "5s"}})
	in.BaseImages(b)
	kubectl(b, in, crowd(in), "apply", "-f", "-")
	for i := range manyPods / 20 {
		kubectl(b, in, "", "rollout", "status", "-n", "crowd", fmt.Sprintf("deployment/web-%d", i), "--timeout=120s")
	}
	for b.Loop() {
		told, err := json.Marshal(map[string]any{"link": consoleLink(b, in), "runs": 3, "paths": []string{"/namespaces/crowd", "/workloads/crowd/deployment/web-0"}})
		if err != nil {
			b.Fatal(err)
		}
		out, err := exec.CommandContext(b.Context(), "node", "timings.mjs", string(told)).CombinedOutput()
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		var answer struct {
			Found map[string]struct{ Cold, Warm float64 }
			Wrong []string
		}
		if err := json.Unmarshal(out, &answer); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		if len(answer.Wrong) > 0 {
			b.Errorf("errors of the pages: %v", answer.Wrong)
		}
		b.ReportMetric(float64(bundle(b))/1024, "KB-compressed")
		for path, ms := range answer.Found {
			b.ReportMetric(ms.Cold, path+"-ms-opened")
			b.ReportMetric(ms.Warm, path+"-ms-reached")
		}
	}
}

// bundle is how many bytes all pages take over the network.
func bundle(b *testing.B) (total int) {
	files, err := filepath.Glob("../../services/console/dist/assets/*")
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range append(files, "../../services/console/dist/index.html") {
		text, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		_, _ = z.Write(text) // into memory
		_ = z.Close()
		total += out.Len()
	}
	return total
}

// crowd is many workloads of 20 pods each, and routes to them.
func crowd(in *instance.Instance) string {
	var all strings.Builder
	all.WriteString("apiVersion: v1\nkind: Namespace\nmetadata: {name: crowd}\n")
	for i := range manyPods / 20 {
		fmt.Fprintf(&all, `---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-%[1]d, namespace: crowd}
spec:
  replicas: 20
  selector: {matchLabels: {app: web-%[1]d}}
  template:
    metadata: {labels: {app: web-%[1]d}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: web, image: "%[2]s/base/busybox:latest", command: [sleep, "100000"], resources: {requests: {memory: 1Mi}}}]
---
apiVersion: v1
kind: Service
metadata: {name: web-%[1]d, namespace: crowd}
spec: {selector: {app: web-%[1]d}, ports: [{port: 80, targetPort: 8080}]}
`, i, in.Registry)
	}
	for i := range manyRoutes {
		fmt.Fprintf(&all, `---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web-%[1]d, namespace: crowd}
spec:
  parentRefs: [{name: default, namespace: gantry-system}]
  hostnames: [web-%[1]d.crowd.localhost]
  rules: [{backendRefs: [{name: web-%[2]d, port: 80}]}]
`, i, i%(manyPods/20))
	}
	return all.String()
}
