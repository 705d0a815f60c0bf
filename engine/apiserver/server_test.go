package apiserver_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/engine/apiserver"
)

func client(t testing.TB, cfg *rest.Config) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func addAccount(t testing.TB, c kubernetes.Interface) {
	t.Helper()
	must[*corev1.ServiceAccount](t)(c.CoreV1().ServiceAccounts("default").Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
}

func TestARestartLosesAndChangesNothing(t *testing.T) {
	dir := t.TempDir()
	in := start(t, dir, nil)
	c := client(t, in.admin)
	services := c.CoreV1().Services("default")
	svc := must[*corev1.Service](t)(services.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{}))
	in.stop()

	in = start(t, dir, nil)
	services = client(t, in.admin).CoreV1().Services("default")
	again := must[*corev1.Service](t)(services.Get(t.Context(), "web", metav1.GetOptions{}))
	if fmt.Sprint(again) != fmt.Sprint(svc) {
		t.Errorf("before %v\nafter  %v", svc, again)
	}
	// What was allocated stays allocated.
	thief := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "thief"}, Spec: corev1.ServiceSpec{ClusterIP: svc.Spec.ClusterIP, Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := services.Create(t.Context(), thief, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("the address was given away: %v", err)
	}
	thief.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: svc.Spec.Ports[0].NodePort}}}
	if _, err := services.Create(t.Context(), thief, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("the node port was given away: %v", err)
	}
}

func TestInProcessClientsHaveTheRightsOfTheirIdentity(t *testing.T) {
	in := start(t, t.TempDir(), nil)
	for _, q := range []struct {
		user   string
		groups []string
		list   string
		ok     bool
	}{
		{"system:kube-scheduler", nil, "pods", true},
		{"system:kube-scheduler", nil, "secrets", false},
		{"system:serviceaccount:kube-system:deployment-controller", nil, "replicasets", true},
		{"system:node:here", []string{"system:nodes"}, "endpointslices", true},
		{"system:gantry:network", nil, "services", true},
		{"system:gantry:network", nil, "secrets", false},
		{"somebody", nil, "pods", false},
		{"anybody", []string{"system:masters"}, "secrets", true},
	} {
		c := client(t, in.ClientConfig(q.user, q.groups...))
		var err error
		switch q.list {
		case "pods":
			_, err = c.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
		case "secrets":
			_, err = c.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
		case "services":
			_, err = c.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
		case "replicasets":
			_, err = c.AppsV1().ReplicaSets("").List(t.Context(), metav1.ListOptions{})
		case "endpointslices":
			_, err = c.DiscoveryV1().EndpointSlices("").List(t.Context(), metav1.ListOptions{})
		}
		if q.ok && err != nil || !q.ok && !apierrors.IsForbidden(err) {
			t.Errorf("%s lists %s: %v", q.user, q.list, err)
		}
	}
}

// Components' frequent writes are not recorded in managedFields, and leave others' record alone.
func TestComponentsLeaveFieldOwnershipAlone(t *testing.T) {
	in := start(t, t.TempDir(), nil)
	admin, component := client(t, in.admin), client(t, in.ClientConfig("component", "system:masters"))
	addAccount(t, admin)
	labels := map[string]string{"app": "web"}
	d, err := admin.AppsV1().Deployments("default").Apply(t.Context(), appsapply.Deployment("web", "default").WithSpec(appsapply.DeploymentSpec().
		WithReplicas(1).WithSelector(metaapply.LabelSelector().WithMatchLabels(labels)).WithTemplate(coreapply.PodTemplateSpec().WithLabels(labels).
		WithSpec(coreapply.PodSpec().WithContainers(coreapply.Container().WithName("main").WithImage("example.com/app"))))), metav1.ApplyOptions{FieldManager: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	d.ManagedFields = nil // as an informer that saves memory hands it out
	d.Status.ObservedGeneration = 1
	d, err = component.AppsV1().Deployments("default").UpdateStatus(t.Context(), d, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.ManagedFields) != 1 || d.ManagedFields[0].Manager != "alice" || d.Status.ObservedGeneration != 1 {
		t.Errorf("after a status update: %+v", d.ManagedFields)
	}
	p, err := component.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "example.com/app"}}}}, metav1.CreateOptions{})
	if err != nil || len(p.ManagedFields) != 0 || p.UID == "" || p.UID == "unrecorded" {
		t.Fatalf("a component's pod: %v, %v", err, p)
	}
	p, err = admin.CoreV1().Pods("default").Apply(t.Context(), coreapply.Pod("p", "default").WithLabels(labels), metav1.ApplyOptions{FieldManager: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	p, err = component.CoreV1().Pods("default").Patch(t.Context(), "p", types.MergePatchType, []byte(`{"metadata":{"annotations":{"a":"b"}}}`), metav1.PatchOptions{})
	if err != nil || len(p.ManagedFields) != 2 || p.Annotations["a"] != "b" {
		t.Fatalf("a component's patch: %v, %+v", err, p.ManagedFields)
	}
	d, err = component.AppsV1().Deployments("default").Patch(t.Context(), "web", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{FieldManager: "scaler"})
	if err != nil || len(d.ManagedFields) != 2 {
		t.Fatalf("what users apply is recorded for all: %v, %+v", err, d.ManagedFields)
	}
}

// nodeAgent answers as the node agent would.
func nodeAgent(t *testing.T, h http.Handler) func(context.Context) (net.Conn, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}
}

