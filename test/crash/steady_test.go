package crash

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/gantryhq/gantry/internal/process"
)

const (
	steadyPods = 3
	steadyHost = "steady.test"
	stray      = "86400" // what an exec sleeps that nobody waits for
)

// steadyCommand counts on its log, serves a page, and lets probes be counted.
const steadyCommand = `mkdir -p /www; echo fine > /www/index.html; httpd -p 8080 -h /www
i=0; while true; do i=$((i+1)); echo "line $i"; sleep 0.05; done`

// steady are pods that nobody touches: whatever dies around them, they run on.
type steady struct {
	s       *siege
	service *corev1.Service
	pods    []*steadyPod
}

// steadyPod is one of them and what was seen of it.
type steadyPod struct {
	name, uid, containerID, ip string
	process                    process.Handle // of its first process
	lines                      int            // read so far, without a gap
	probes                     int
}

func newSteady(s *siege) *steady {
	s.t.Helper()
	st := &steady{s: s}
	ctx, labels := s.t.Context(), map[string]string{"app": "steady"}
	service, err := s.client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "steady"},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	st.service = service
	d := deployment("steady", s.in.Registry+"/base/busybox:latest", steadyPods, steadyCommand)
	c := &d.Spec.Template.Spec.Containers[0]
	c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 10,
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}}
	c.LivenessProbe = &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 10,
		ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo x >> /probes"}}}}
	if _, err := s.client.AppsV1().Deployments(namespace).Create(ctx, d, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	st.expose()
	waitFor(s.t, time.Minute, "the steady pods", func() bool { return st.find() })
	return st
}

// expose makes the service reachable through the gateway.
func (st *steady) expose() {
	st.s.t.Helper()
	prefix := networkingv1.PathTypePrefix
	_, err := st.s.client.NetworkingV1().Ingresses(namespace).Create(st.s.t.Context(), &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: "steady"},
		Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{{Host: steadyHost, IngressRuleValue: networkingv1.IngressRuleValue{
			HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &prefix,
				Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "steady", Port: networkingv1.ServiceBackendPort{Number: 80}}}}}},
		}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		st.s.t.Fatal(err)
	}
}

func (st *steady) address() string { return st.service.Spec.ClusterIP + ":80" }

// find notes the pods once all are ready.
func (st *steady) find() bool {
	list := st.list()
	st.pods = nil
	for _, p := range list {
		if len(p.Status.ContainerStatuses) != 1 || !p.Status.ContainerStatuses[0].Ready {
			return false
		}
		sp := &steadyPod{name: p.Name, uid: string(p.UID), containerID: p.Status.ContainerStatuses[0].ContainerID, ip: p.Status.PodIP}
		sp.process = firstProcess(st.s, sp)
		st.pods = append(st.pods, sp)
	}
	return len(list) == steadyPods
}

func (st *steady) list() []corev1.Pod {
	list, err := st.s.client.CoreV1().Pods(namespace).List(st.s.t.Context(), metav1.ListOptions{LabelSelector: "app=steady"})
	if err != nil {
		return nil
	}
	return list.Items
}

// firstProcess is told by the shim's record of the container.
func firstProcess(s *siege, p *steadyPod) process.Handle {
	s.t.Helper()
	_, id, _ := strings.Cut(p.containerID, "://")
	var record struct{ PID int }
	readJSON(s.t, filepath.Join(s.in.DataDir, "run", "containers", id, "shim.json"), &record)
	h, err := process.Find(record.PID)
	if err != nil {
		s.t.Fatalf("the first process of %s: %v", p.name, err)
	}
	return h
}

// check looks at all that a death elsewhere may not change, and returns how many
// log lines are missing. None may be unless the shim died.
func (st *steady) check(shimDied bool) (lost int) {
	t := st.s.t
	t.Helper()
	for _, p := range st.pods {
		if !p.process.Alive() {
			t.Errorf("the first process of %s has ended", p.name)
		}
		lost += st.readLog(p, shimDied)
	}
	waitFor(t, 20*time.Second, "the steady pods to be told as they were", func() bool { return st.unchanged() == "" })
	for _, p := range st.pods {
		before := p.probes
		waitFor(t, 20*time.Second, p.name+" to be probed again", func() bool {
			p.probes = st.countProbes(p)
			return p.probes > before
		})
	}
	out, err := st.exec(t.Context(), st.pods[0].name, "echo", "here")
	if err != nil || strings.TrimSpace(out) != "here" {
		t.Errorf("exec says %q, %v", out, err)
	}
	return lost
}

