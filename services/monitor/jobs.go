package monitor

import (
	"fmt"
	"time"

	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"go.yaml.in/yaml/v2"
)

// job is one entry of scrape_configs in Prometheus's configuration.
type job map[string]any

// platformPool is the scrape job of the platform's own targets.
const platformPool = "gantry"

// Limits on what one scrape of a workload's target may bring. A target that brings more fails as a
// whole: half of its samples would be wrong in a way that nobody sees.
const (
	sampleLimit      = 20_000
	bodyLimit        = "20MB"
	targetLimit      = 2_000 // of one monitor
	labelLimit       = 64
	labelNameLimit   = 256 // bytes
	labelValueLimit  = 2048
	maxScrapeTimeout = 10 * time.Second
)

// seconds writes a duration as Prometheus's configuration does.
func seconds(d time.Duration) string { return model.Duration(d).String() }

// newJob is a job with the service's limits.
func newJob(name string, interval time.Duration) job {
	return job{
		"job_name": name, "scrape_interval": seconds(interval), "scrape_timeout": seconds(min(interval, maxScrapeTimeout)),
		"fallback_scrape_protocol": "PrometheusText0.0.4", "keep_dropped_targets": 100,
		"sample_limit": sampleLimit, "body_size_limit": bodyLimit, "target_limit": targetLimit,
		"label_limit": labelLimit, "label_name_length_limit": labelNameLimit, "label_value_length_limit": labelValueLimit,
	}
}

// load makes Prometheus's configuration of jobs, which checks them.
func load(jobs ...job) (*promconfig.Config, error) {
	text, err := yaml.Marshal(map[string]any{"scrape_configs": jobs})
	if err != nil {
		return nil, err
	}
	return promconfig.Load(string(text), nil)
}

// rule is a relabelling rule of Prometheus's configuration.
type rule map[string]any

// innerWorkings are metrics of the platform's own processes that nobody asks for: details of client
// libraries, by the hundred.
const innerWorkings = `(rest_client|workqueue|apiserver_(admission|authentication|authorization|cel|clusterip|delegated|egress|encryption|envelope|kube|nodeport|storage|tls|validating|webhooks|watch)|` +
	`authentication|authorization|aggregator|node_authorizer|ssh|field_validation|grpc|hidden|kubernetes_(build|feature)|disabled|registered|serviceaccount|cardinality|pod_security|` +
	`get_token|scheduler_(plugin|goroutines|unschedulable|framework|queue_incoming|pod_scheduling)|net_conntrack|prometheus_tsdb_(exemplar|out_of_order|isolation|mmap|chunk_write)|prometheus_sd|` +
	`garbagecollector|endpoint_slice|ephemeral_volume|job_controller|cronjob|ttl_after|storage_operation|volume_manager|attachdetach|node_collector|root_ca|replicaset_controller|running_managed)_.+`

// platformJob is how the platform's own targets are scraped; each names its path and labels.
func platformJob(interval time.Duration) job {
	j := newJob(platformPool, interval)
	j["honor_timestamps"] = false // nodes put their own times on samples, which make rates of short windows jump
	j["honor_labels"] = true      // they speak about pods and nodes, and not about themselves
	j["enable_compression"] = false
	j["sample_limit"], j["body_size_limit"] = 200_000, "100MB"
	j["metric_relabel_configs"] = []rule{{"source_labels": []string{"__name__"}, "regex": innerWorkings, "action": "drop"}}
	return j
}

// target is one of the platform's own.
func target(path string, interval time.Duration, labels model.LabelSet) model.LabelSet {
	set := model.LabelSet{
		model.AddressLabel: inside, model.SchemeLabel: "http", model.MetricsPathLabel: model.LabelValue(path),
		model.ScrapeIntervalLabel: model.LabelValue(seconds(interval)),
		model.ScrapeTimeoutLabel:  model.LabelValue(seconds(min(interval, maxScrapeTimeout))),
	}
	return set.Merge(labels)
}

// platformTargets are the platform's own targets, on the given nodes.
func (s *Service) platformTargets(nodes []string) []*targetgroup.Group {
	group := &targetgroup.Group{Source: platformPool}
	add := func(path string, interval time.Duration, job, instance string, more model.LabelSet) {
		group.Targets = append(group.Targets, target(path, interval, model.LabelSet{
			model.JobLabel: model.LabelValue(job), model.InstanceLabel: model.LabelValue(instance)}.Merge(more)))
	}
	every := s.cfg.Interval
	for _, node := range nodes {
		at := func(path string) string { return fmt.Sprintf("/api/v1/nodes/%s/proxy%s", node, path) }
		add(at("/metrics"), every, "kubelet", node, model.LabelSet{"node": model.LabelValue(node), "metrics_path": "/metrics"})
		add(at("/metrics/cadvisor"), every, "kubelet", node, model.LabelSet{
			"node": model.LabelValue(node), "metrics_path": "/metrics/cadvisor"})
		if s.cfg.HostMetrics != "" {
			add(at(s.cfg.HostMetrics), every, "node-exporter", node, nil)
		}
	}
	add("/objects/metrics", every, "kube-state-metrics", "kube-state-metrics", nil)
	add("/apiserver/metrics", every, "apiserver", "kubernetes", nil)
	add("/monitor/metrics", every, "prometheus", "monitor", nil)
	for _, source := range s.cfg.Sources {
		interval := source.Interval
		if interval == 0 {
			interval = every
		}
		add("/"+source.Job+"/metrics", interval, source.Job, source.Instance, nil)
	}
	return []*targetgroup.Group{group}
}
