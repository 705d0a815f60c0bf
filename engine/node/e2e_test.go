package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/engine/node/driver"
	"github.com/gantryhq/gantry/internal/testenv"
)

// buildShim builds the parent of all containers once per test run.
var buildShim = sync.OnceValues(func() (string, error) {
	path := filepath.Join(shimDir(), "gantry-shim")
	if err := os.MkdirAll(shimDir(), 0o755); err != nil {
		return "", err
	}
	return path, testenv.Build(path, "github.com/gantryhq/gantry/cmd/gantry-shim")
})

func shimDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("gantry-node-test-%d", os.Getpid()))
}

func TestMain(m *testing.M) {
	code := m.Run()
	os.RemoveAll(shimDir())
	os.Exit(code)
}

// busyboxImages makes root directories with nothing but busybox.
type busyboxImages struct {
	fakeImages
	busybox string
}

func (b *busyboxImages) Mount(_ context.Context, id, _ string, _ []string) (string, error) {
	root := filepath.Join(b.dir, id)
	for _, dir := range []string{"bin", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return "", err
		}
	}
	data, err := os.ReadFile(b.busybox)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(root+"/bin/busybox", data, 0o755); err != nil {
		return "", err
	}
	for _, applet := range []string{"sh", "sleep", "cat", "id", "ls", "echo", "true", "false", "hostname", "touch", "df"} {
		if err := os.Symlink("busybox", root+"/bin/"+applet); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
	}
	passwd := "root:x:0:0::/:/bin/sh\napp:x:1234:1234::/:/bin/sh\n"
	return root, os.WriteFile(root+"/etc/passwd", []byte(passwd), 0o644)
}

// machine runs a node with real containers; only API, images and network are not real.
type machine struct {
	t      *testing.T
	dir    string
	shim   string
	client *fake.Clientset
	driver *driver.Driver
	node   *Node
	stop   func()
}

func newMachine(t *testing.T, objects ...any) *machine {
	t.Helper()
	testenv.NeedContainers(t)
	testenv.NeedProgram(t, "busybox", "busybox-static")
	shim, err := buildShim()
	if err != nil {
		t.Fatalf("build the shim: %v", err)
	}
	dir, err := os.MkdirTemp("", "gantry-node-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir, shim: shim, client: newAPI()}
	t.Cleanup(m.close)
	ctx := t.Context()
	for _, o := range objects {
		switch o := o.(type) {
		case *v1.ConfigMap:
			_, err = m.client.CoreV1().ConfigMaps("default").Create(ctx, o, metav1.CreateOptions{})
		case *v1.Secret:
			_, err = m.client.CoreV1().Secrets("default").Create(ctx, o, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	m.start()
	return m
}

func (m *machine) start() {
	m.t.Helper()
	log := slog.New(slog.NewTextHandler(testWriter{m.t}, nil))
	var err error
	if m.driver, err = driver.New(driver.Config{DataDir: m.dir, ShimPath: m.shim, Logger: log}); err != nil {
		m.t.Fatal(err)
	}
	images := &busyboxImages{fakeImages: fakeImages{dir: m.dir + "/roots", missing: map[string]error{}, config: ocispec.ImageConfig{Cmd: []string{"/bin/sleep", "3600"}}}}
	if images.busybox, err = exec.LookPath("busybox"); err != nil {
		m.t.Fatal(err)
	}
	cfg := Config{
		Client: &rest.Config{}, DataDir: m.dir, NodeName: "n1", NodeIP: netip.MustParseAddr("127.0.0.1"),
		Driver: m.driver, Images: images, Network: &fakeNetwork{ips: map[string]netip.Addr{}}, Log: log,
	}
	if err := cfg.complete(); err != nil {
		m.t.Fatal(err)
	}
	if m.node, err = newNode(cfg, m.client, noTokens{}); err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.node.Run(ctx) }()
	m.stop = func() { cancel(); <-done }
}

// close checks that nothing is left of the pods once they are gone.
func (m *machine) close() {
	if m.stop == nil {
		return
	}
	m.stop()
	ctx := context.Background()
	states, _ := m.driver.List(ctx)
	for _, st := range states {
		_ = m.driver.Remove(ctx, st.ID)
	}
	if err := driver.Cleanup(ctx, driver.Config{DataDir: m.dir, ShimPath: m.shim}); err != nil {
		m.t.Errorf("clean up the driver: %v", err)
	}
	if err := Cleanup(m.dir); err != nil {
		m.t.Errorf("clean up the node: %v", err)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if bytes.Contains(mounts, []byte(m.dir+"/")) {
		m.t.Errorf("mounts are left below %s", m.dir)
		return
	}
	os.RemoveAll(m.dir)
}

// until polls, with a deadline, until the pod is as wanted.
func (m *machine) until(name, what string, ok func(*v1.Pod) bool) *v1.Pod {
	m.t.Helper()
	var p *v1.Pod
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var err error
		p, err = m.client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			p = nil
		}
		if ok(p) {
			return p
		}
	}
	m.t.Fatalf("pod %s is not %s: %+v", name, what, p)
	return nil
}

func isReady(p *v1.Pod) bool { return p != nil && condition(p, v1.PodReady) == v1.ConditionTrue }
func isGone(p *v1.Pod) bool  { return p == nil }

func (m *machine) create(p *v1.Pod) {
	m.t.Helper()
	p.Spec.HostNetwork = true
	if _, err := m.client.CoreV1().Pods("default").Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) remove(name string) {
	m.t.Helper()
	(&rig{t: m.t, client: m.client}).remove(name, 1)
	m.until(name, "gone", isGone)
}

func (m *machine) logs(path string) string {
	m.t.Helper()
	s := httptest.NewServer(m.node.Handler())
	defer s.Close()
	resp, err := http.Get(s.URL + "/containerLogs/default/" + path)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(body)
}

func TestRealPodSeesItsVolumesAndIdentity(t *testing.T) {
	m := newMachine(t,
		&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Namespace: "default"}, Data: map[string]string{"k": "from-config"}},
		&v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "sec", Namespace: "default"}, Data: map[string][]byte{"p": []byte("from-secret")}},
	)
	pod := aPod("web", v1.Container{
		Name:    "a",
		Command: []string{"/bin/sh", "-c", "id -u; id -G; cat /cm/k /sec/p /one; echo; echo $K; hostname; df /mem | cat; touch /nope; echo bye > /dev/termination-log; sleep 3600"},
		Env: []v1.EnvVar{{Name: "K", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{
			LocalObjectReference: v1.LocalObjectReference{Name: "cm"}, Key: "k"}}}},
		TerminationMessagePath: "/dev/termination-log",
		VolumeMounts: []v1.VolumeMount{
			{Name: "cm", MountPath: "/cm"}, {Name: "sec", MountPath: "/sec"}, {Name: "cm", MountPath: "/one", SubPath: "k"}, {Name: "mem", MountPath: "/mem"},
		},
		ReadinessProbe: &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"/bin/true"}}}, PeriodSeconds: 1, TimeoutSeconds: 5},
	})
	group, user := int64(4321), int64(1234)
	pod.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: &user, FSGroup: &group}
	pod.Spec.Volumes = []v1.Volume{
		{Name: "cm", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}}}},
		{Name: "sec", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "sec"}}},
		{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
	}
	m.create(pod)
	p := m.until("web", "ready", isReady)
	if id := p.Status.ContainerStatuses[0].ContainerID; !strings.HasPrefix(id, containerScheme) {
		t.Errorf("container id %q", id)
	}
	got := m.logs("web/a")
	for _, want := range []string{"1234\n", "4321", "from-configfrom-secretfrom-config", "tmpfs", "/nope: Permission denied"} {
		if !strings.Contains(got, want) {
			t.Errorf("the container did not say %q but:\n%s", want, got)
		}
	}
	m.remove("web")
	var left []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		pods, _ := filepath.Glob(m.dir + "/pods/*")
		memory, _ := filepath.Glob(m.dir + "/run/memory/*")
		if left = append(pods, memory...); len(left) == 0 {
			return
		}
	}
	t.Errorf("directories are left: %v", left)
}

