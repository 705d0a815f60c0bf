package crash

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
	"github.com/gantryhq/gantry/test/leak"
)

// TestReboot cuts the power of a machine and boots it again: processes, mounts,
// namespaces, links, rules and control groups are gone, the boot id is another
// one. With nobody's help the machine comes back to what was declared.
func TestReboot(t *testing.T) {
	for _, c := range []struct {
		name string
		wipe bool
	}{
		{"run on the disk", false},
		{"run in memory", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			testenv.NeedContainers(t)
			testenv.LongRunning(t)
			m := startMachine(t, instance.Options{})
			m.BaseImages(t)
			h := declare(m)
			for boots := 1; boots <= 2; boots++ {
				m.reset(c.wipe)
				h.check(boots)
			}
		})
	}
}

// TestPowerFailsWhileScaling: what was asked for a moment before is there after it.
func TestPowerFailsWhileScaling(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	m := startMachine(t, instance.Options{})
	m.BaseImages(t)
	const replicas = 20
	deployments := m.Client(t).AppsV1().Deployments(namespace)
	d := deployment("wide", m.Registry+"/base/busybox:latest", replicas, "sleep 86400")
	if _, err := deployments.Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, time.Minute, "the first pods to run", func() bool { return available(t, m, "wide") >= 3 })
	m.reset(false)
	waitFor(t, 2*time.Minute, "all pods to run", func() bool { return available(t, m, "wide") == replicas })
	zero := []byte(`{"spec":{"replicas":0}}`)
	if _, err := m.Client(t).AppsV1().Deployments(namespace).Patch(t.Context(), "wide", "application/merge-patch+json", zero, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	<-time.After(100 * time.Millisecond) // in the middle of it
	m.reset(true)
	waitFor(t, time.Minute, "no pod to be left", func() bool {
		pods, err := m.Client(t).CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
		return err == nil && len(pods.Items) == 0
	})
	leak.Check(t, m)
}

func available(t *testing.T, m *machine, name string) int32 {
	d, err := m.Client(t).AppsV1().Deployments(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return 0
	}
	return d.Status.AvailableReplicas
}

// household is one of everything that a reboot must bring back.
type household struct {
	m    *machine
	web  *corev1.Service
	done *batchv1.Job
}

func declare(m *machine) *household {
	t := m.t
	t.Helper()
	c, image := m.Client(t), m.Registry+"/base/busybox:latest"
	ctx := t.Context()
	h := &household{m: m}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}}
	var err error
	h.web, err = c.CoreV1().Services(namespace).Create(ctx, service, metav1.CreateOptions{})
	must(t, err)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "page"}, StringData: map[string]string{"index.html": "fine"}}
	_, err = c.CoreV1().Secrets(namespace).Create(ctx, secret, metav1.CreateOptions{})
	must(t, err)
	_, err = c.AppsV1().Deployments(namespace).Create(ctx, webDeployment(image), metav1.CreateOptions{})
	must(t, err)
	_, err = c.AppsV1().StatefulSets(namespace).Create(ctx, diary(image), metav1.CreateOptions{})
	must(t, err)
	_, err = c.BatchV1().Jobs(namespace).Create(ctx, job("done", image, "exit 0"), metav1.CreateOptions{})
	must(t, err)
	waitFor(t, 2*time.Minute, "everything to be there", func() bool { return h.problem(c, 0) == "" })
	_, err = c.BatchV1().Jobs(namespace).Create(ctx, job("long", image, "sleep 5; echo through"), metav1.CreateOptions{})
	must(t, err)
	once := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "once"}, Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever,
		Containers: []corev1.Container{{Name: "main", Image: image, Command: []string{"sleep", "86400"}}}}}
	_, err = c.CoreV1().Pods(namespace).Create(ctx, once, metav1.CreateOptions{})
	must(t, err)
	waitFor(t, time.Minute, "the pods that the power will fail", func() bool {
		p, err := c.CoreV1().Pods(namespace).Get(ctx, "once", metav1.GetOptions{})
		j, err2 := c.BatchV1().Jobs(namespace).Get(ctx, "long", metav1.GetOptions{})
		return err == nil && err2 == nil && p.Status.Phase == corev1.PodRunning && j.Status.Active == 1
	})
	<-time.After(2 * time.Second) // what was only a status reaches the disk in half a second
	return h
}

