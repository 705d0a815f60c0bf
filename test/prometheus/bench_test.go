package prometheus

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

// many is a workload of ten idle pods, and one that tells of SERIES series.
const many = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle, namespace: shop}
spec:
  replicas: 10
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: idle, image: REGISTRY/base/busybox, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: many, namespace: shop, annotations: {prometheus.io/scrape: "true", prometheus.io/port: "8080"}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: many
    image: REGISTRY/base/busybox
    command: [sh, -c, 'mkdir /www; seq SERIES | sed "s/.*/many_requests_total{path=\"\/a\/rather\/long\/path\/&\",code=\"200\"} &/" > /www/metrics; exec httpd -f -p 8080 -h /www']
    readinessProbe: {tcpSocket: {port: 8080}}
`

// spent is what a process has used.
type spent struct {
	cpu            time.Duration
	anonymous, pss float64 // MB
}

func measure(b *testing.B, pid int) spent {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(b, err)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	check(b, err)
	kB := func(name string) float64 {
		found := regexp.MustCompile(`(?m)^` + name + `: +(\d+) kB`).FindSubmatch(rollup)
		n, _ := strconv.ParseFloat(string(found[1]), 64)
		return n / 1000
	}
	return spent{time.Duration(user+system) * 10 * time.Millisecond, kB("Anonymous"), kB("Pss")}
}

// BenchmarkBesidePrometheus compares two instances, one of which sees nothing (--no-metrics --no-logs), and
// Debian's Prometheus, which scrapes the same targets of the other one as often. The difference of the two is what seeing costs.
func BenchmarkBesidePrometheus(b *testing.B) {
	testenv.NeedContainers(b)
	for name, series := range map[string]int{"Idle": 10, "10000": 10_000} {
		b.Run(name, func(b *testing.B) {
			interval := "10s"
			if series > 1000 {
				interval = "5s"
			}
			for b.Loop() {
				beside(b, series, interval)
			}
		})
	}
}

// span is how long is measured.
const span = 45 * time.Second

func beside(b *testing.B, series int, interval string) {
	blind := instance.Start(b, instance.Options{Args: []string{"--no-metrics", "--no-logs"}})
	in := instance.Start(b, instance.Options{Args: []string{"--metrics-interval", interval}})
	for _, i := range []*instance.Instance{blind, in} {
		i.BaseImages(b)
		apply(b, i, strings.NewReplacer("REGISTRY", i.Registry, "SERIES", strconv.Itoa(series)).Replace(many))
		out, err := exec.Command("kubectl", "--kubeconfig", i.Kubeconfig(), "wait", "-n", "shop", "--for=condition=Ready", "pod", "--all", "--timeout=60s").CombinedOutput()
		if err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	base := proxied(b, in)
	awaitSeries(b, base, fmt.Sprintf("count(many_requests_total) == %d", series))
	theirs := startPeer(b, b.TempDir(), targetsOf(b, in, interval))
	awaitSeries(b, theirs.url, fmt.Sprintf("count(many_requests_total) == %d", series))
	awaitSeries(b, theirs.url, "container_cpu_usage_seconds_total")
	time.Sleep(20 * time.Second) // what starting leaves to do
	pids := map[string]int{"1 gantry serve --no-metrics --no-logs": blind.PID(), "2 gantry serve": in.PID(), "3 prometheus": theirs.cmd.Process.Pid}
	before := map[string]spent{}
	for name, pid := range pids {
		before[name] = measure(b, pid)
	}
	time.Sleep(span)
	after := map[string]spent{}
	for name, pid := range pids {
		after[name] = measure(b, pid)
	}
	share := func(name string) float64 {
		return 100 * (after[name].cpu - before[name].cpu).Seconds() / span.Seconds()
	}
	fmt.Printf("%d series of a workload, every %s, over %s\n", series, interval, span)
	for _, name := range []string{"1 gantry serve --no-metrics --no-logs", "2 gantry serve", "3 prometheus"} {
		fmt.Printf("%-40s %5.2f %% of a core, %6.1f MB anonymous, %6.1f MB PSS\n", name[2:], share(name), after[name].anonymous, after[name].pss)
	}
	one, two := "1 gantry serve --no-metrics --no-logs", "2 gantry serve"
	fmt.Printf("%-40s %5.2f %% of a core, %6.1f MB anonymous, %6.1f MB PSS\n", "what seeing costs", share(two)-share(one),
		after[two].anonymous-after[one].anonymous, after[two].pss-after[one].pss)
	b.ReportMetric(share(two)-share(one), "%core")
	b.ReportMetric(after[two].anonymous-after[one].anonymous, "MB")
	b.ReportMetric(share("3 prometheus"), "%core-prometheus")
	b.ReportMetric(after["3 prometheus"].anonymous, "MB-prometheus")
}

// targetsOf lets Prometheus scrape what the monitor of an instance does and can be reached from outside: the node's three
// targets and the API server, with the administrator's certificate, and the workload.
func targetsOf(b *testing.B, in *instance.Instance, interval string) string {
	cfg, err := clientcmd.LoadFromFile(in.Kubeconfig())
	check(b, err)
	current := cfg.Contexts[cfg.CurrentContext]
	user, cluster := cfg.AuthInfos[current.AuthInfo], cfg.Clusters[current.Cluster]
	dir := b.TempDir()
	for name, content := range map[string][]byte{"ca": cluster.CertificateAuthorityData, "cert": user.ClientCertificateData, "key": user.ClientKeyData} {
		check(b, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	out, err := exec.Command("kubectl", "--kubeconfig", in.Kubeconfig(), "get", "node", "-o", "jsonpath={.items[0].metadata.name}").Output()
	check(b, err)
	node := string(out)
	address, err := exec.Command("kubectl", "--kubeconfig", in.Kubeconfig(), "get", "pod", "-n", "shop", "many", "-o", "jsonpath={.status.podIP}").Output()
	check(b, err)
	text := fmt.Sprintf("global: {scrape_interval: %s, scrape_timeout: %s}\nscrape_configs:\n- {job_name: many, static_configs: [{targets: ['%s:8080']}]}\n", interval, interval, address)
	proxy := "/api/v1/nodes/" + node + "/proxy"
	for job, path := range map[string]string{"apiserver": "/metrics", "kubelet": proxy + "/metrics", "cadvisor": proxy + "/metrics/cadvisor", "host": proxy + "/metrics/node"} {
		text += fmt.Sprintf("- {job_name: %s, scheme: https, metrics_path: %s, honor_timestamps: false, static_configs: [{targets: ['%s']}], tls_config: {ca_file: %s/ca, cert_file: %s/cert, key_file: %s/key}}\n",
			job, path, in.API, dir, dir, dir)
	}
	return text
}

// BenchmarkFirstGraph measures the time from the first start of a new installation until there is a rate of a shop's
// requests to draw, with nothing configured. The shop begins at once.
func BenchmarkFirstGraph(b *testing.B) {
	testenv.NeedContainers(b)
	for b.Loop() {
		begin := time.Now()
		in := instance.Start(b, instance.Options{})
		ready := time.Since(begin)
		in.BaseImages(b)
		apply(b, in, strings.ReplaceAll(web, "REGISTRY", in.Registry))
		await(b, "the shop answers", func() error { return visit(in) })
		answers := time.Since(begin)
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
					_ = visit(in)
				}
			}
		}()
		awaitSeries(b, proxied(b, in), `sum(rate(gantry_gateway_requests_total{code!~"5.."}[1m])) > 0`)
		close(stop)
		graph := time.Since(begin)
		fmt.Printf("from the first start: ready after %.1f s, the shop answers after %.1f s, a graph of its traffic after %.1f s\n", ready.Seconds(), answers.Seconds(), graph.Seconds())
		b.ReportMetric(graph.Seconds(), "s/graph")
	}
}
