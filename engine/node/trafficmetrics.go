package node

import (
	"cmp"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/engine/network"
)

// trafficFigures are the metrics of what workloads and services say to each other.
var trafficFigures = []struct {
	name, help string
	of         func(*network.Traffic) uint64
}{
	{"gantry_service_traffic_bytes_total", "Bytes between a workload and a service, both ways.", func(t *network.Traffic) uint64 { return t.Bytes }},
	{"gantry_service_connections_total", "TCP connections that a workload opened to a service.", func(t *network.Traffic) uint64 { return t.Accepted }},
	{"gantry_service_refused_connections_total", "TCP connections that were refused to a workload.", func(t *network.Traffic) uint64 { return t.Refused }},
}

// ofTraffic adds them. What is outside the cluster has empty names. Names of objects need no escaping.
func (b *exposition) ofTraffic(from Network) {
	list, err := from.Traffic()
	if err != nil {
		slog.Warn("traffic between services is unknown", "err", err)
		return
	}
	slices.SortFunc(list, func(x, y network.Traffic) int {
		return cmp.Or(strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Workload.Name, y.Workload.Name), strings.Compare(x.Kind, y.Kind),
			strings.Compare(x.ToNamespace, y.ToNamespace), strings.Compare(x.ToService, y.ToService))
	})
	for _, f := range trafficFigures {
		fmt.Fprintf(b, "# HELP %s %s\n", f.name, f.help)
		b.head(f.name, "counter")
		for i := range list {
			t := &list[i]
			b.sample(f.name, fmt.Sprintf("source_namespace=%q,source_kind=%q,source_workload=%q,destination_namespace=%q,destination_service=%q",
				t.Namespace, t.Kind, t.Workload.Name, t.ToNamespace, t.ToService), float64(f.of(t)), time.Time{})
		}
	}
}

// scheduledTime ends the names of the Jobs of a CronJob.
var scheduledTime = regexp.MustCompile(`-\d{8}$`)

// workloadOf tells what the pod belongs to, by its controller's name: a ReplicaSet bears that of its
// Deployment, a Job that of its CronJob.
func workloadOf(pod *v1.Pod) network.Workload {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return network.Workload{Kind: "Pod", Name: pod.Name}
	}
	hash := pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	if name, ok := strings.CutSuffix(owner.Name, "-"+hash); ok && hash != "" && owner.Kind == "ReplicaSet" {
		return network.Workload{Kind: "Deployment", Name: name}
	}
	if at := scheduledTime.FindStringIndex(owner.Name); at != nil && owner.Kind == "Job" {
		return network.Workload{Kind: "CronJob", Name: owner.Name[:at[0]]}
	}
	return network.Workload{Kind: owner.Kind, Name: owner.Name}
}