func TestLogsComeFromTheNodeAgent(t *testing.T) {
	asked := make(chan string, 1)
	dial := nodeAgent(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.String()
		_, _ = io.WriteString(w, "hello\n")
		w.(http.Flusher).Flush()
		if r.URL.Query().Get("follow") != "" {
			<-r.Context().Done()
		}
	}))
	in := start(t, t.TempDir(), func(c *apiserver.Config) { c.DialNode = dial })
	admin := client(t, in.admin)
	addAccount(t, admin)
	pods := admin.CoreV1().Pods("default")
	must[*corev1.Pod](t)(pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{NodeName: "here", Containers: []corev1.Container{{Name: "main", Image: "example.com/app"}}}}, metav1.CreateOptions{}))
	for name, c := range map[string]kubernetes.Interface{"network": admin, "in-process": client(t, in.ClientConfig("x", "system:masters"))} {
		for _, follow := range []bool{false, true} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			body, err := c.CoreV1().Pods("default").GetLogs("p", &corev1.PodLogOptions{Follow: follow}).Stream(ctx)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			line := make([]byte, 6)
			if _, err := io.ReadFull(body, line); err != nil || string(line) != "hello\n" {
				t.Errorf("%s, follow %v: read %q, %v", name, follow, line, err)
			}
			_ = body.Close()
			cancel()
			if url := <-asked; !strings.HasPrefix(url, "/containerLogs/default/p/main") {
				t.Errorf("the agent was asked for %s", url)
			}
		}
	}
}

func TestUpgradesReachTheNodeAgent(t *testing.T) {
	dial := nodeAgent(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/exec/default/p/main") || r.Header.Get("Upgrade") == "" {
			http.Error(w, "unexpected "+r.URL.String(), http.StatusBadRequest)
			return
		}
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nfrom the agent", r.Header.Get("Upgrade"))
		_ = buf.Flush()
	}))
	in := start(t, t.TempDir(), func(c *apiserver.Config) { c.DialNode = dial })
	admin := client(t, in.admin)
	addAccount(t, admin)
	must[*corev1.Pod](t)(admin.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{NodeName: "here", Containers: []corev1.Container{{Name: "main", Image: "example.com/app"}}}}, metav1.CreateOptions{}))
	cfg := rest.CopyConfig(in.admin)
	cfg.NextProtos = []string{"http/1.1"} // which alone can be upgraded
	rt, err := rest.TransportFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, in.admin.Host+"/api/v1/namespaces/default/pods/p/exec?command=date&stdout=true", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "SPDY/3.1")
	req.Header.Set("X-Stream-Protocol-Version", "v4.channel.k8s.io")
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusSwitchingProtocols || string(b) != "from the agent" {
		t.Errorf("%s: %s", resp.Status, b)
	}
}

func TestTheNodeProxyLeadsToNodesOnly(t *testing.T) {
	dial := nodeAgent(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "agent ", r.URL.Path) }))
	in := start(t, t.TempDir(), func(c *apiserver.Config) { c.DialNode = dial })
	admin := client(t, in.admin)
	node := must[*corev1.Node](t)(admin.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a-name-unknown-to-dns"}}, metav1.CreateOptions{}))
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.10"}}
	must[*corev1.Node](t)(admin.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}))
	get := func(name string) (string, error) {
		b, err := admin.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + name + "/proxy/stats/summary").DoRaw(t.Context())
		return string(b), err
	}
	if got, err := get(node.Name); err != nil || got != "agent /stats/summary" {
		t.Errorf("the node's agent: %q, %v", got, err)
	}
	for _, name := range []string{"192.0.2.10", "192.0.2.10:22", "https:192.0.2.10:22"} {
		if _, err := get(name); !apierrors.IsNotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMountsAreBehindAuthorization(t *testing.T) {
	in := start(t, t.TempDir(), nil)
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello from ", r.URL.Path) })
	if err := in.Mount("/console/", hello); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{"/apis/mine/", "console", "/console"} {
		if err := in.Mount(wrong, hello); err == nil {
			t.Errorf("%q was accepted", wrong)
		}
	}
	get := func(cfg *rest.Config) (string, error) {
		b, err := client(t, cfg).CoreV1().RESTClient().Get().AbsPath("/console/page").DoRaw(t.Context())
		return string(b), err
	}
	if got, err := get(in.admin); err != nil || got != "hello from /console/page" {
		t.Errorf("administrator: %q, %v", got, err)
	}
	if _, err := get(rest.AnonymousClientConfig(in.admin)); !apierrors.IsForbidden(err) {
		t.Errorf("nobody: %v", err)
	}
}

func TestPodsFindTheAPI(t *testing.T) {
	at := netip.MustParseAddr("192.0.2.10") // of a bridge that does not exist yet
	in := start(t, t.TempDir(), func(c *apiserver.Config) { c.AdvertiseAddress = at })
	admin := client(t, in.admin)
	svc := must[*corev1.Service](t)(admin.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{}))
	if svc.Spec.ClusterIP != "10.96.0.1" {
		t.Errorf("the API's service is at %s", svc.Spec.ClusterIP)
	}
	slice, err := admin.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if port := in.Addr().(*net.TCPAddr).Port; slice.Endpoints[0].Addresses[0] != at.String() || int(*slice.Ports[0].Port) != port {
		t.Errorf("the API's endpoint is %v %v, want %s port %d", slice.Endpoints, slice.Ports, at, port)
	}
	cfg := rest.CopyConfig(in.admin)
	for _, name := range []string{"kubernetes.default.svc", "10.96.0.1", "localhost", at.String()} {
		cfg.ServerName = name
		if _, err := client(t, cfg).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Errorf("as %s: %v", name, err)
		}
	}
}

