package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

// What a large configuration of the gateway consists of.
const (
	manyServices = 1000
	manyRoutes   = 5000
)

// BenchmarkGatewayRoutes measures what the process `gantry gateway` holds in memory
// with few routes and with many, each for a host of its own and accepted.
func BenchmarkGatewayRoutes(b *testing.B) {
	testenv.NeedContainers(b)
	for b.Loop() {
		in := instance.Start(b, instance.Options{})
		config := in.Config(b)
		config.QPS = -1
		routes, err := gatewayclient.NewForConfig(config)
		must(b, err)
		client, before := in.Client(b), gatewayMemory(b, in, "Pss")
		must(b, create(b.Context(), manyServices, func(ctx context.Context, i int) error { return createService(ctx, client, i) }))
		start := time.Now()
		must(b, create(b.Context(), manyRoutes, func(ctx context.Context, i int) error {
			_, err := routes.GatewayV1().HTTPRoutes(namespace).Create(ctx, manyRoute(i), metav1.CreateOptions{})
			return err
		}))
		awaitAccepted(b, routes, manyRoutes)
		took := time.Since(start)
		time.Sleep(settling) // memory of the work itself is given back
		after := gatewayMemory(b, in, "Pss")
		fmt.Printf("gateway's memory (Pss): %.1f MB as it starts, %.1f MB with %d routes to %d services, which took %v to be accepted; %.1f MB of it are its own data, %.1f MB parts of the program\n",
			before, after, manyRoutes, manyServices, took.Round(time.Millisecond), gatewayMemory(b, in, "Pss_Anon"), gatewayMemory(b, in, "Pss_File"))
		b.ReportMetric(after, "gateway-MB")
	}
}

// manyChanges is how many routes are changed, one after another.
const manyChanges = 300

// BenchmarkRouteChange measures the time from the API's answer to a change of one
// of many routes until the gateway goes by it, and what the gateway needs for it; and
// the same for Gateways beside the one that has the routes.
func BenchmarkRouteChange(b *testing.B) {
	testenv.NeedContainers(b)
	for b.Loop() {
		in := instance.Start(b, instance.Options{})
		config := in.Config(b)
		config.QPS = -1
		routes, err := gatewayclient.NewForConfig(config)
		must(b, err)
		client := in.Client(b)
		must(b, createService(b.Context(), client, 0)) // all routes go there
		must(b, client.DiscoveryV1().EndpointSlices(namespace).Delete(b.Context(), "many-0", metav1.DeleteOptions{}))
		const total = 2 * manyRoutes
		must(b, create(b.Context(), total, func(ctx context.Context, i int) error {
			r := manyRoute(i)
			r.Spec.Rules[0].BackendRefs[0].Name = "many-0"
			_, err := routes.GatewayV1().HTTPRoutes(namespace).Create(ctx, r, metav1.CreateOptions{})
			return err
		}))
		awaitRouted(b, in.Gateway, fmt.Sprintf("many-%d.example.com", total-1))
		awaitAccepted(b, routes, total) // what is written meanwhile comes before the changes
		time.Sleep(settling)
		pid := gatewayPID(b, in)
		used, took := processorTime(b, pid), make([]time.Duration, manyChanges)
		for i := range took {
			host := fmt.Sprintf("changed-%d.example.com", i)
			patch := fmt.Sprintf(`{"spec":{"hostnames":[%q]}}`, host)
			_, err := routes.GatewayV1().HTTPRoutes(namespace).Patch(b.Context(), fmt.Sprintf("many-%d", i*(total/manyChanges)), types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			must(b, err)
			accepted := time.Now()
			awaitRouted(b, in.Gateway, host)
			took[i] = time.Since(accepted)
		}
		used = processorTime(b, pid) - used
		slices.Sort(took)
		fmt.Printf("a change of one of %d routes is live after %.2f ms (median), %.2f ms (99 of 100), for %.2f ms of the gateway's processor time with its status and the requests that ask\n",
			total, milliseconds(took[manyChanges/2]), milliseconds(took[manyChanges*99/100]), milliseconds(used)/manyChanges)
		b.ReportMetric(milliseconds(took[manyChanges/2]), "ms-p50")
		b.ReportMetric(milliseconds(took[manyChanges*99/100]), "ms-p99")
		took = addGateways(b, in.Gateway, routes)
		fmt.Printf("a Gateway beside them is live after %.2f ms (median), %.2f ms (the longest of %d)\n",
			milliseconds(took[len(took)/2]), milliseconds(took[len(took)-1]), len(took))
		b.ReportMetric(milliseconds(took[len(took)/2]), "gateway-ms-p50")
	}
}

// manyGateways is how many Gateways are added, one after another.
const manyGateways = 40

// addGateways measures the time from the API's answer to a Gateway until it serves the route
// that has waited for it.
func addGateways(t testing.TB, gateway string, client gatewayclient.Interface) []time.Duration {
	t.Helper()
	took := make([]time.Duration, manyGateways)
	for i := range took {
		host := gatewayv1.Hostname(fmt.Sprintf("added-%d.example.com", i))
		name := gatewayv1.ObjectName(fmt.Sprintf("added-%d", i))
		r := manyRoute(i)
		r.Name, r.Spec.Hostnames = string(name), []gatewayv1.Hostname{host}
		r.Spec.ParentRefs = []gatewayv1.ParentReference{{Name: name}}
		r.Spec.Rules[0].BackendRefs[0].Name = "many-0"
		_, err := client.GatewayV1().HTTPRoutes(namespace).Create(t.Context(), r, metav1.CreateOptions{})
		must(t, err)
		g := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Name: string(name)}}
		g.Spec.GatewayClassName = "gantry"
		g.Spec.Listeners = []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType, Hostname: &host}}
		_, err = client.GatewayV1().Gateways(namespace).Create(t.Context(), g, metav1.CreateOptions{})
		must(t, err)
		accepted := time.Now()
		awaitRouted(t, gateway, string(host))
		took[i] = time.Since(accepted)
	}
	slices.Sort(took)
	return took
}

