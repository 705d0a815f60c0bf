package monitor

import (
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// minInterval is the shortest time between two scrapes that a workload may ask for.
const minInterval = time.Second

// bySliceService finds the EndpointSlices of a Service, as upstream's discovery looks them up.
func bySliceService(o any) ([]string, error) {
	slice, ok := o.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
}

// annotated are the jobs of pods and Services that ask by annotation to be scraped, with the
// annotations, job names and labels of the Prometheus chart: prometheus.io/scrape, port, path and scheme.
func annotated(interval time.Duration) []monitorJob {
	job := func(name, of string, more ...rule) job {
		annotation := "__meta_kubernetes_" + of + "_annotation_prometheus_io_"
		j := newJob(name, interval)
		j["relabel_configs"] = append([]rule{
			{"source_labels": []string{annotation + "scheme"}, "regex": "(https?)", "target_label": "__scheme__"},
			{"source_labels": []string{annotation + "path"}, "regex": "(.+)", "target_label": "__metrics_path__"},
			{"action": "labelmap", "regex": "__meta_kubernetes_" + of + "_label_(.+)"},
			{"source_labels": []string{"__meta_kubernetes_namespace"}, "target_label": "namespace"},
			{"source_labels": []string{"__meta_kubernetes_pod_name"}, "target_label": "pod"},
			{"source_labels": []string{"__meta_kubernetes_pod_node_name"}, "target_label": "node"},
			{"source_labels": []string{"__meta_kubernetes_pod_phase"}, "regex": "Pending|Succeeded|Failed|Completed", "action": "drop"},
		}, more...)
		return j
	}
	wants := func(f func(*keeper) found, of string) func(*keeper) []*targetgroup.Group {
		return func(k *keeper) []*targetgroup.Group {
			return f(k).sorted(func(g *targetgroup.Group) bool {
				return g.Labels[model.LabelName("__meta_kubernetes_"+of+"_annotation_prometheus_io_scrape")] == "true"
			})
		}
	}
	return []monitorJob{
		{job("kubernetes-pods", "pod",
			rule{"source_labels": []string{"__meta_kubernetes_pod_container_init"}, "regex": "true", "action": "drop"},
			rule{"source_labels": []string{"__meta_kubernetes_pod_annotation_prometheus_io_port", "__meta_kubernetes_pod_ip"},
				"regex": `(\d+);([0-9.]+)`, "replacement": "$2:$1", "target_label": "__address__"},
			rule{"source_labels": []string{"__meta_kubernetes_pod_annotation_prometheus_io_port", "__meta_kubernetes_pod_ip"},
				"regex": `(\d+);([0-9a-fA-F]*:.+)`, "replacement": "[$2]:$1", "target_label": "__address__"},
		), wants(func(k *keeper) found { return k.pods }, "pod")},
		{job("kubernetes-service-endpoints", "service",
			rule{"source_labels": []string{"__meta_kubernetes_service_name"}, "target_label": "service"},
			rule{"source_labels": []string{"__address__", "__meta_kubernetes_service_annotation_prometheus_io_port"},
				"regex": `(.+?)(?::\d+)?;(\d+)`, "replacement": "$1:$2", "target_label": "__address__"},
		), wants(func(k *keeper) found { return k.slices }, "service")},
	}
}
