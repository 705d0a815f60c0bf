package contract

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gantryhq/gantry/test/instance"
)

// TestUpstreamCarriesTheServices installs what `gantry manifests` prints on a real API server and runs
// gateway, scaling and metrics beside it, each as the service account that the manifests give it:
// a request for a workload without replicas waits until scaling has made one, and kubectl top and
// the metrics APIs answer through the API server's aggregation.
//
// Pods are played: there is no node, only somebody who says that pods run and who answers for all of
// them and for the node's kubelet, at an address of this machine, because an API takes no loopback
// address for a pod's.
func TestUpstreamCarriesTheServices(t *testing.T) {
	programs, program, here := upstreamPrograms(t), instance.Build(t), ownAddress(t)
	cfg := startUpstream(t, programs)
	k := (&teller{T: t, ctx: t.Context(), cfg: cfg, namespace: "shop"}).kubectl()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	k.run(output(t, program, "manifests", "--kinds"), "apply --server-side -f -")
	k.run("", "wait --for=condition=Established crd --all --timeout=60s")
	k.run(output(t, program, "manifests", "--image", "example.com/gantry:1"), "apply -f -", "deployment.apps/gateway created", "apiservice.apiregistration.k8s.io/v1beta1.metrics.k8s.io created")
	k.run("", "create namespace shop")
	pods := &played{client: client, here: here}
	pods.start(t)

	admin, plain := listenAddress(t, "127.0.0.1"), listenAddress(t, "127.0.0.1")
	as := func(account string) string { return serviceAccount(t, k, account, cfg.Host, cfg.CAFile) }
	run(t, filepath.Dir(program), filepath.Base(program), "gateway", "--kubeconfig", as("gateway"), "--listen", plain, "--tls-listen", listenAddress(t, "127.0.0.1"), "--admin", admin)
	run(t, filepath.Dir(program), filepath.Base(program), "scale", "--kubeconfig", as("scale"), "--gateways", "http://"+admin)
	extension := listenAddress(t, "127.0.0.1")
	run(t, filepath.Dir(program), filepath.Base(program), "metrics", "--kubeconfig", as("metrics"), "--gateways", "http://"+admin, "--listen", extension)
	aggregate(k, extension)

	k.run(fmt.Sprintf(sleeping, pods.port()), "apply -f -", "deployment.apps/web created", "scalepolicy.gantry.dev/web created")
	k.run("", "wait scalepolicy/web --for=condition=Accepted --timeout=60s", "condition met")
	within(t, 2*time.Minute, "an answer of a workload that had no replica", func() error {
		return answers(plain, "web.example.com", "played pod")
	})
	k.run("", "get deployment web -o jsonpath={.spec.replicas}", "1")
	within(t, 2*time.Minute, "kubectl top", func() error {
		for args, want := range map[string]string{"top node": "played", "top pod": "250m"} {
			out, err := k.try("", strings.Fields(args)...)
			if err != nil || !strings.Contains(out, want) {
				return fmt.Errorf("kubectl %s: %v: %s", args, err, out)
			}
		}
		return nil
	})
	within(t, time.Minute, "the requests as custom and external metrics", func() error {
		for path, want := range map[string]string{
			"/apis/custom.metrics.k8s.io/v1beta2/namespaces/shop/services/web/requests_in_flight": `"name":"web"`,
			"/apis/external.metrics.k8s.io/v1beta1/namespaces/shop/requests_in_flight":            `"service":"web"`,
		} {
			out, err := k.try("", "get", "--raw", path)
			if err != nil || !strings.Contains(out, want) {
				return fmt.Errorf("%s: %v: %s", path, err, out)
			}
		}
		return nil
	})
	k.run("", "get scalepolicy web -o jsonpath={.status.currentReplicas}", "1")
}

// sleeping is a workload without replicas and what wakes it up.
const sleeping = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: "example.com/web:1", resources: {requests: {cpu: 100m, memory: 16Mi}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: %d}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: shop}
spec:
  ingressClassName: gantry
  rules:
  - host: web.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: gantry.dev/v1alpha1
kind: ScalePolicy
metadata: {name: web, namespace: shop}
spec:
  targetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 0
  maxReplicas: 3
  targets: [{requestsInFlight: {perReplica: 10}}]