// unchanged is "" when the API says of the pods what it said at first.
func (st *steady) unchanged() string {
	list := st.list()
	if len(list) != steadyPods {
		return fmt.Sprintf("%d pods", len(list))
	}
	for _, is := range list {
		for _, was := range st.pods {
			if was.name != is.Name {
				continue
			}
			cs := is.Status.ContainerStatuses
			if len(cs) != 1 || cs[0].ContainerID != was.containerID || cs[0].RestartCount != 0 || !cs[0].Ready || is.Status.PodIP != was.ip || string(is.UID) != was.uid {
				return fmt.Sprintf("%s: %+v", is.Name, is.Status)
			}
		}
	}
	return ""
}

// readLog reads a pod's log as a client does and returns how many lines of the
// sequence are missing since the last time.
func (st *steady) readLog(p *steadyPod, shimDied bool) (lost int) {
	t := st.s.t
	t.Helper()
	log, err := st.s.client.CoreV1().Pods(namespace).GetLogs(p.name, &corev1.PodLogOptions{}).DoRaw(t.Context())
	if err != nil {
		t.Errorf("read the log of %s: %v", p.name, err)
		return 0
	}
	lines, last, missing := strings.Split(strings.TrimSuffix(string(log), "\n"), "\n"), 0, 0
	for _, line := range lines {
		n, err := strconv.Atoi(strings.TrimPrefix(line, "line "))
		switch {
		case err != nil && n == 0:
			missing++ // its beginning went with the shim
			last++
		case n <= last:
			t.Errorf("the log of %s has line %d after line %d", p.name, n, last)
		default:
			missing += n - last - 1
			last = n
		}
	}
	lost, p.lines = missing-p.lines, missing
	if lost > 0 && !shimDied {
		t.Errorf("%d lines are missing in the log of %s, and the shim lived", lost, p.name)
	}
	return lost
}

// countProbes counts what the liveness probe left in the container's root.
func (st *steady) countProbes(p *steadyPod) int {
	_, id, _ := strings.Cut(p.containerID, "://")
	data, _ := os.ReadFile(filepath.Join(st.s.in.DataDir, "run", "rootfs", id, "probes"))
	return bytes.Count(data, []byte("x"))
}

// told is how often each pod's events have told of a lost shim.
func (st *steady) told() map[string]int {
	told := map[string]int{}
	list, err := st.s.client.CoreV1().Events(namespace).List(st.s.t.Context(), metav1.ListOptions{FieldSelector: "reason=ShimReplaced"})
	if err != nil {
		return told
	}
	for _, e := range list.Items {
		told[e.InvolvedObject.Name]++
	}
	return told
}

// awaitNews waits until every pod has one event more than before.
func (st *steady) awaitNews(before map[string]int) {
	st.s.t.Helper()
	waitFor(st.s.t, 20*time.Second, "the events that tell of the lost shim", func() bool {
		now := st.told()
		for _, p := range st.pods {
			if now[p.name] != before[p.name]+1 {
				return false
			}
		}
		return true
	})
}

// exec runs a command in a steady pod.
func (st *steady) exec(ctx context.Context, pod string, command ...string) (string, error) {
	req := st.s.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	e, err := remotecommand.NewWebSocketExecutor(st.s.config, "GET", req.URL().String())
	if err != nil {
		return "", err
	}
	var out, errOut bytes.Buffer
	err = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut})
	return out.String() + errOut.String(), err
}

// execute keeps sessions open, some of which nobody would ever end.
func (s *siege) execute(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		s.gate.RLock()
		session, cancel := context.WithTimeout(ctx, 2*time.Second)
		seconds := "0.2"
		if i%3 == 0 {
			seconds = stray
		}
		_, _ = s.steady.exec(session, s.steady.pods[i%steadyPods].name, "sleep", seconds) // it may be cut off
		cancel()
		s.gate.RUnlock()
	}
}

// noStrays expects that no process outlived the session that was cut off. (One
// whose client merely went away runs on, as with any Kubernetes.)
func (st *steady) noStrays() {
	st.s.t.Helper()
	for _, p := range st.pods {
		waitFor(st.s.t, 20*time.Second, "the sessions' processes in "+p.name+" to end", func() bool {
			out, err := st.exec(st.s.t.Context(), p.name, "ps", "-o", "args")
			return err == nil && !strings.Contains(out, "sleep "+stray)
		})
	}
}

func deployment(name, image string, replicas int32, command string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				TerminationGracePeriodSeconds: new(int64),
				Containers:                    []corev1.Container{{Name: "main", Image: image, Command: []string{"sh", "-c", command}}},
			}},
		},
	}
}