func TestPodsCannotTakeAllConnections(t *testing.T) {
	bridge := ownAddress(t)
	in := start(t, t.TempDir(), func(c *apiserver.Config) { c.AdvertiseAddress, c.PodConnections = bridge, 3 })
	podSide := netip.AddrPortFrom(bridge, in.Addr().(*net.TCPAddr).AddrPort().Port()).String()
	asPod := rest.CopyConfig(in.admin)
	asPod.Host = "https://" + podSide
	var held []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", podSide)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		held = append(held, conn)
	}
	if _, err := client(t, in.admin).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("the operator: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := client(t, asPod).CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); err == nil {
		t.Error("a fourth connection was served")
	}
	for _, conn := range held {
		conn.Close()
	}
	if _, err := client(t, asPod).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// ownAddress is an address of this machine that is not loopback, as the API's on the bridge.
func ownAddress(t *testing.T) netip.Addr {
	t.Helper()
	for _, a := range must[[]net.Addr](t)(net.InterfaceAddrs()) {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr()
		}
	}
	t.Skip("this machine has no address beside loopback")
	return netip.Addr{}
}

func TestShutdownEndsWatches(t *testing.T) {
	in := start(t, t.TempDir(), nil)
	w, err := client(t, in.admin).CoreV1().ConfigMaps("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	begin := time.Now()
	in.stop()
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("the end took %s", d)
	}
	deadline := time.After(time.Minute)
	for {
		select {
		case _, ok := <-w.ResultChan():
			if !ok {
				return
			}
		case <-deadline:
			t.Fatal("the watch goes on")
		}
	}
}

func TestSecretsOfTheInstanceAreKept(t *testing.T) {
	in := start(t, t.TempDir(), nil)
	for _, name := range []string{"kubeconfig", "pki/ca.pem", "pki/service-account.key"} {
		info, err := os.Stat(filepath.Join(in.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

func TestBadConfigurationIsExplained(t *testing.T) {
	dir := t.TempDir()
	_, err := apiserver.New(t.Context(), apiserver.Config{DataDir: dir})
	if err == nil || !strings.Contains(err.Error(), "Store is missing") {
		t.Errorf("no store: %v", err)
	}
	in := start(t, dir, nil)
	for what, cfg := range map[string]apiserver.Config{
		"too small":  {ServiceCIDR: netip.MustParsePrefix("10.0.0.0/28")},
		"node ports": {NodePorts: "many"},
		"in use":     {Listen: in.Addr().String()},
	} {
		cfg.DataDir, cfg.Store = t.TempDir(), in.store
		if cfg.Listen == "" {
			cfg.Listen = "127.0.0.1:0"
		}
		if _, err := apiserver.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("want a refusal that says %q, got %v", what, err)
		}
	}
}

func TestServicesMayNotClaimForeignAddresses(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		in := start(t, t.TempDir(), func(cfg *apiserver.Config) { cfg.AllowExternalIPs = allowed })
		services := client(t, in.admin).CoreV1().Services("default")
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "greedy"},
			Spec: corev1.ServiceSpec{ExternalIPs: []string{"203.0.113.9"}, Ports: []corev1.ServicePort{{Port: 80}}}}
		if _, err := services.Create(t.Context(), svc, metav1.CreateOptions{}); allowed && err != nil || !allowed && !apierrors.IsForbidden(err) {
			t.Errorf("allowed %t: %v", allowed, err)
		}
		in.stop()
	}
}
