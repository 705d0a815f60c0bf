package controller

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// BenchmarkChangeOneOf10000Routes is how long a change of a route takes from its
// acceptance by the API until a request goes by it, and what all of that costs.
func BenchmarkChangeOneOf10000Routes(b *testing.B) {
	const routes = 10_000
	w := newWorld(b)
	w.service("web", "hello")
	client := w.gateway.GatewayV1().HTTPRoutes("shop")
	for i := range routes {
		w.must(client.Create(w.ctx, numbered(i, fmt.Sprintf("host-%d.example.com", i/10), fmt.Sprintf("/api/%d", i%10)), metav1.CreateOptions{}))
	}
	w.eventually("the last route is served", func() string {
		if status, _ := w.get(fmt.Sprintf("host-%d.example.com", (routes-1)/10), fmt.Sprintf("/api/%d", (routes-1)%10)); status != 200 {
			return fmt.Sprint(status)
		}
		return ""
	})
	var took []time.Duration
	var used time.Duration
	for n := 0; b.Loop(); n++ {
		i, host := n%routes, fmt.Sprintf("changed-%d.example.com", n)
		before := processorTime()
		w.must(client.Update(w.ctx, numbered(i, host, "/"), metav1.UpdateOptions{}))
		accepted := time.Now()
		w.eventually("the change is live", func() string {
			if status, _ := w.get(host, "/"); status != 200 {
				return fmt.Sprint(status)
			}
			return ""
		})
		took = append(took, time.Since(accepted))
		used += processorTime() - before
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
	b.ReportMetric(float64(used.Microseconds())/float64(len(took))/1000, "cpu-ms/op")
}

func numbered(i int, host, path string) *gatewayv1.HTTPRoute {
	namespace, port := gatewayv1.Namespace("gantry-system"), gatewayv1.PortNumber(80)
	return &gatewayv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("route-%d", i), Namespace: "shop"},
		Spec: gatewayv1.HTTPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: "default", Namespace: &namespace}}},
			Hostnames:       []gatewayv1.Hostname{gatewayv1.Hostname(host)},
			Rules: []gatewayv1.HTTPRouteRule{{
				Matches: []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Value: &path}}},
				BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: gatewayv1.BackendObjectReference{
					Name: "web", Port: &port,
				}}}},
			}},
		},
	}
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
