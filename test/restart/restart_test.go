// Package restart restarts and changes everything under traffic and counts what clients
// notice: `gantry serve`, and what it runs (changes_test.go).
//
// Pods that serve and a pod that asks run all the time; so does a client outside the
// cluster. `gantry serve` is ended again and again, politely and by kill -9 in turn,
// and started again. Traffic must not notice: not one request through the service's
// address or through the gateway may fail, and no lookup of a name in cluster DNS.
//
// GANTRY_RESTARTS says how often, usually 4 times, and GANTRY_RESTART_RATE with how many
// requests per second on each way, usually 250; `make restarts` does it a hundred times
// with a thousand. GANTRY_CHANGES and GANTRY_CHANGE_RATE are the same for changes:
// `make changes` makes a thousand under 2,000 requests per second. What a busy machine cannot
// carry of that is not sent, and counted as held back: on one with many more busy processes than
// processors the clients would wait for themselves, and connections time out that they have not
// got around to using.
package restart

import (
	"cmp"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

const (
	namespace = "default"
	replicas  = 3
	host      = "restart.test"

	lookupRate = 50 // per second
)

func TestRestartsUnderTraffic(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	times, rate := number(t, "GANTRY_RESTARTS", 4), number(t, rateEnv, 250)
	s := startStory(t)
	before := s.containers()

	ctx, cancel := context.WithCancel(t.Context())
	outside := make(chan *Outcome, 1)
	web := &asker{addr: s.in.Gateway, host: host}
	go func() { outside <- load{"gateway", rate, web.ask}.run(ctx) }()
	s.startClient(rate)
	var away []time.Duration
	var diary []string
	for i := range times {
		<-time.After(300 * time.Millisecond)
		began, signal := time.Now(), []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[i%2]
		s.in.Stop(t, signal)
		ended := time.Now()
		s.in.Serve(t)
		away = append(away, time.Since(began))
		const clock = "15:04:05.000"
		diary = append(diary, fmt.Sprintf("%v at %s, ended at %s, ready again at %s", signal, began.Format(clock), ended.Format(clock), time.Now().Format(clock)))
	}
	<-time.After(300 * time.Millisecond)
	cancel()
	outcomes := append(s.stopClient(), <-outside)

	s.report(times, away, outcomes)
	for _, o := range outcomes {
		if len(o.Failures) > 0 {
			t.Errorf("%s: %d of %d requests failed, the first:\n%s", o.Kind, len(o.Failures), o.requests(),
				strings.Join(o.Failures[:min(10, len(o.Failures))], "\n"))
		}
		if o.requests() < times*lookupRate/2 {
			t.Errorf("%s: only %d requests were sent", o.Kind, o.requests())
		}
	}
	if t.Failed() {
		t.Logf("the restarts:\n%s", strings.Join(diary, "\n"))
	}
	if after := s.containers(); after != before {
		t.Errorf("containers were\n%s\nand are\n%s", before, after)
	}
}

func number(t *testing.T, variable string, usual int) int {
	t.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv(variable), strconv.Itoa(usual)))
	if err != nil {
		t.Fatalf("%s=%q is no number", variable, os.Getenv(variable))
	}
	return n
}

// story is the instance and what runs in it.
type story struct {
	t      *testing.T
	in     *instance.Instance
	client *kubernetes.Clientset
	shared string // directory on the host that the pods see at mountPath
}

func startStory(t *testing.T) *story {
	t.Helper()
	s := &story{t: t, shared: t.TempDir()}
	must(t, os.Chmod(s.shared, 0o777))
	s.copyProgram()
	s.in = instance.Start(t, instance.Options{})
	s.in.BaseImages(t)
	s.client = s.in.Client(t)
	ctx, labels := t.Context(), map[string]string{"app": "web"}
	_, err := s.client.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(replicas)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: s.serverSpec()},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = s.client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = s.client.NetworkingV1().Ingresses(namespace).Create(ctx, &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{
			HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
				Path: "/", PathType: new(networkingv1.PathTypePrefix),
				Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}}},
			}}},
		}}}},
	}, metav1.CreateOptions{})
	must(t, err)
	s.waitFor("all replicas to be available", func() bool {
		d, err := s.client.AppsV1().Deployments(namespace).Get(ctx, "web", metav1.GetOptions{})
		return err == nil && d.Status.AvailableReplicas == replicas
	})
	s.waitFor("the gateway to lead there", func() bool { return (&asker{addr: s.in.Gateway, host: host, fresh: true}).ask(ctx) == nil })
	return s
}

// copyProgram puts this program where the pods see it.
func (s *story) copyProgram() {
	s.t.Helper()
	self, err := elf.Open("/proc/self/exe")
	must(s.t, err)
	libraries, err := self.ImportedLibraries()
	must(s.t, errors.Join(err, self.Close()))
	if len(libraries) > 0 {
		s.t.Fatalf("this program needs %v, which the pods do not have: test with CGO_ENABLED=0, as `make test` does", libraries)
	}
	from, err := os.Open("/proc/self/exe")
	must(s.t, err)
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(s.shared, "program"), os.O_CREATE|os.O_WRONLY, 0o755)
	must(s.t, err)
	_, err = io.Copy(to, from)
	must(s.t, errors.Join(err, to.Close()))
}

