// Package usage reads from the monitor what pods use, and adds it up by workload, namespace or node.
//
// It asks with the caller's identity (package samples). Rates are those of the last minute; what has
// not run for two scrapes has none yet.
//
// Imported by the commands that show figures.
package usage

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/samples"
)

// Row is what one thing uses. Nil is not known, or for a limit that there is none.
type Row struct {
	Namespace   string   `json:"namespace,omitempty"`
	Name        string   `json:"name"`
	CPU         *float64 `json:"cpuCores"`
	CPULimit    *float64 `json:"cpuLimitCores,omitempty"`
	Memory      float64  `json:"memoryBytes"` // of the working set
	MemoryLimit *float64 `json:"memoryLimitBytes,omitempty"`
	NetworkIn   *float64 `json:"networkInBytesPerSecond"`
	NetworkOut  *float64 `json:"networkOutBytesPerSecond"`
	DiskRead    *float64 `json:"diskReadBytesPerSecond"`
	DiskWritten *float64 `json:"diskWrittenBytesPerSecond"`
	Pods        int      `json:"pods"`
	Restarts    int      `json:"restarts"`
}

// CheckBy refuses what rows cannot be made by.
func CheckBy(by string) error {
	if !slices.Contains([]string{"pod", "deployment", "namespace", "node"}, by) {
		return fmt.Errorf("%q: one of pod, deployment, namespace and node is known", by)
	}
	return nil
}

// Reader reads from one installation. Its methods are safe for concurrent use.
type Reader struct{ samples *samples.Reader }

// NewReader makes a reader of the installation that cfg names.
func NewReader(cfg *rest.Config) (*Reader, error) {
	reader, err := samples.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("read figures: %w", err)
	}
	return &Reader{reader}, nil
}

// query asks for a vector.
func (r *Reader) query(ctx context.Context, promql string) (model.Vector, error) {
	found, err := r.samples.Vector(ctx, promql, time.Now())
	if err != nil {
		return nil, fmt.Errorf("read figures: %w", err)
	}
	return found, nil
}

// key names a row.
type key struct{ namespace, name string }

// table collects figures in rows.
type table struct {
	rows map[key]*Row
	of   func(model.Metric) (key, bool) // the row that a sample belongs to
}

func (t *table) row(m model.Metric) *Row {
	k, known := t.of(m)
	if !known {
		return nil
	}
	if t.rows[k] == nil {
		t.rows[k] = &Row{Namespace: k.namespace, Name: k.name}
	}
	return t.rows[k]
}

// figure is a query and where its result goes.
type figure struct {
	promql string
	add    func(*Row, float64)
}

func add(to **float64, v float64) {
	if *to == nil {
		*to = new(float64)
	}
	**to += v
}

// ofPods are the figures of pods; %s is a label matcher for their namespace.
var ofPods = []figure{
	{`sum by (namespace, pod) (kube_pod_info{%s})`, func(r *Row, v float64) { r.Pods += int(v) }},
	{`sum by (namespace, pod) (rate(container_cpu_usage_seconds_total{%s}[1m]))`, func(r *Row, v float64) { add(&r.CPU, v) }},
	{`sum by (namespace, pod) (kube_pod_container_resource_limits{resource="cpu",%s})`, func(r *Row, v float64) { add(&r.CPULimit, v) }},
	{`sum by (namespace, pod) (container_memory_working_set_bytes{%s})`, func(r *Row, v float64) { r.Memory += v }},
	{`sum by (namespace, pod) (kube_pod_container_resource_limits{resource="memory",%s})`, func(r *Row, v float64) { add(&r.MemoryLimit, v) }},
	{`sum by (namespace, pod) (rate(container_network_receive_bytes_total{%s}[1m]))`, func(r *Row, v float64) { add(&r.NetworkIn, v) }},
	{`sum by (namespace, pod) (rate(container_network_transmit_bytes_total{%s}[1m]))`, func(r *Row, v float64) { add(&r.NetworkOut, v) }},
	{`sum by (namespace, pod) (rate(container_fs_reads_bytes_total{%s}[1m]))`, func(r *Row, v float64) { add(&r.DiskRead, v) }},
	{`sum by (namespace, pod) (rate(container_fs_writes_bytes_total{%s}[1m]))`, func(r *Row, v float64) { add(&r.DiskWritten, v) }},
	{`sum by (namespace, pod) (kube_pod_container_status_restarts_total{%s})`, func(r *Row, v float64) { r.Restarts += int(v) }},
}

