package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

// scaleTo is how many replicas the deployment grows to.
const scaleTo = 50

// patience bounds the wait for one step.
const patience = 5 * time.Minute

// settling is how long memory is left alone before it is measured: the collector
// and the kernel take back what starting up needed in their own time.
const settling = 20 * time.Second

// result is one line of the table. Times are until every replica is ready and
// its address is in the service's endpoints, as a client sees it by watching.
type result struct {
	Step             string  `json:"step"`
	Milliseconds     float64 `json:"milliseconds"`
	Pods             int     `json:"pods"`
	ServeCPUPerPod   float64 `json:"serveCPUMillisecondsPerPod"`   // Gantry without the shim
	ShimCPUPerPod    float64 `json:"shimCPUMillisecondsPerPod"`    // the shim, the OCI runtime and the containers
	MachineCPUPerPod float64 `json:"machineCPUMillisecondsPerPod"` // everything, kernel included
}

// report is what a run prints as JSON.
type report struct {
	IdleMemoryMB   float64  `json:"idleMemoryMB"`
	LoadedMemoryMB float64  `json:"loadedMemoryMB"` // with all replicas
	Results        []result `json:"results"`
}

// BenchmarkScaleOut grows a deployment from 1 to 50 replicas through the
// Kubernetes API, adds single ones, and takes all away.
func BenchmarkScaleOut(b *testing.B) {
	testenv.NeedContainers(b)
	for b.Loop() {
		in := instance.Start(b, instance.Options{})
		in.BaseImages(b)
		d := newDeployment(b, in)
		time.Sleep(settling)
		r := report{IdleMemoryMB: memory(b, in.DataDir)}
		r.Results = append(r.Results, d.step("first", 1))
		r.Results = append(r.Results, d.step(fmt.Sprintf("1 to %d", scaleTo), scaleTo))
		r.LoadedMemoryMB = memory(b, in.DataDir)
		var single []result
		for n := range 5 {
			single = append(single, d.step("one more (median of 5)", scaleTo+1+n))
		}
		slices.SortFunc(single, func(a, b result) int { return int(a.Milliseconds - b.Milliseconds) })
		r.Results = append(r.Results, single[len(single)/2])
		r.Results = append(r.Results, d.step("all to none", 0))
		d.remove()
		r.print(b)
	}
}

// deployment is the one that is scaled, with its service.
type deployment struct {
	t        testing.TB
	in       *instance.Instance
	client   *kubernetes.Clientset
	replicas int
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
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec(in.Registry + "/base/busybox:latest")},
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

// podSpec is a small web server as a team would deploy it: with limits, a probe
// and without privileges.
func podSpec(image string) corev1.PodSpec {
	no, yes, user, grace := false, true, int64(1000), int64(1)
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{
			Name:    "web",
			Image:   image,
			Command: []string{"httpd", "-f", "-p", "8080"},
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

// step scales to a number of replicas and waits until that many serve.
func (d *deployment) step(title string, replicas int) result {
	d.t.Helper()
	changed := max(replicas-d.replicas, d.replicas-replicas)
	before, began := measure(d.t, d.in.DataDir), time.Now()
	patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)
	_, err := d.client.AppsV1().Deployments(namespace).Patch(d.t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "scale")
	if err != nil {
		d.t.Fatal(err)
	}
	d.wait(replicas)
	took, used := time.Since(began), measure(d.t, d.in.DataDir).since(before)
	d.replicas = replicas
	perPod := func(cpu time.Duration) float64 { return cpu.Seconds() * 1000 / float64(changed) }
	return result{Step: title, Milliseconds: took.Seconds() * 1000, Pods: changed, ServeCPUPerPod: perPod(used.serve), ShimCPUPerPod: perPod(used.shim), MachineCPUPerPod: perPod(used.machine)}
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

func (d *deployment) remove() {
	d.t.Helper()
	if err := d.client.AppsV1().Deployments(namespace).Delete(d.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		d.t.Fatal(err)
	}
	if err := d.client.CoreV1().Services(namespace).Delete(d.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		d.t.Fatal(err)
	}
}

// print writes the table for people, the JSON for programs, and the metrics for
// benchstat.
func (r report) print(b *testing.B) {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "step\ttime ms\tpods\tserve CPU ms/pod\tshim CPU ms/pod\tmachine CPU ms/pod\t")
	for _, s := range r.Results {
		fmt.Fprintf(w, "%s\t%.0f\t%d\t%.1f\t%.1f\t%.1f\t\n", s.Step, s.Milliseconds, s.Pods, s.ServeCPUPerPod, s.ShimCPUPerPod, s.MachineCPUPerPod)
	}
	w.Flush()
	fmt.Fprintf(&text, "memory: idle %.0f MB, with %d pods %.0f MB\n", r.IdleMemoryMB, scaleTo, r.LoadedMemoryMB)
	line, err := json.Marshal(r)
	if err != nil {
		b.Fatal(err)
	}
	fmt.Fprintf(os.Stdout, "\n%s%s\n", text.String(), line)
	b.ReportMetric(r.Results[1].Milliseconds, "ms/scale-out")
	b.ReportMetric(r.Results[1].ServeCPUPerPod+r.Results[1].ShimCPUPerPod, "cpu-ms/pod")
	b.ReportMetric(r.Results[2].Milliseconds, "ms/one-more")
	b.ReportMetric(r.IdleMemoryMB, "idle-MB")
}