func TestRealContainersOutliveTheAgent(t *testing.T) {
	m := newMachine(t)
	m.create(aPod("web", v1.Container{Name: "a"}))
	before := m.until("web", "ready", isReady).Status.ContainerStatuses[0]
	m.stop()
	m.start()
	<-m.node.Ready()
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		after := m.until("web", "ready", isReady).Status.ContainerStatuses[0]
		if before.ContainerID != after.ContainerID || after.RestartCount != 0 {
			t.Fatalf("the container was replaced: %+v, %+v", before, after)
		}
	}
	m.remove("web")
}

func TestRealPodsShareAProcessNamespace(t *testing.T) {
	m := newMachine(t)
	pod := aPod("web",
		v1.Container{Name: "a"},
		v1.Container{Name: "b", Command: []string{"/bin/sh", "-c", "cat /proc/1/cmdline; cat /proc/*/cmdline; echo; sleep 3601"}})
	share := true
	pod.Spec.ShareProcessNamespace = &share
	m.create(pod)
	m.until("web", "ready", isReady)
	var got string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && !strings.Contains(got, "sleep"); time.Sleep(20 * time.Millisecond) {
		got = m.logs("web/b")
	}
	if !strings.HasPrefix(got, "/pause") || !strings.Contains(got, "/bin/sleep") {
		t.Errorf("container b sees %q", got)
	}
	m.remove("web")
}

func TestRealExitIsToldWithReasonAndMessage(t *testing.T) {
	m := newMachine(t)
	pod := aPod("job", v1.Container{Name: "a", Command: []string{"/bin/sh", "-c", "echo why > /dev/termination-log; exit 3"}, TerminationMessagePath: "/dev/termination-log"})
	pod.Spec.RestartPolicy = v1.RestartPolicyNever
	m.create(pod)
	p := m.until("job", "failed", func(p *v1.Pod) bool { return p != nil && p.Status.Phase == v1.PodFailed })
	term := p.Status.ContainerStatuses[0].State.Terminated
	if term == nil || term.ExitCode != 3 || term.Message != "why\n" || term.Reason != "Error" {
		t.Errorf("terminated: %+v", term)
	}
	m.remove("job")
}