// ofNodes are the figures of machines, by node_exporter's names.
var ofNodes = []figure{
	{`sum by (node) (kube_pod_info{node!=""})`, func(r *Row, v float64) { r.Pods += int(v) }},
	{`sum by (instance) (rate(node_cpu_seconds_total{mode!~"idle|iowait|steal"}[1m]))`, func(r *Row, v float64) { add(&r.CPU, v) }},
	{`count by (instance) (node_cpu_seconds_total{mode="idle"})`, func(r *Row, v float64) { add(&r.CPULimit, v) }},
	{`sum by (instance) (node_memory_MemTotal_bytes - node_memory_MemAvailable_bytes)`, func(r *Row, v float64) { r.Memory += v }},
	{`sum by (instance) (node_memory_MemTotal_bytes)`, func(r *Row, v float64) { add(&r.MemoryLimit, v) }},
	{`sum by (instance) (rate(node_network_receive_bytes_total{device!="lo"}[1m]))`, func(r *Row, v float64) { add(&r.NetworkIn, v) }},
	{`sum by (instance) (rate(node_network_transmit_bytes_total{device!="lo"}[1m]))`, func(r *Row, v float64) { add(&r.NetworkOut, v) }},
	{`sum by (instance) (rate(node_disk_read_bytes_total[1m]))`, func(r *Row, v float64) { add(&r.DiskRead, v) }},
	{`sum by (instance) (rate(node_disk_written_bytes_total[1m]))`, func(r *Row, v float64) { add(&r.DiskWritten, v) }},
	{`sum by (node) (kube_pod_container_status_restarts_total * on (namespace, pod) group_left (node) kube_pod_info)`, func(r *Row, v float64) { r.Restarts += int(v) }},
}

// Read adds up by pod, deployment, namespace or node. A namespace restricts it to its pods; it has no
// meaning for nodes. The greatest users of processor time come first.
func (r *Reader) Read(ctx context.Context, by, namespace string) ([]Row, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	t := &table{rows: map[key]*Row{}}
	figures, matcher := ofPods, ""
	if namespace != "" {
		matcher = fmt.Sprintf("namespace=%q", namespace)
	}
	switch by {
	case "node":
		figures = ofNodes
		t.of = func(m model.Metric) (key, bool) {
			name := string(cmp.Or(m["node"], m["instance"]))
			return key{name: name}, name != ""
		}
	case "namespace":
		t.of = func(m model.Metric) (key, bool) { return key{name: string(m["namespace"])}, true }
	case "deployment":
		workloads, err := r.workloads(ctx)
		if err != nil {
			return nil, err
		}
		t.of = func(m model.Metric) (key, bool) {
			pod := key{string(m["namespace"]), string(m["pod"])}
			owner, owned := workloads[pod]
			if !owned {
				return pod, true
			}
			return key{pod.namespace, owner}, true
		}
	default:
		t.of = func(m model.Metric) (key, bool) { return key{string(m["namespace"]), string(m["pod"])}, true }
	}
	for _, f := range figures {
		promql := f.promql
		if by != "node" {
			promql = fmt.Sprintf(promql, matcher)
		}
		found, err := r.query(ctx, promql)
		if err != nil {
			return nil, err
		}
		for _, s := range found {
			if row := t.row(s.Metric); row != nil {
				f.add(row, float64(s.Value))
			}
		}
	}
	return t.sorted(), nil
}

// sorted lists the rows. Those of pods that are gone, of which only old figures are left, are left out.
func (t *table) sorted() []Row {
	list := []Row{}
	for _, row := range t.rows {
		if row.Pods > 0 || row.MemoryLimit != nil {
			list = append(list, *row)
		}
	}
	value := func(v *float64) float64 {
		if v == nil {
			return -1
		}
		return *v
	}
	slices.SortFunc(list, func(a, b Row) int {
		return cmp.Or(cmp.Compare(value(b.CPU), value(a.CPU)), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// workloads tells which workload a pod belongs to: its controller, or that one's.
func (r *Reader) workloads(ctx context.Context) (map[key]string, error) {
	sets, err := r.query(ctx, `kube_replicaset_owner{owner_kind!=""}`)
	if err != nil {
		return nil, err
	}
	above := map[key]string{}
	for _, s := range sets {
		above[key{string(s.Metric["namespace"]), string(s.Metric["replicaset"])}] = string(s.Metric["owner_name"])
	}
	pods, err := r.query(ctx, `kube_pod_owner{owner_kind!=""}`)
	if err != nil {
		return nil, err
	}
	of := map[key]string{}
	for _, s := range pods {
		namespace, owner := string(s.Metric["namespace"]), string(s.Metric["owner_name"])
		if name := above[key{namespace, owner}]; name != "" && s.Metric["owner_kind"] == "ReplicaSet" {
			owner = name
		}
		of[key{namespace, string(s.Metric["pod"])}] = owner
	}
	return of, nil
}
