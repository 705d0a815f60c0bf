package timeline_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
	"github.com/gantryhq/gantry/test/timeline"
)

const (
	namespace = "default"
	name      = "timeline"
	// oneMore is how often a single replica is added.
	oneMore = 15
	// pause lets what follows a step, such as events, end before the next.
	pause    = 500 * time.Millisecond
	patience = 2 * time.Minute
)

// BenchmarkTimeline scales 1→N, one more several times, and to none on a real
// instance, and prints where the time went. N is 50 or TIMELINE_REPLICAS.
// GANTRY_PROGRAM names the program, TIMELINE_ARGS one more flag of `gantry
// serve`, such as --runtime=gantry. TIMELINE_KUBECONFIG and TIMELINE_DATA_DIR
// measure an instance that runs already, for example one that is profiled.
func BenchmarkTimeline(b *testing.B) {
	testenv.NeedContainers(b)
	replicas := 50
	if n, err := strconv.Atoi(os.Getenv("TIMELINE_REPLICAS")); err == nil {
		replicas = n
	}
	for b.Loop() {
		s := newSubject(b)
		s.step(1)
		s.step(replicas)
		s.line.Print(os.Stdout, fmt.Sprintf("\n1 to %d", replicas))
		var runs [][]timeline.Row
		for i := range oneMore {
			s.step(replicas + i + 1)
			runs = append(runs, s.line.Rows())
		}
		timeline.PrintMedian(os.Stdout, "\none more", runs)
		s.step(0)
		s.line.Print(os.Stdout, fmt.Sprintf("\n%d to none", replicas+oneMore))
		s.remove()
	}
}

type subject struct {
	b       *testing.B
	client  kubernetes.Interface
	dataDir string
	line    *timeline.Timeline
}

func newSubject(b *testing.B) *subject {
	b.Helper()
	s := &subject{b: b}
	var image string
	if path := os.Getenv("TIMELINE_KUBECONFIG"); path != "" {
		config, err := clientcmd.BuildConfigFromFlags("", path)
		if err != nil {
			b.Fatal(err)
		}
		s.client, s.dataDir, image = kubernetes.NewForConfigOrDie(protobuf(config)), os.Getenv("TIMELINE_DATA_DIR"), os.Getenv("TIMELINE_IMAGE")
	} else {
		var args []string
		if one := os.Getenv("TIMELINE_ARGS"); one != "" {
			args = append(args, one)
		}
		in := instance.Start(b, instance.Options{Args: args})
		in.BaseImages(b)
		s.client, s.dataDir, image = kubernetes.NewForConfigOrDie(protobuf(in.Config(b))), in.DataDir, in.Registry+"/base/busybox:latest"
	}
	s.deploy(image)
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(cancel)
	var err error
	if s.line, err = timeline.Follow(ctx, s.client, namespace, name); err != nil {
		b.Fatal(err)
	}
	return s
}

func protobuf(c *rest.Config) *rest.Config {
	c.ContentType, c.AcceptContentTypes, c.QPS = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf", -1
	return c
}

// deploy makes what test/bench scales too: a small web server with limits and a probe.
func (s *subject) deploy(image string) {
	s.b.Helper()
	none, no, yes, user, grace := int32(0), false, true, int64(1000), int64(1)
	labels := map[string]string{"app": name}
	_, err := s.client.AppsV1().Deployments(namespace).Create(s.b.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &none, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				TerminationGracePeriodSeconds: &grace,
				Containers: []corev1.Container{{
					Name: "web", Image: image, Command: []string{"httpd", "-f", "-p", "8080"},
					Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
					Resources: corev1.ResourceRequirements{
						Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5m"), corev1.ResourceMemory: resource.MustParse("8Mi")},
						Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
					},
					ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
						TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}},
					SecurityContext: &corev1.SecurityContext{RunAsUser: &user, RunAsNonRoot: &yes, AllowPrivilegeEscalation: &no},
				}},
			}}},
	}, metav1.CreateOptions{})
	if err != nil {
		s.b.Fatal(err)
	}
	_, err = s.client.CoreV1().Services(namespace).Create(s.b.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		s.b.Fatal(err)
	}
}

// step scales and waits until as many pods serve.
func (s *subject) step(replicas int) {
	s.b.Helper()
	time.Sleep(pause)
	ctx, cancel := context.WithTimeout(s.b.Context(), patience)
	defer cancel()
	s.line.Begin()
	patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)
	if _, err := s.client.AppsV1().Deployments(namespace).Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "scale"); err != nil {
		s.b.Fatal(err)
	}
	if err := s.line.Wait(ctx, replicas); err != nil {
		s.b.Fatal(err)
	}
	s.line.AddFiles(s.dataDir)
}

func (s *subject) remove() {
	s.b.Helper()
	if err := s.client.AppsV1().Deployments(namespace).Delete(s.b.Context(), name, metav1.DeleteOptions{}); err != nil {
		s.b.Error(err)
	}
	if err := s.client.CoreV1().Services(namespace).Delete(s.b.Context(), name, metav1.DeleteOptions{}); err != nil {
		s.b.Error(err)
	}
}