// serverSpec runs the server, which is ready when it answers.
func (s *story) serverSpec() corev1.PodSpec {
	spec := s.podSpec(corev1.EnvVar{Name: roleEnv, Value: roleServer})
	spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)},
	}}
	return spec
}

// podSpec runs this program in a role.
func (s *story) podSpec(env ...corev1.EnvVar) corev1.PodSpec {
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(1)),
		Volumes: []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: s.shared},
		}}},
		Containers: []corev1.Container{{
			Name: "main", Image: s.in.Registry + "/base/busybox:latest", Command: []string{mountPath + "/program"}, Env: env,
			VolumeMounts: []corev1.VolumeMount{{Name: "shared", MountPath: mountPath}},
			// Without, it would come after everything else on the machine.
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("300m")}},
		}},
	}
}

func (s *story) startClient(rate int) {
	s.t.Helper()
	service, err := s.client.CoreV1().Services(namespace).Get(s.t.Context(), "web", metav1.GetOptions{})
	must(s.t, err)
	spec := s.podSpec(corev1.EnvVar{Name: roleEnv, Value: roleClient},
		corev1.EnvVar{Name: serviceEnv, Value: service.Spec.ClusterIP + ":80"}, corev1.EnvVar{Name: rateEnv, Value: strconv.Itoa(rate)})
	spec.RestartPolicy = corev1.RestartPolicyNever
	_, err = s.client.CoreV1().Pods(namespace).Create(s.t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "client"}, Spec: spec}, metav1.CreateOptions{})
	must(s.t, err)
	s.waitFor("the client to run", func() bool {
		p, err := s.client.CoreV1().Pods(namespace).Get(s.t.Context(), "client", metav1.GetOptions{})
		return err == nil && p.Status.Phase == corev1.PodRunning
	})
}

// stopClient returns what the client met.
func (s *story) stopClient() []*Outcome {
	s.t.Helper()
	must(s.t, os.WriteFile(filepath.Join(s.shared, stopFile), nil, 0o644))
	var data []byte
	s.waitFor("the client's outcomes", func() bool {
		var err error
		data, err = os.ReadFile(filepath.Join(s.shared, resultFile))
		return !errors.Is(err, fs.ErrNotExist)
	})
	var out []*Outcome
	must(s.t, json.Unmarshal(data, &out))
	return out
}

// containers is a text that changes when a container is replaced or restarted, or its
// pod moves to another address.
func (s *story) containers() string {
	s.t.Helper()
	var text string
	s.waitFor("the statuses of all pods", func() bool {
		pods, err := s.client.CoreV1().Pods(namespace).List(s.t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil || len(pods.Items) != replicas {
			return false
		}
		var lines []string
		for _, p := range pods.Items {
			if len(p.Status.ContainerStatuses) != 1 || p.Status.ContainerStatuses[0].ContainerID == "" {
				return false
			}
			c := p.Status.ContainerStatuses[0]
			lines = append(lines, fmt.Sprintf("%s %s %s restarts=%d", p.Name, p.Status.PodIP, c.ContainerID, c.RestartCount))
		}
		text = strings.Join(lines, "\n")
		return true
	})
	return text
}

// report prints the table.
func (s *story) report(times int, away []time.Duration, outcomes []*Outcome) {
	s.t.Helper()
	var total time.Duration
	for _, d := range away {
		total += d
	}
	fmt.Printf("%d restarts, by SIGTERM and SIGKILL in turn, %v away on average\n", times, (total / time.Duration(max(times, 1))).Round(time.Millisecond))
	s.table(outcomes)
}

// table prints how the requests went.
func (s *story) table(outcomes []*Outcome) {
	s.t.Helper()
	round := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\trequests\tfailed\theld back\tp50\tp99\tlongest\t")
	for _, o := range outcomes {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%v\t%v\t%v\t\n", o.Kind, o.requests(), len(o.Failures), o.Held, round(o.quantile(0.5)), round(o.quantile(0.99)), round(o.quantile(1)))
	}
	must(s.t, w.Flush())
}

func (s *story) waitFor(what string, done func() bool) {
	s.t.Helper()
	const limit = time.Minute
	for deadline := time.Now().Add(limit); !done(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			pods, err := s.client.CoreV1().Pods(namespace).List(s.t.Context(), metav1.ListOptions{})
			must(s.t, err)
			for _, p := range pods.Items {
				s.t.Logf("pod %s: %s, %+v", p.Name, p.Status.Phase, p.Status.ContainerStatuses)
			}
			s.t.Fatalf("waited %s for %s", limit, what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
