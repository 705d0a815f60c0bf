package monitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The fields of a ServiceMonitor or PodMonitor (monitoring.coreos.com/v1) that are honoured; the
// API keeps the others as they are.
type (
	monitorSpec struct {
		JobLabel            string               `json:"jobLabel"`
		TargetLabels        []string             `json:"targetLabels"`
		PodTargetLabels     []string             `json:"podTargetLabels"`
		Selector            metav1.LabelSelector `json:"selector"`
		NamespaceSelector   namespaceSelector    `json:"namespaceSelector"`
		Endpoints           []endpoint           `json:"endpoints"`
		PodMetricsEndpoints []endpoint           `json:"podMetricsEndpoints"`
		SampleLimit         int                  `json:"sampleLimit"`
		TargetLimit         int                  `json:"targetLimit"`
		LabelLimit          int                  `json:"labelLimit"`
	}
	namespaceSelector struct {
		Any        bool     `json:"any"`
		MatchNames []string `json:"matchNames"`
	}
	endpoint struct {
		Port              string              `json:"port"`
		PortNumber        int                 `json:"portNumber"`
		TargetPort        *intstr.IntOrString `json:"targetPort"`
		Path              string              `json:"path"`
		Scheme            string              `json:"scheme"`
		Params            map[string][]string `json:"params"`
		Interval          string              `json:"interval"`
		ScrapeTimeout     string              `json:"scrapeTimeout"`
		HonorLabels       bool                `json:"honorLabels"`
		HonorTimestamps   *bool               `json:"honorTimestamps"`
		FollowRedirects   *bool               `json:"followRedirects"`
		EnableHTTP2       *bool               `json:"enableHttp2"`
		FilterRunning     *bool               `json:"filterRunning"`
		Relabelings       []relabeling        `json:"relabelings"`
		MetricRelabelings []relabeling        `json:"metricRelabelings"`
		login             `json:",inline"`
	}
	relabeling struct {
		SourceLabels []string `json:"sourceLabels"`
		Separator    *string  `json:"separator"`
		TargetLabel  string   `json:"targetLabel"`
		Regex        string   `json:"regex"`
		Modulus      uint64   `json:"modulus"`
		Replacement  *string  `json:"replacement"`
		Action       string   `json:"action"`
	}
)

// monitorJob is a scrape job and which targets it has.
type monitorJob struct {
	job    job
	choose func(*keeper) []*targetgroup.Group
}

// monitors are the jobs of workloads: those of annotations, and those of all monitors that can be kept.
func (k *keeper) monitors(ctx context.Context, not map[string]refused) []monitorJob {
	list := annotated(k.cfg.Interval)
	translated := map[string]translation{}
	k.refers = false
	for resource, ofServices := range map[string]bool{"serviceMonitor": true, "podMonitor": false} {
		gvr := podMonitors
		if ofServices {
			gvr = serviceMonitors
		}
		for _, o := range k.watched.custom.ForResource(gvr).Informer().GetStore().List() {
			object := o.(*unstructured.Unstructured)
			key := resource + "/" + object.GetNamespace() + "/" + object.GetName()
			t := k.translate(ctx, key, object, ofServices)
			translated[key] = t
			if t.err != nil {
				not[key] = refused{object, t.err.Error()}
			}
			k.refers = k.refers || t.refers
			list = append(list, t.jobs...)
		}
	}
	k.translated = translated
	slices.SortFunc(list, func(a, b monitorJob) int {
		return strings.Compare(a.job["job_name"].(string), b.job["job_name"].(string))
	})
	return list
}

// translation is what became of a monitor.
type translation struct {
	version string
	refers  bool // to Secrets, which may have changed after a while
	at      time.Time
	jobs    []monitorJob
	err     error // why endpoints were left out
}

// translate translates a monitor, unless nothing has changed.
func (k *keeper) translate(ctx context.Context, key string, object *unstructured.Unstructured, ofServices bool) translation {
	before, known := k.translated[key]
	version := string(object.GetUID()) + object.GetResourceVersion()
	if known && before.version == version && (!before.refers || time.Since(before.at) < fresh) {
		return before
	}
	t := translation{version: version, at: time.Now()}
	t.jobs, t.refers, t.err = k.ofMonitor(ctx, object, ofServices)
	return t
}

