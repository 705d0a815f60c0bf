package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/test/instance"
)

// deployment is Gantry's side: the deployment that is scaled, with its service.
// Replicas count when they are ready and in the service's endpoints, and those
// that were taken away when their pods are gone, as a client sees it by watching.
type deployment struct {
	t      testing.TB
	in     *instance.Instance
	client *kubernetes.Clientset
}

const (
	namespace = "default"
	name      = "bench"
)

func newDeployment(t testing.TB, in *instance.Instance) *deployment {
	t.Helper()
	d := &deployment{t: t, in: in, client: in.Client(t)}
	labels := map[string]string{"app": name}
	none := int32(0)
	_, err := d.client.AppsV1().Deployments(namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &none,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec(in.Registry + "/" + imageName + ":latest")},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.client.CoreV1().Services(namespace).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// webServer ends when it is told to, as servers do. As the first process of a
// container busybox's own ignores the signal, and every system would only wait for
// the end of the grace period.
var webServer = []string{"sh", "-c", "trap 'exit 0' TERM; httpd -f -p 8080 & wait"}

// podSpec is a small web server as a team would deploy it: with limits, a probe
// and without privileges.
func podSpec(image string) corev1.PodSpec {
	no, yes, user, grace := false, true, int64(1000), int64(10)
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{
			Name:    "web",
			Image:   image,
			Command: webServer,
			Ports:   []corev1.ContainerPort{{ContainerPort: 8080}},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5m"), corev1.ResourceMemory: resource.MustParse("8Mi")},
				Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
			},
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}},
				PeriodSeconds: 1,
			},
			SecurityContext: &corev1.SecurityContext{RunAsUser: &user, RunAsNonRoot: &yes, AllowPrivilegeEscalation: &no},
		}},
	}
}

// scale changes the number of replicas and waits until that many serve.
func (d *deployment) scale(replicas int) {
	d.t.Helper()
	patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)
	_, err := d.client.AppsV1().Deployments(namespace).Patch(d.t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "scale")
	must(d.t, err)
	d.wait(replicas)
}

// wait returns when as many pods as wanted exist and are ready in the service's
// endpoints. It follows two watches, so that waiting costs next to nothing.
func (d *deployment) wait(replicas int) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	exist, ready := map[string]bool{}, map[string]int{}
	slices, err := d.client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, slice := range slices.Items {
		ready[slice.Name] = readyEndpoints(&slice)
	}
	list, err := d.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, pod := range list.Items {
		exist[pod.Name] = true
	}
	endpoints, err := d.client.DiscoveryV1().EndpointSlices(namespace).Watch(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + name, ResourceVersion: slices.ResourceVersion})
	if err != nil {
		d.t.Fatal(err)
	}
	defer endpoints.Stop()
	pods, err := d.client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: "app=" + name, ResourceVersion: list.ResourceVersion})
	if err != nil {
		d.t.Fatal(err)
	}
	defer pods.Stop()

	sum := func() (n int) {
		for _, count := range ready {
			n += count
		}
		return n
	}
	for len(exist) != replicas || sum() != replicas {
		select {
		case e, open := <-endpoints.ResultChan():
			if !open {
				d.t.Fatal("the watch of endpoint slices ended")
			}
			if slice, ok := e.Object.(*discoveryv1.EndpointSlice); ok {
				ready[slice.Name] = readyEndpoints(slice)
				if e.Type == watch.Deleted {
					delete(ready, slice.Name)
				}
			}
		case e, open := <-pods.ResultChan():
			if !open {
				d.t.Fatal("the watch of pods ended")
			}
			if pod, ok := e.Object.(*corev1.Pod); ok {
				exist[pod.Name] = true
				if e.Type == watch.Deleted {
					delete(exist, pod.Name)
				}
			}
		case <-ctx.Done():
			d.t.Fatalf("after %v, %d of %d pods serve and %d exist", patience, sum(), replicas, len(exist))
		}
	}
}

func readyEndpoints(slice *discoveryv1.EndpointSlice) (n int) {
	for _, e := range slice.Endpoints {
		if e.Conditions.Ready != nil && *e.Conditions.Ready {
			n++
		}
	}
	return n
}

// part says whose CPU time a process used: that of the nearest ancestor that names the data directory.
func (d *deployment) part(table map[int]process, pid int) part {
	for up := pid; up > 1; up = table[up].parent {
		if command := table[up].command; strings.Contains(command, d.in.DataDir) {
			if isShim(command) { // itself a child of serve, or of nobody
				return containers
			}
			return control
		}
	}
	return nobody
}

func isShim(command string) bool { return strings.Contains(command, "gantry-shim\x00serve") }

// memory is what Gantry's processes hold with a number of replicas.
func (d *deployment) memory(replicas int) memory {
	m := memory{Replicas: replicas, ServeMB: memorySizes("Pss", d.in.PID()), ServeAnonMB: memorySizes("Pss_Anon", d.in.PID())}
	for pid, p := range processes() {
		if !strings.Contains(p.command, d.in.DataDir) {
			continue
		}
		m.AllMB += memorySizes("Pss", pid)
		if isShim(p.command) {
			m.ShimMB += memorySizes("Rss", pid)
		}
	}
	return m
}

// imageName is what `gantry base busybox` calls its image.
const imageName = "base/busybox"

// layer is the root file system of the image, as a compressed archive.
func layer(t testing.TB, in *instance.Instance) []byte {
	t.Helper()
	get := func(path string) []byte {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+in.Registry+"/v2/"+imageName+path, nil)
		must(t, err)
		req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		must(t, err)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("read %s%s from the registry: %s: %s", imageName, path, resp.Status, data)
		}
		return data
	}
	var manifest struct{ Layers []struct{ Digest string } }
	must(t, json.Unmarshal(get("/manifests/latest"), &manifest))
	if len(manifest.Layers) != 1 {
		t.Fatalf("%s has %d layers", imageName, len(manifest.Layers))
	}
	return get("/blobs/" + manifest.Layers[0].Digest)
}
