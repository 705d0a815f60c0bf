package flash

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/apiclient"
	"github.com/gantryhq/gantry/test/instance"
)

const (
	namespace = "default"
	appName   = "storefront"
	shopHost  = "shop.flash.test"
	// shopPath is a page that the storefront answers alone: what is measured is how it grows, not
	// the catalogue and the database behind it.
	shopPath = "/style.css"
	// cpuLimit keeps a replica to a tenth of a core, so that one cannot do the work of all.
	cpuLimit = "100m"
	// perReplica is how many requests a second a replica is meant to get: about half of what it
	// can do within cpuLimit.
	perReplica = 500
)

// shop is the storefront behind the gateway.
type shop struct {
	in       *instance.Instance
	client   *kubernetes.Clientset
	policies *apiclient.Client
}

// buildStorefront builds the example's storefront as its Dockerfile does.
func buildStorefront(b *testing.B) string {
	b.Helper()
	binary := filepath.Join(b.TempDir(), "service")
	build := exec.Command("go", "build", "-C", "../../examples/shop", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./cmd/storefront")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build the storefront: %v\n%s", err, out)
	}
	return binary
}

// push makes an image of one program and gives it to the registry.
func push(b *testing.B, in *instance.Instance, binary string) string {
	b.Helper()
	content, err := os.ReadFile(binary)
	must(b, err)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	must(b, w.WriteHeader(&tar.Header{Name: "service", Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}))
	_, err = w.Write(content)
	must(b, err)
	must(b, w.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil })
	must(b, err)
	image, err := mutate.AppendLayers(empty.Image, layer)
	must(b, err)
	config, err := image.ConfigFile()
	must(b, err)
	config = config.DeepCopy()
	config.Architecture, config.OS = "amd64", "linux"
	config.Config.Entrypoint, config.Config.User = []string{"/service"}, "65532:65532"
	image, err = mutate.ConfigFile(image, config)
	must(b, err)
	reference := in.Registry + "/shop/storefront:flash"
	to, err := name.ParseReference(reference, name.Insecure)
	must(b, err)
	must(b, remote.Write(to, image))
	return reference
}

// newLoad asks for a page of the shop.
func newLoad(in *instance.Instance) *load {
	return &load{address: in.Gateway, request: "GET " + shopPath + " HTTP/1.1\r\nHost: " + shopHost + "\r\n\r\n", timeout: patience}
}

// openShop deploys the storefront, with no replica yet.
func openShop(b *testing.B, in *instance.Instance, binary string) *shop {
	b.Helper()
	policies, err := apiclient.New(in.Config(b))
	must(b, err)
	s := &shop{in: in, client: in.Client(b), policies: policies}
	ctx := context.Background()
	_, err = s.client.AppsV1().Deployments(namespace).Create(ctx, deployment(push(b, in, binary)), metav1.CreateOptions{})
	must(b, err)
	_, err = s.client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: appName},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": appName},
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	must(b, err)
	prefix := networkingv1.PathTypePrefix
	_, err = s.client.NetworkingV1().Ingresses(namespace).Create(ctx, &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: appName},
		Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{{Host: shopHost, IngressRuleValue: networkingv1.IngressRuleValue{
			HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &prefix,
				Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: appName, Port: networkingv1.ServiceBackendPort{Number: 80}}},
			}}},
		}}}},
	}, metav1.CreateOptions{})
	must(b, err)
	s.fixed(b, 1) // the image is unpacked, and the route is served
	s.await(b, 1)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		l := newLoad(in)
		l.run([]phase{{1, time.Second}})
		if l.answers[0].err == nil {
			return s
		}
		if time.Now().After(deadline) {
			b.Fatalf("the storefront is not reached: %v", l.answers[0].err)
		}
	}
}

// deployment is the storefront as the example deploys it, but for the CPU.
func deployment(image string) *appsv1.Deployment {
	none, no, yes, user, grace := int32(0), false, true, int64(65532), int64(15)
	labels := map[string]string{"app": appName}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: appName},
		Spec: appsv1.DeploymentSpec{
			Replicas: &none, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				TerminationGracePeriodSeconds: &grace,
				Containers: []corev1.Container{{
					Name: "storefront", Image: image, Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
					Resources: corev1.ResourceRequirements{
						Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi")},
						Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpuLimit), corev1.ResourceMemory: resource.MustParse("64Mi")},
					},
					ReadinessProbe: &corev1.Probe{
						ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(8080)}},
						PeriodSeconds: 5,
					},
					SecurityContext: &corev1.SecurityContext{RunAsUser: &user, RunAsNonRoot: &yes, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes},
				}},
			}},
		},
	}
}

// limitCPU changes the limit of each replica.
func (s *shop) limitCPU(b *testing.B, limit string) {
	b.Helper()
	patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":%q,"resources":{"limits":{"cpu":%q}}}]}}}}`, appName, limit)
	_, err := s.client.AppsV1().Deployments(namespace).Patch(context.Background(), appName, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	must(b, err)
}

// policy lets the shop scale, up to what a rate needs, and waits until it is in force.
func (s *shop) policy(b *testing.B, least int32, rate int, stable time.Duration) {
	b.Helper()
	client := s.policies.ScalePolicies(namespace)
	_, err := client.Create(context.Background(), &v1alpha1.ScalePolicy{
		ObjectMeta: metav1.ObjectMeta{Name: appName},
		Spec: v1alpha1.ScalePolicySpec{
			TargetRef:   v1alpha1.ScaleTargetReference{APIVersion: "apps/v1", Kind: "Deployment", Name: appName},
			MinReplicas: least, MaxReplicas: int32(2*rate/perReplica + 1),
			Targets: []v1alpha1.ScaleTarget{{RequestsPerSecond: &v1alpha1.RequestsTarget{PerReplica: perReplica}}},
			// Nobody is turned away, and no replica is buried under requests.
			Hold:    v1alpha1.HoldRequests{Requests: pointer(int32(50_000)), Bytes: pointer(resource.MustParse("1Gi")), TimeoutSeconds: 20, InFlightPerReplica: pointer(int32(32))},
			Windows: v1alpha1.ScaleWindows{StableSeconds: int32(stable.Seconds()), PanicSeconds: min(6, int32(stable.Seconds()))},
		},
	}, metav1.CreateOptions{})
	must(b, err)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		p, err := client.Get(context.Background(), appName, metav1.GetOptions{})
		must(b, err)
		if meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ScaleAccepted) && len(p.Status.Services) == 1 {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("the policy is not in force: %+v", p.Status)
		}
	}
}

func (s *shop) dropPolicy(b *testing.B) {
	must(b, s.policies.ScalePolicies(namespace).Delete(context.Background(), appName, metav1.DeleteOptions{}))
}

// busyTime is the time that the machine's cores have been busy, together.
func busyTime(b *testing.B) time.Duration {
	data, err := os.ReadFile("/proc/stat")
	must(b, err)
	line, _, _ := strings.Cut(string(data), "\n")
	var ticks int
	for i, field := range strings.Fields(line) {
		if n, err := strconv.Atoi(field); err == nil && i != 4 && i != 5 && i < 9 { // not idle, not waiting for disks
			ticks += n
		}
	}
	return time.Duration(ticks) * time.Second / 100
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func pointer[T any](v T) *T { return &v }
