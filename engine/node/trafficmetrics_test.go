package node

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/engine/network"
	"github.com/gantryhq/gantry/engine/network/nat"
)

func TestWorkloadOfPod(t *testing.T) {
	for _, of := range []struct {
		kind, name, hash string
		want             network.Workload
	}{
		{"ReplicaSet", "web-5d4f8c7b9", "5d4f8c7b9", network.Workload{Kind: "Deployment", Name: "web"}},
		{"ReplicaSet", "lone", "", network.Workload{Kind: "ReplicaSet", Name: "lone"}},
		{"Job", "report-29412345", "", network.Workload{Kind: "CronJob", Name: "report"}},
		{"Job", "migrate", "", network.Workload{Kind: "Job", Name: "migrate"}},
		{"StatefulSet", "db", "", network.Workload{Kind: "StatefulSet", Name: "db"}},
		{"", "", "", network.Workload{Kind: "Pod", Name: "p"}},
	} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"pod-template-hash": of.hash}}}
		if yes := true; of.kind != "" {
			pod.OwnerReferences = []metav1.OwnerReference{{Kind: of.kind, Name: of.name, Controller: &yes}}
		}
		if got := workloadOf(pod); got != of.want {
			t.Errorf("a pod of %s %q: got %+v, want %+v", of.kind, of.name, got, of.want)
		}
	}
}

func TestTrafficMetrics(t *testing.T) {
	b := &exposition{}
	b.ofTraffic(&fakeNetwork{traffic: []network.Traffic{
		{Edge: network.Edge{Namespace: "shop", Workload: network.Workload{Kind: "Deployment", Name: "web"}, ToNamespace: "shop", ToService: "cart"},
			Counts: nat.Counts{Bytes: 4096, Accepted: 3, Refused: 1}},
		{Edge: network.Edge{ToNamespace: "shop", ToService: "web"}, Counts: nat.Counts{Bytes: 10}},
	}})
	want := `# HELP gantry_service_traffic_bytes_total Bytes between a workload and a service, both ways.
# TYPE gantry_service_traffic_bytes_total counter
gantry_service_traffic_bytes_total{source_namespace="",source_kind="",source_workload="",destination_namespace="shop",destination_service="web"} 10
gantry_service_traffic_bytes_total{source_namespace="shop",source_kind="Deployment",source_workload="web",destination_namespace="shop",destination_service="cart"} 4096
# HELP gantry_service_connections_total TCP connections that a workload opened to a service.
# TYPE gantry_service_connections_total counter
gantry_service_connections_total{source_namespace="",source_kind="",source_workload="",destination_namespace="shop",destination_service="web"} 0
gantry_service_connections_total{source_namespace="shop",source_kind="Deployment",source_workload="web",destination_namespace="shop",destination_service="cart"} 3
# HELP gantry_service_refused_connections_total TCP connections that were refused to a workload.
# TYPE gantry_service_refused_connections_total counter
gantry_service_refused_connections_total{source_namespace="",source_kind="",source_workload="",destination_namespace="shop",destination_service="web"} 0
gantry_service_refused_connections_total{source_namespace="shop",source_kind="Deployment",source_workload="web",destination_namespace="shop",destination_service="cart"} 1
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