// ofMonitor translates a monitor. Endpoints that cannot be kept are left out, and the error says why.
func (k *keeper) ofMonitor(ctx context.Context, object *unstructured.Unstructured, ofServices bool) (jobs []monitorJob, refers bool, err error) {
	var m struct {
		Spec monitorSpec `json:"spec"`
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &m); err != nil {
		return nil, false, err
	}
	selector, err := metav1.LabelSelectorAsSelector(&m.Spec.Selector)
	if err != nil {
		return nil, false, fmt.Errorf("spec.selector: %w", err)
	}
	pool, endpoints := "podMonitor", m.Spec.PodMetricsEndpoints
	choose := k.podsOf
	if ofServices {
		pool, endpoints, choose = "serviceMonitor", m.Spec.Endpoints, k.servicesOf
	}
	var problems []error
	for i, e := range endpoints {
		name := fmt.Sprintf("%s/%s/%s/%d", pool, object.GetNamespace(), object.GetName(), i)
		j, err := endpointJob(k.cfg.Interval.String(), name, &m.Spec, &e, ofServices)
		if err == nil {
			var asked bool
			asked, err = k.letIn(ctx, j, object.GetNamespace(), &e.login)
			refers = refers || asked
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("endpoint %d: %w", i, err))
			continue
		}
		namespaces := m.Spec.NamespaceSelector
		if len(namespaces.MatchNames) == 0 {
			namespaces.MatchNames = []string{object.GetNamespace()}
		}
		jobs = append(jobs, monitorJob{j, func(*keeper) []*targetgroup.Group { return choose(selector, namespaces) }})
	}
	return jobs, refers, errors.Join(problems...)
}

// letIn adds the login to a job, and says what is wrong with the whole. What it refers to must be there.
func (k *keeper) letIn(ctx context.Context, j job, namespace string, l *login) (refers bool, err error) {
	if err := l.into(ctx, j, namespace, k.vault); err != nil {
		return true, err
	}
	cfg, err := load(j)
	if err != nil {
		return false, err
	}
	refs := refsIn(j)
	for _, ref := range refs {
		if _, err := k.vault.Fetch(ctx, ref); err != nil {
			return true, err
		}
	}
	if len(refs) > 0 { // certificates are read when a client is made
		_, err = config.NewClientFromConfig(cfg.ScrapeConfigs[0].HTTPClientConfig, "trial", config.WithSecretManager(k.vault))
	}
	return len(refs) > 0, err
}

// refsIn are the references of a job to what a vault has.
func refsIn(j job) (refs []string) {
	for field, value := range j {
		switch value := value.(type) {
		case job:
			refs = append(refs, refsIn(value)...)
		case string:
			if strings.HasSuffix(field, "_ref") {
				refs = append(refs, value)
			}
		}
	}
	return refs
}

func (n namespaceSelector) has(namespace string) bool {
	return n.Any || slices.Contains(n.MatchNames, namespace)
}

// servicesOf are the endpoints of Services with certain labels.
func (k *keeper) servicesOf(selector labels.Selector, namespaces namespaceSelector) []*targetgroup.Group {
	services := k.watched.factory.Core().V1().Services().Informer().GetStore()
	return k.slices.sorted(func(g *targetgroup.Group) bool {
		namespace := string(g.Labels["__meta_kubernetes_namespace"])
		o, known, _ := services.GetByKey(namespace + "/" + string(g.Labels["__meta_kubernetes_service_name"]))
		return known && namespaces.has(namespace) && selector.Matches(labels.Set(o.(*corev1.Service).Labels))
	})
}

// podsOf are pods with certain labels.
func (k *keeper) podsOf(selector labels.Selector, namespaces namespaceSelector) []*targetgroup.Group {
	pods := k.watched.factory.Core().V1().Pods().Informer().GetStore()
	return k.pods.sorted(func(g *targetgroup.Group) bool {
		namespace := string(g.Labels["__meta_kubernetes_namespace"])
		o, known, _ := pods.GetByKey(namespace + "/" + string(g.Labels["__meta_kubernetes_pod_name"]))
		return known && namespaces.has(namespace) && selector.Matches(labels.Set(o.(*corev1.Pod).Labels))
	})
}