// webDeployment serves a secret; its pods share one process namespace.
func webDeployment(image string) *appsv1.Deployment {
	d := deployment("web", image, 3, "cp /secret/index.html /data/; exec httpd -f -p 8080 -h /data")
	share := true
	spec := &d.Spec.Template.Spec
	spec.ShareProcessNamespace = &share
	spec.Volumes = []corev1.Volume{
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "page"}}},
		{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "secret", MountPath: "/secret"}, {Name: "data", MountPath: "/data"}}
	spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1,
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/index.html", Port: intstr.FromInt32(8080)}}}
	return d
}

// diary is a stateful set whose volume remembers every start.
func diary(image string) *appsv1.StatefulSet {
	labels := map[string]string{"app": "diary"}
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "diary"},
		Spec: appsv1.StatefulSetSpec{
			ServiceName: "diary", Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				InitContainers: []corev1.Container{{Name: "open", Image: image, Command: []string{"sh", "-c", "echo opened >> /data/diary; sync"},
					VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}},
				Containers: []corev1.Container{{Name: "main", Image: image, Command: []string{"sh", "-c", "cat /data/diary; sleep 86400"},
					VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}},
			}},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}},
			}}},
		},
	}
}

func job(name, image, command string) *batchv1.Job {
	return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyOnFailure,
		Containers:    []corev1.Container{{Name: "main", Image: image, Command: []string{"sh", "-c", command}}},
	}}}}
}

// check waits until all is as declared after a number of boots.
func (h *household) check(boots int) {
	t := h.m.t
	t.Helper()
	c, problem := h.m.Client(t), ""
	for deadline := time.Now().Add(2 * time.Minute); ; <-time.After(100 * time.Millisecond) {
		if problem = h.problem(c, boots); problem == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after boot %d: %s", boots, problem)
		}
	}
	once, err := c.CoreV1().Pods(namespace).Get(t.Context(), "once", metav1.GetOptions{})
	if must(t, err); once.Status.Phase != corev1.PodFailed || once.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("a pod that must never start again is %+v", once.Status)
	}
	long, err := c.BatchV1().Jobs(namespace).Get(t.Context(), "long", metav1.GetOptions{})
	if must(t, err); long.Status.Succeeded != 1 {
		t.Errorf("the interrupted job is %+v", long.Status)
	}
	leak.Check(t, h.m)
}

// problem says what is not as it was declared, "" when all is.
func (h *household) problem(c kubernetes.Interface, boots int) string {
	ctx := h.m.t.Context()
	pods, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app in (web, diary)"})
	if err != nil {
		return err.Error()
	}
	if len(pods.Items) != 4 {
		return fmt.Sprintf("there are %d pods", len(pods.Items))
	}
	for _, p := range pods.Items {
		cs := p.Status.ContainerStatuses
		if len(cs) != 1 || !cs[0].Ready || int(cs[0].RestartCount) != boots {
			return fmt.Sprintf("after %d boots pod %s is %+v", boots, p.Name, p.Status)
		}
	}
	done, err := c.BatchV1().Jobs(namespace).Get(ctx, "done", metav1.GetOptions{})
	if err != nil || done.Status.Succeeded != 1 || done.Status.Failed != 0 {
		return fmt.Sprintf("the job that is done: %+v, %v", done.Status, err)
	}
	if boots > 0 {
		if long, err := c.BatchV1().Jobs(namespace).Get(ctx, "long", metav1.GetOptions{}); err != nil || long.Status.Succeeded != 1 {
			return fmt.Sprintf("the interrupted job: %+v, %v", long.Status, err)
		}
	}
	log, err := c.CoreV1().Pods(namespace).GetLogs("diary-0", &corev1.PodLogOptions{}).DoRaw(ctx)
	if n := strings.Count(string(log), "opened"); err != nil || n != boots+1 {
		return fmt.Sprintf("the volume remembers %d starts (%v)", n, err)
	}
	resp, err := http.Get("http://" + h.web.Spec.ClusterIP + "/index.html")
	if err != nil {
		return err.Error()
	}
	resp.Body.Close()
	return ""
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