// askAgain is how exactly the time of a change is measured. Who asks without a pause takes the
// processors from those who make the change.
const askAgain = 100 * time.Microsecond

// awaitRouted asks the gateway until it has a route for the host. Its Service has no
// endpoints, so that the answer comes at once and from the gateway itself.
func awaitRouted(t testing.TB, gateway, host string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+gateway+"/", nil)
		must(t, err)
		r.Host = host
		response, err := http.DefaultTransport.RoundTrip(r)
		must(t, err)
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode == http.StatusServiceUnavailable {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is answered with %s", host, response.Status)
		}
		time.Sleep(askAgain)
	}
}

// processorTime is what a process has used.
func processorTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	p, ok := processes()[pid]
	if !ok {
		t.Fatalf("process %d has ended", pid)
	}
	return p.cpu
}

// create calls f for each number, some at a time.
func create(ctx context.Context, n int, f func(context.Context, int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error { return f(ctx, i) })
	}
	return g.Wait()
}

func createService(ctx context.Context, client kubernetes.Interface, i int) error {
	name, port, portName, ready := fmt.Sprintf("many-%d", i), int32(8080), "http", true
	_, err := client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: portName, Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{fmt.Sprintf("198.18.%d.%d", i/250, 1+i%250)}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}, metav1.CreateOptions{})
	return err
}

func manyRoute(i int) *gatewayv1.HTTPRoute {
	system, port := gatewayv1.Namespace("gantry-system"), gatewayv1.PortNumber(80)
	backend := gatewayv1.HTTPBackendRef{}
	backend.Name, backend.Port = gatewayv1.ObjectName(fmt.Sprintf("many-%d", i%manyServices)), &port
	r := &gatewayv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("many-%d", i)}}
	r.Spec.ParentRefs = []gatewayv1.ParentReference{{Name: "default", Namespace: &system}}
	r.Spec.Hostnames = []gatewayv1.Hostname{gatewayv1.Hostname(fmt.Sprintf("many-%d.example.com", i))}
	r.Spec.Rules = []gatewayv1.HTTPRouteRule{{BackendRefs: []gatewayv1.HTTPBackendRef{backend}}}
	return r
}

// awaitAccepted returns when the statuses of all n routes say that the gateway has accepted them.
func awaitAccepted(t testing.TB, routes gatewayclient.Interface, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Second) {
		list, err := routes.GatewayV1().HTTPRoutes(namespace).List(t.Context(), metav1.ListOptions{})
		must(t, err)
		accepted := 0
		for i := range list.Items {
			for _, p := range list.Items[i].Status.Parents {
				if meta.IsStatusConditionTrue(p.Conditions, string(gatewayv1.RouteConditionAccepted)) {
					accepted++
				}
			}
		}
		if accepted == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d routes are accepted", accepted, n)
		}
	}
}

// gatewayMemory is a field of smaps_rollup (proc_pid_smaps(5)) of an instance's gateway in MB.
func gatewayMemory(t testing.TB, in *instance.Instance, field string) float64 {
	t.Helper()
	return memorySizes(field, gatewayPID(t, in))
}

func gatewayPID(t testing.TB, in *instance.Instance) int {
	t.Helper()
	for pid, p := range processes() {
		if strings.Contains(p.command, "\x00gateway\x00") && strings.Contains(p.command, in.DataDir) {
			return pid
		}
	}
	t.Fatal("no gateway is running")
	return 0
}
