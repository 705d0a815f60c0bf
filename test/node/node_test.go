// Package node tests what the node does with real registries, probes and disks,
// where a story of commands would not be enough.
package node

import (
	"archive/tar"
	"bytes"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

const namespace = "default"

// cluster is an instance and what the tests do with it.
type cluster struct {
	*instance.Instance
	t      *testing.T
	client *kubernetes.Clientset
}

func start(t *testing.T, o instance.Options) *cluster {
	t.Helper()
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	// Ranges of their own: tests of other packages start instances at the same moment.
	o.Args = append(o.Args, "--pod-cidr=10.143.0.0/16", "--service-cidr=10.144.0.0/16")
	in := instance.Start(t, o)
	return &cluster{Instance: in, t: t, client: in.Client(t)}
}

// create makes a pod once its service account exists, as every pod needs one.
func (c *cluster) create(p *v1.Pod) {
	c.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(50 * time.Millisecond) {
		_, err := c.client.CoreV1().Pods(namespace).Create(c.t.Context(), p, metav1.CreateOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsForbidden(err) || time.Now().After(deadline) {
			c.t.Fatalf("create pod %s: %v", p.Name, err)
		}
	}
}

// until polls a pod until it is as wanted.
func (c *cluster) until(pod, what string, ok func(*v1.Pod) bool) *v1.Pod {
	c.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; <-time.After(50 * time.Millisecond) {
		p, err := c.client.CoreV1().Pods(namespace).Get(c.t.Context(), pod, metav1.GetOptions{})
		if err == nil && ok(p) {
			return p
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("pod %s is not %s (%v):\n%+v\n%s", pod, what, err, p.Status, strings.Join(c.events(pod), "\n"))
		}
	}
}

// untilEvent polls the events of an object until one contains text.
func (c *cluster) untilEvent(object, text string) {
	c.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; <-time.After(50 * time.Millisecond) {
		all := c.events(object)
		for _, e := range all {
			if strings.Contains(e, text) {
				return
			}
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("no event of %s says %q:\n%s", object, text, strings.Join(all, "\n"))
		}
	}
}

func (c *cluster) events(object string) []string {
	list, err := c.client.CoreV1().Events(namespace).List(c.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + object})
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, e := range list.Items {
		out = append(out, e.Reason+": "+e.Message)
	}
	return out
}

// exec runs a command in a pod and returns what it writes to its standard
// output. What kubectl says on its own error stream is not part of that: it may
// warn there about an empty first message.
func (c *cluster) exec(pod string, command ...string) string {
	c.t.Helper()
	args := append([]string{"--kubeconfig", c.Kubeconfig(), "exec", "-n", namespace, pod, "--"}, command...)
	cmd := exec.Command("kubectl", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("kubectl exec %s %v: %v\n%s%s", pod, command, err, out, stderr.String())
	}
	return string(out)
}

func running(p *v1.Pod) bool { return p.Status.Phase == v1.PodRunning }

func ready(p *v1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// pod is one container of an image; it stops at once.
func pod(podName, image string, command ...string) *v1.Pod {
	var now int64
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: podName},
		Spec: v1.PodSpec{
			TerminationGracePeriodSeconds: &now,
			Containers:                    []v1.Container{{Name: "main", Image: image, Command: command}},
		},
	}
}

// imageOf makes an image with one file.
func imageOf(t *testing.T, file string, mode int64, content []byte) ggcr.Image {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: file, Mode: mode, Size: int64(len(content))})
	check(t, err)
	_, err = w.Write(content)
	check(t, err)
	check(t, w.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	check(t, err)
	img, err := mutate.AppendLayers(empty.Image, layer)
	check(t, err)
	cfg, err := img.ConfigFile()
	check(t, err)
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", goarch(t)
	cfg.Config.Entrypoint = []string{"/" + file}
	img, err = mutate.ConfigFile(img, cfg)
	check(t, err)
	return img
}

func goarch(t *testing.T) string {
	out, err := exec.Command("go", "env", "GOARCH").Output()
	check(t, err)
	return strings.TrimSpace(string(out))
}

func push(t *testing.T, image string, img ggcr.Image) {
	t.Helper()
	ref, err := name.ParseReference(image)
	check(t, err)
	check(t, remote.Write(ref, img, remote.WithContext(t.Context())))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