`

// played answers for the node and all its pods.
type played struct {
	client kubernetes.Interface
	here   string // an address of this machine
	pods   net.Listener
}

func (p *played) port() int { return p.pods.Addr().(*net.TCPAddr).Port }

func (p *played) start(t *testing.T) {
	var err error
	if p.pods, err = net.Listen("tcp", net.JoinHostPort(p.here, "0")); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "played pod") })}
	go server.Serve(p.pods)
	t.Cleanup(func() { server.Close() })

	kubelet := httptest.NewUnstartedServer(http.HandlerFunc(p.resources))
	if kubelet.Listener, err = net.Listen("tcp", net.JoinHostPort(p.here, "0")); err != nil {
		t.Fatal(err)
	}
	kubelet.TLS = &tls.Config{}
	kubelet.StartTLS()
	t.Cleanup(kubelet.Close)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "played"}}
	if node, err = p.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: p.here}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(kubelet.Listener.Addr().(*net.TCPAddr).Port)
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if _, err = p.client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	go func() {
		for ctx.Err() == nil {
			p.runPods(ctx)
			time.Sleep(20 * time.Millisecond)
		}
	}()
}

// runPods binds pods of the shop and says that they are ready.
func (p *played) runPods(ctx context.Context) {
	pods, err := p.client.CoreV1().Pods("shop").List(ctx, metav1.ListOptions{})
	if err != nil {
		return // it is tried again
	}
	for _, pod := range pods.Items {
		if pod.Spec.NodeName == "" {
			_ = p.client.CoreV1().Pods("shop").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "played"}}, metav1.CreateOptions{})
			continue
		}
		if pod.Status.Phase == corev1.PodRunning {
			continue
		}
		now, started := metav1.Now(), true
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: p.here, PodIPs: []corev1.PodIP{{IP: p.here}}, StartTime: &now,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "main", Ready: true, Started: &started, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}}}
		_, _ = p.client.CoreV1().Pods("shop").UpdateStatus(ctx, &pod, metav1.UpdateOptions{})
	}
}

// resources answers what a kubelet does at /metrics/resource (KEP-1916): every pod uses a quarter of
// a processor from its start on.
func (p *played) resources(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/metrics/resource" {
		http.NotFound(w, r)
		return
	}
	pods, err := p.client.CoreV1().Pods("shop").List(r.Context(), metav1.ListOptions{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	now := time.Now()
	used := func(since time.Time) float64 { return now.Sub(since).Seconds() / 4 }
	fmt.Fprintf(w, "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total %f %d\n# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes 1e+09 %d\n",
		used(now.Add(-time.Hour)), now.UnixMilli(), now.UnixMilli())
	lines := map[string]string{"container_cpu_usage_seconds_total": "counter", "container_memory_working_set_bytes": "gauge", "container_start_time_seconds": "gauge"}
	for name, kind := range lines {
		fmt.Fprintf(w, "# TYPE %s %s\n", name, kind)
		for _, pod := range pods.Items {
			if pod.Status.StartTime == nil {
				continue
			}
			value := map[string]float64{"container_cpu_usage_seconds_total": used(pod.Status.StartTime.Time), "container_memory_working_set_bytes": 2e7,
				"container_start_time_seconds": float64(pod.Status.StartTime.Unix())}[name]
			fmt.Fprintf(w, "%s{container=\"main\",namespace=\"shop\",pod=%q} %f %d\n", name, pod.Name, value, now.UnixMilli())
		}
	}
}

// aggregate has the API server find the metrics service: it is no pod with a Service here.
func aggregate(k *kubectl, address string) {
	_, port, _ := net.SplitHostPort(address)
	k.run("", "-n gantry-system delete service metrics")
	k.run("apiVersion: v1\nkind: Service\nmetadata: {name: metrics, namespace: gantry-system}\nspec: {type: ExternalName, externalName: localhost}\n", "apply -f -", "created")
	for _, name := range []string{"v1beta1.metrics.k8s.io", "v1beta2.custom.metrics.k8s.io", "v1beta1.custom.metrics.k8s.io", "v1beta1.external.metrics.k8s.io"} {
		k.run("", `patch apiservice `+name+` --type=merge -p={"spec":{"service":{"port":`+port+`}}}`, "patched")
		k.run("", "wait apiservice/"+name+" --for=condition=Available --timeout=60s", "condition met")
	}
}

// serviceAccount is a kubeconfig of a service account of the manifests.
func serviceAccount(t *testing.T, k *kubectl, name, host, caFile string) string {
	t.Helper()
	token := strings.TrimSpace(k.run("", "-n gantry-system create token "+name))
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"] = &clientcmdapi.Cluster{Server: host, CertificateAuthority: caFile}
	cfg.AuthInfos["c"] = &clientcmdapi.AuthInfo{Token: token}
	cfg.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "c"}
	cfg.CurrentContext = "c"
	path := filepath.Join(t.TempDir(), name)
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// answers asks the gateway once; it holds the request while there is no replica.
func answers(gateway, host, want string) error {
	r, err := http.NewRequest(http.MethodGet, "http://"+gateway+"/", nil)
	if err != nil {
		return err
	}
	r.Host = host
	response, err := (&http.Client{Timeout: time.Minute}).Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && string(body) != want {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return err
}

func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	var out, problem bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, &problem)
	}
	return out.String()
}

func listenAddress(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// ownAddress is an address of this machine that is not a loopback one. What is sent there stays here.
func ownAddress(t *testing.T) string {
	t.Helper()
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	t.Skip("this machine has no address but loopback")
	return ""
}
