package prometheus

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

const onward = `
apiVersion: v1
kind: Secret
metadata: {name: prometheus, namespace: gantry-system}
stringData:
  prometheus.yaml: |
    global: {external_labels: {cluster: here}}
    remote_write:
    - url: URL/api/v1/write
      queue_config: {batch_send_deadline: 500ms, max_backoff: 500ms}
FURTHER`

const guarded = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: guarded, namespace: shop, labels: {app: guarded}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: REGISTRY/base/busybox
    command: [sh, -c, 'mkdir /www; echo "secrets_total 7" > /www/metrics; echo "/:ann:hunter2" > /httpd.conf; exec httpd -f -p 8080 -h /www -c /httpd.conf']
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: 8080}}
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {name: guarded, namespace: shop}
spec:
  selector: {matchLabels: {app: guarded}}
  podMetricsEndpoints:
  - port: http
    interval: 1s
    basicAuth: {username: {name: login, key: user}, password: {name: login, key: password}}
---
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: NAMESPACE}
stringData: {user: ann, password: PASSWORD}
`

// samples are those of a selector in a time, as text.
func samples(base, selector string, span time.Duration, at time.Time) (string, error) {
	r, err := ask(base, "/api/v1/query", url.Values{"query": {fmt.Sprintf("%s[%s]", selector, span)},
		"time": {strconv.FormatFloat(float64(at.UnixMilli())/1000, 'f', 3, 64)}}, false)
	if err != nil {
		return "", err
	}
	data, _ := r.body["data"].(map[string]any)
	list, _ := data["result"].([]any)
	if len(list) != 1 {
		return "", fmt.Errorf("%s has %d series: %v", selector, len(list), r.body)
	}
	text, err := json.Marshal(list[0].(map[string]any)["values"])
	return string(text), err
}

// awaitEqual waits until the receiver has the same samples, without a gap.
func awaitEqual(t *testing.T, ours, theirs string, since time.Time) {
	t.Helper()
	span := time.Since(since).Truncate(time.Second)
	const of = `up{job="apiserver"}`
	want, err := samples(ours, of, span, since.Add(span))
	check(t, err)
	if n := strings.Count(want, "["); n < 4 {
		t.Fatalf("there are %d samples only: %s", n, want)
	}
	await(t, "the receiver has the same samples", func() error {
		got, err := samples(theirs, of, span, since.Add(span))
		if err == nil && got != want {
			err = fmt.Errorf("it has\n%s, and Gantry\n%s", got, want)
		}
		return err
	})
}

// What is measured arrives at a real Prometheus, also what was measured while that was away. And targets that want a login get it
// from a Secret of their monitor's namespace.
func TestSamplesReachDebiansPrometheus(t *testing.T) {
	testenv.NeedContainers(t)
	receiver := startPeer(t, t.TempDir(), "global: {}\n", "--web.enable-remote-write-receiver")
	in := instance.Start(t, instance.Options{Args: []string{"--metrics-interval", "1s"}})
	in.BaseImages(t)
	base := proxied(t, in)
	configure := func(further string) {
		t.Helper()
		apply(t, in, strings.NewReplacer("URL", receiver.url, "FURTHER", further).Replace(onward))
	}
	configure("")
	awaitSeries(t, receiver.url, `up{job="apiserver",cluster="here"}`)
	pause := func() time.Time { // some samples later
		t.Helper()
		since := time.Now()
		await(t, "samples are taken", func() error {
			if list, err := vector(base, fmt.Sprintf(`count_over_time(up{job="apiserver"}[%ds]) >= 4`, 1+int(time.Since(since).Seconds()))); err != nil || len(list) == 0 || time.Since(since) < 6*time.Second {
				return fmt.Errorf("not yet: %v", err)
			}
			return nil
		})
		return since
	}
	awaitEqual(t, base, receiver.url, pause())

	receiver.stop()
	since := pause()
	receiver.start(t)
	pause()
	awaitEqual(t, base, receiver.url, since)

	in.Stop(t, syscall.SIGTERM)
	in.Serve(t)
	awaitSeries(t, base, `count_over_time(up{job="apiserver"}[10s]) > 3`)
	awaitEqual(t, base, receiver.url, pause())

	// One with a fault changes nothing, and says so at the object.
	configure("    scrape_configs: []\n")
	awaitEvent(t, in, "gantry-system", "prometheus", "scrape_configs is not honoured")
	awaitEqual(t, base, receiver.url, pause())
	r, err := ask(base, "/api/v1/status/config", nil, false)
	check(t, err)
	if text := fmt.Sprint(r.body); !strings.Contains(text, receiver.url) {
		t.Errorf("status/config does not tell where samples are sent: %s", text)
	}

	login := func(namespace, password string) {
		t.Helper()
		apply(t, in, strings.NewReplacer("REGISTRY", in.Registry, "NAMESPACE", namespace, "PASSWORD", password).Replace(guarded))
	}
	login("default", "hunter2") // where the monitor must not look
	awaitEvent(t, in, "shop", "guarded", "there is no secret shop/login")
	login("shop", "wrong")
	awaitSeries(t, base, `up{job="shop/guarded"} == 0`)
	login("shop", "hunter2")
	awaitSeries(t, base, `secrets_total{namespace="shop",pod="guarded"} == 7`)
	awaitSeries(t, receiver.url, `secrets_total{namespace="shop",pod="guarded",cluster="here"} == 7`)
}

// awaitEvent waits for a warning about an object.
func awaitEvent(t *testing.T, in *instance.Instance, namespace, name, text string) {
	t.Helper()
	await(t, "an event says "+text, func() error {
		out, err := exec.Command("kubectl", "--kubeconfig", in.Kubeconfig(), "get", "events", "-n", namespace,
			"--field-selector", "reason=Refused,involvedObject.name="+name, "-o", "jsonpath={.items[*].message}").Output()
		if err == nil && !strings.Contains(string(out), text) {
			err = fmt.Errorf("events: %q", out)
		}
		return err
	})
}
