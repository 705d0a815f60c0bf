package monitor

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

func testConfig(dir string) *Config {
	cfg := &Config{Client: &rest.Config{Host: "http://127.0.0.1:1"}, Dir: dir}
	if err := cfg.complete(); err != nil {
		panic(err)
	}
	return cfg
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("GANTRY_TEST_WRITE_SAMPLES"); dir != "" {
		writeSamples(dir)
		return
	}
	os.Exit(m.Run())
}

// writeSamples stores one sample after the other and tells of each that is stored, until it is killed.
func writeSamples(dir string) {
	db, err := openStorage(testConfig(dir), nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	begin := time.Now().UnixMilli()
	for i := range int64(1_000_000) {
		a := db.Appender(context.Background())
		_, err := a.Append(0, labels.FromStrings("__name__", "written"), begin+i, float64(i))
		if err == nil {
			err = a.Commit()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(i)
	}
}

// What was scraped before kill -9 is there after it.
func TestSamplesSurviveTheKillOfTheProcess(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "GANTRY_TEST_WRITE_SAMPLES="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines, last := bufio.NewScanner(out), int64(-1)
		for last < 500 && lines.Scan() {
			fmt.Sscan(lines.Text(), &last)
		}
		_ = child.Process.Kill()
		for lines.Scan() { // what it still said before its end
			fmt.Sscan(lines.Text(), &last)
		}
		_ = child.Wait()
		db, err := openStorage(testConfig(dir), nil)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		q, err := db.Querier(math.MinInt64, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		found := map[int64]bool{}
		set := q.Select(t.Context(), false, nil, labels.MustNewMatcher(labels.MatchEqual, "__name__", "written"))
		newest := int64(-1)
		for set.Next() {
			it := set.At().Iterator(nil)
			for it.Next() != chunkenc.ValNone {
				_, v := it.At()
				found[int64(v)], newest = true, int64(v)
			}
		}
		for i := range last + 1 {
			if !found[i] {
				t.Fatalf("round %d: sample %d of %d is lost (newest %d)", round, i, last, newest)
			}
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func newKeeper(t *testing.T) *keeper {
	t.Helper()
	s, err := New(*testConfig(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	s.vault.client = fake.NewClientset(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s"}, Data: map[string][]byte{"user": []byte("ann")}})
	return &keeper{Service: s, pods: found{}, slices: found{}}
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

// A monitor becomes a job that Prometheus accepts, within the service's limits.
func TestMonitorsBecomeJobs(t *testing.T) {
	jobs, _, err := newKeeper(t).ofMonitor(t.Context(), object(t, `
metadata: {namespace: shop, name: web}
spec:
  jobLabel: app
  sampleLimit: 1000000
  targetLabels: [app.kubernetes.io/name]
  selector: {matchLabels: {app: web}}
  endpoints:
  - port: http
    interval: 30s
    path: /m
    scheme: HTTPS
    tlsConfig: {insecureSkipVerify: true}
    relabelings: [{sourceLabels: [__meta_kubernetes_pod_ip], targetLabel: ip, action: Replace}]
    metricRelabelings: [{sourceLabels: [__name__], regex: go_.*, action: drop}]
`), true)
	if err != nil || len(jobs) != 1 {
		t.Fatalf("%d jobs, %v", len(jobs), err)
	}
	cfg, err := load(jobs[0].job)
	if err != nil {
		t.Fatal(err)
	}
	got := cfg.ScrapeConfigs[0]
	if got.JobName != "serviceMonitor/shop/web/0" || got.MetricsPath != "/m" || got.Scheme != "https" || got.ScrapeInterval.String() != "30s" || got.SampleLimit != sampleLimit {
		t.Errorf("%+v", got)
	}
	text := cfg.String()
	for _, want := range []string{"__meta_kubernetes_endpointslice_port_name", "__meta_kubernetes_service_label_app_kubernetes_io_name", "target_label: ip", "regex: go_.*", "insecure_skip_verify: true"} {
		if !strings.Contains(text, want) {
			t.Errorf("without %q:\n%s", want, text)
		}
	}
}

// What a monitor must not get is refused with the reason, and its other endpoints are kept.
func TestMonitorsThatCannotBeKept(t *testing.T) {
	for what, endpoint := range map[string]string{
		"a file of the machine":         `bearerTokenFile: /etc/shadow`,
		"tlsConfig.caFile":              `tlsConfig: {caFile: /etc/passwd}`,
		"authorization.credentialsFile": `authorization: {credentialsFile: /etc/shadow}`,
		"use basicAuth":                 `authorization: {type: basic, credentials: {name: s, key: k}}`,
		"proxyFromEnvironment":          `proxyFromEnvironment: true`,
		"there is no secret a/gone":     `bearerTokenSecret: {name: gone, key: k}`,
		"has no key":                    `basicAuth: {username: {name: s, key: user}, password: {name: s, key: none}}`,
		"there is no configmap a/gone":  `tlsConfig: {ca: {configMap: {name: gone, key: ca}}}`,
		"is missing":                    `oauth2: {tokenUrl: http://x/token, clientSecret: {name: s, key: user}}`,
		"CA cert":                       `tlsConfig: {ca: {secret: {name: s, key: user}}}`,
		"shorter than 1s":               `interval: 10ms`,
		"greater than scrape interval":  "interval: 5s\n    scrapeTimeout: 10s",
		"error parsing regexp":          `relabelings: [{regex: "("}]`,
	} {
		jobs, _, err := newKeeper(t).ofMonitor(t.Context(), object(t, "metadata: {namespace: a, name: b}\nspec:\n  selector: {}\n  podMetricsEndpoints:\n  - port: ok\n  - port: x\n    "+endpoint), false)
		if err == nil || !strings.Contains(err.Error(), what) || len(jobs) != 1 {
			t.Errorf("want a refusal that says %q and one job, got %d jobs and %v", what, len(jobs), err)
		}
	}
}

// Workloads' monitors cannot reach what only the machine itself should.
func TestMonitorsReachNothingOfTheMachine(t *testing.T) {
	for _, address := range []string{"127.0.0.1:80", "[::1]:80", "169.254.169.254:80", "0.0.0.0:80", "localhost:80", inside + ":80"} {
		if c, err := dialWorkload(t.Context(), "tcp", address); err == nil {
			c.Close()
			t.Errorf("%s was reached", address)
		}
	}
}

// The jobs of the platform and of annotations are ones that Prometheus accepts.
func TestOwnJobsAreAccepted(t *testing.T) {
	if _, err := load(platformJob(DefaultInterval)); err != nil {
		t.Error(err)
	}
	for _, m := range annotated(DefaultInterval) {
		if _, err := load(m.job); err != nil {
			t.Error(err)
		}
	}
}
