package anomaly

import (
	"math"
	"strings"

	"github.com/prometheus/common/model"
)

// signal is one thing that is watched of each workload or route.
type signal struct {
	name string
	unit string
	// expr gives it by (namespace, pod) or by (route).
	expr string
	// mean takes the mean of a workload's pods instead of the sum, so that scaling does not change it.
	mean bool
	// both says that too little is anomalous as well.
	both bool
	// relative, absolute and count make up the deviation that is always granted: a share of what is expected, a
	// constant, and for rates of countable things the deviation of a Poisson distribution over a minute.
	relative, absolute float64
	count              bool
}

func (s *signal) grant(expected float64) float64 {
	g := s.relative*expected + s.absolute
	if s.count {
		g = max(g, math.Sqrt(expected*60)/60)
	}
	return g
}

// Signals of pods are summed up by workload; those of routes come from the gateway, which counts by route.
var ofPods = []signal{
	{name: "cpu", unit: "cores", both: true, relative: 0.15, absolute: 0.02,
		expr: `sum by (namespace, pod) (rate(container_cpu_usage_seconds_total{container!=""}[1m]))`},
	{name: "memory", unit: "bytes", mean: true, relative: 0.05, absolute: 8 << 20,
		expr: `sum by (namespace, pod) (container_memory_working_set_bytes{container!=""})`},
	{name: "restarts", unit: "in 5 minutes", absolute: 0.3,
		expr: `sum by (namespace, pod) (increase(kube_pod_container_status_restarts_total[5m]))`},
	{name: "log_lines", unit: "lines/s", relative: 0.25, absolute: 1, count: true,
		expr: `sum by (namespace, pod) (rate(gantry_log_lines_total[1m]))`},
}

var ofRoutes = []signal{
	{name: "requests", unit: "requests/s", both: true, relative: 0.1, absolute: 0.5, count: true,
		expr: `sum by (route) (rate(gantry_gateway_requests_total{route!=""}[1m]))`},
	{name: "errors", unit: "errors/s", relative: 0.25, absolute: 0.05, count: true,
		expr: `sum by (route) (rate(gantry_gateway_requests_total{route!="",code=~"5.."}[1m])) or sum by (route) (rate(gantry_gateway_requests_total{route!=""}[1m])) * 0`},
	{name: "latency", unit: "seconds", relative: 0.2, absolute: 0.005,
		expr: `histogram_quantile(0.95, sum by (route, le) (rate(gantry_gateway_request_duration_seconds_bucket{route!=""}[1m])))`},
}

// Subject is whose signals are watched: a workload or a route.
type Subject struct {
	Namespace string `json:"namespace"`
	Kind      string `json:"kind"` // Deployment, StatefulSet, DaemonSet, CronJob, HTTPRoute, Ingress ...
	Name      string `json:"name"`
}

// Expressions that tell which pod belongs to what.
const (
	ownersOfPods        = `kube_pod_owner{owner_is_controller="true"}`
	ownersOfReplicaSets = `kube_replicaset_owner{owner_is_controller="true"}`
	ownersOfJobs        = `kube_job_owner{owner_is_controller="true"}`
)

// workloads maps pods, as NAMESPACE/NAME, to their workloads. Pods that belong to nothing, or to a Job that nothing
// repeats, have no usual behaviour and are left out.
func workloads(pods, replicaSets, jobs model.Vector) map[string]Subject {
	above := map[Subject]Subject{}
	for kind, list := range map[string]model.Vector{"ReplicaSet": replicaSets, "Job": jobs} {
		label := model.LabelName(strings.ToLower(kind))
		if kind == "Job" {
			label = "job_name"
		}
		for _, s := range list {
			namespace := string(s.Metric["namespace"])
			above[Subject{namespace, kind, string(s.Metric[label])}] = owner(namespace, s.Metric)
		}
	}
	out := make(map[string]Subject, len(pods))
	for _, s := range pods {
		namespace := string(s.Metric["namespace"])
		of := owner(namespace, s.Metric)
		if further, ok := above[of]; ok {
			of = further
		} else if of.Kind == "Job" {
			continue
		}
		if of.Kind == "Node" { // a static pod
			continue
		}
		out[namespace+"/"+string(s.Metric["pod"])] = of
	}
	return out
}

func owner(namespace string, m model.Metric) Subject {
	return Subject{namespace, string(m["owner_kind"]), string(m["owner_name"])}
}

// byWorkload adds up what pods have.
func (s *signal) byWorkload(pods model.Vector, of map[string]Subject) map[Subject]float64 {
	sum, count := map[Subject]float64{}, map[Subject]int{}
	for _, p := range pods {
		subject, known := of[string(p.Metric["namespace"])+"/"+string(p.Metric["pod"])]
		if !known || !finite(float64(p.Value)) {
			continue
		}
		sum[subject] += float64(p.Value)
		count[subject]++
	}
	if s.mean {
		for subject, n := range count {
			sum[subject] /= float64(n)
		}
	}
	return sum
}

// byRoute reads what routes have, whose names are KIND/NAMESPACE/NAME.
func byRoute(routes model.Vector) map[Subject]float64 {
	out := map[Subject]float64{}
	for _, r := range routes {
		kind, rest, _ := strings.Cut(string(r.Metric["route"]), "/")
		namespace, name, ok := strings.Cut(rest, "/")
		if ok && finite(float64(r.Value)) {
			out[Subject{namespace, kind, name}] += float64(r.Value)
		}
	}
	return out
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