// endpointJob is the scrape job of one endpoint of a monitor, as the Prometheus operator makes it.
func endpointJob(interval, name string, m *monitorSpec, e *endpoint, ofServices bool) (job, error) {
	every, err := model.ParseDuration(cmp.Or(e.Interval, interval))
	if err != nil {
		return nil, fmt.Errorf("interval: %w", err)
	}
	if every < model.Duration(minInterval) {
		return nil, fmt.Errorf("interval: %s is shorter than %s, the shortest that is allowed", every, minInterval)
	}
	j := newJob(name, time.Duration(every))
	if e.ScrapeTimeout != "" {
		j["scrape_timeout"] = e.ScrapeTimeout
	}
	j["metrics_path"], j["scheme"] = cmp.Or(e.Path, "/metrics"), strings.ToLower(cmp.Or(e.Scheme, "http"))
	j["honor_labels"] = e.HonorLabels
	for field, v := range map[string]*bool{"honor_timestamps": e.HonorTimestamps, "follow_redirects": e.FollowRedirects, "enable_http2": e.EnableHTTP2} {
		if v != nil {
			j[field] = *v
		}
	}
	if len(e.Params) > 0 {
		j["params"] = e.Params
	}
	for field, asked := range map[string]int{"sample_limit": m.SampleLimit, "target_limit": m.TargetLimit, "label_limit": m.LabelLimit} {
		if asked > 0 {
			j[field] = min(asked, j[field].(int))
		}
	}
	j["relabel_configs"] = append(chosen(path.Dir(strings.TrimPrefix(name, "podMonitor/")), m, e, ofServices), rules(e.Relabelings)...)
	j["metric_relabel_configs"] = rules(e.MetricRelabelings)
	return j, nil
}

var notInLabels = regexp.MustCompile(`[^a-zA-Z0-9_]`)

// labelName is the name that a Kubernetes label has among a target's labels.
func labelName(s string) string { return notInLabels.ReplaceAllString(s, "_") }

// chosen keeps the targets of the endpoint's port and gives them their labels. Those of a PodMonitor
// have its namespace and name as their job.
func chosen(monitor string, m *monitorSpec, e *endpoint, ofServices bool) []rule {
	const pod = "__meta_kubernetes_pod_"
	keep := func(label, value string) rule {
		return rule{"source_labels": []string{label}, "regex": regexp.QuoteMeta(value), "action": "keep"}
	}
	take := func(from, to string) rule {
		return rule{"source_labels": []string{from}, "regex": "(.+)", "target_label": to}
	}
	var list []rule
	if e.FilterRunning == nil || *e.FilterRunning {
		list = append(list, rule{"source_labels": []string{pod + "phase"}, "regex": "(Failed|Succeeded)", "action": "drop"})
	}
	switch {
	case e.Port != "" && ofServices:
		list = append(list, keep("__meta_kubernetes_endpointslice_port_name", e.Port))
	case e.Port != "":
		list = append(list, keep(pod+"container_port_name", e.Port))
	case e.PortNumber != 0:
		list = append(list, keep(pod+"container_port_number", fmt.Sprint(e.PortNumber)))
	case e.TargetPort != nil && e.TargetPort.Type == intstr.Int:
		list = append(list, keep(pod+"container_port_number", e.TargetPort.String()))
	case e.TargetPort != nil:
		list = append(list, keep(pod+"container_port_name", e.TargetPort.StrVal))
	}
	list = append(list, take("__meta_kubernetes_namespace", "namespace"), take(pod+"name", "pod"),
		take(pod+"container_name", "container"), take(pod+"node_name", "node"))
	if ofServices {
		list = append(list, take("__meta_kubernetes_service_name", "service"))
		for _, l := range m.TargetLabels {
			list = append(list, take("__meta_kubernetes_service_label_"+labelName(l), labelName(l)))
		}
	}
	for _, l := range m.PodTargetLabels {
		list = append(list, take(pod+"label_"+labelName(l), labelName(l)))
	}
	of := pod
	if ofServices {
		of = "__meta_kubernetes_service_"
		list = append(list, take("__meta_kubernetes_service_name", "job"))
	} else {
		list = append(list, rule{"target_label": "job", "replacement": monitor})
	}
	if m.JobLabel != "" {
		list = append(list, take(of+"label_"+labelName(m.JobLabel), "job"))
	}
	endpoint := e.Port
	if endpoint == "" && e.TargetPort != nil {
		endpoint = e.TargetPort.String()
	}
	if endpoint != "" {
		list = append(list, rule{"target_label": "endpoint", "replacement": strings.ReplaceAll(endpoint, "$", "$$")})
	}
	return list
}

// rules translates the relabellings of a monitor.
func rules(list []relabeling) []rule {
	out := make([]rule, 0, len(list))
	for _, r := range list {
		to := rule{"action": strings.ToLower(cmp.Or(r.Action, "replace"))}
		if len(r.SourceLabels) > 0 {
			to["source_labels"] = r.SourceLabels
		}
		if r.Separator != nil {
			to["separator"] = *r.Separator
		}
		if r.TargetLabel != "" {
			to["target_label"] = r.TargetLabel
		}
		if r.Regex != "" {
			to["regex"] = r.Regex
		}
		if r.Modulus != 0 {
			to["modulus"] = r.Modulus
		}
		if r.Replacement != nil {
			to["replacement"] = *r.Replacement
		}
		out = append(out, to)
	}
	return out
}
