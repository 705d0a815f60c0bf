package prometheus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/test/instance"
)

// program is the path of Debian's prometheus or promtool.
func program(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(instance.Build(t)), name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("GANTRY_PROMETHEUS") == "required" {
			t.Fatalf("%s is not installed: run script/prometheus", name)
		}
		t.Skipf("%s is not installed: `make equal-prometheus` fetches it and runs this test", name)
	}
	return path
}

// peer is Debian's Prometheus at an address of its own.
type peer struct {
	url  string
	args []string
	path string
	log  bytes.Buffer
	cmd  *exec.Cmd // of the running process
}

// startPeer runs Prometheus over a directory of samples until the test ends. SELF in its configuration is its own address.
func startPeer(t testing.TB, dir, config string, args ...string) *peer {
	t.Helper()
	file := filepath.Join(t.TempDir(), "prometheus.yml")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	address := l.Addr().String()
	check(t, l.Close())
	check(t, os.WriteFile(file, []byte(strings.ReplaceAll(config, "SELF", address)), 0o600))
	p := &peer{url: "http://" + address, path: program(t, "prometheus"), args: append([]string{"--config.file", file, "--storage.tsdb.path", dir,
		"--storage.tsdb.retention.time", "10y", "--web.listen-address", address, "--log.level", "warn"}, args...)}
	p.start(t)
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("Prometheus said:\n%s", p.log.String())
		}
	})
	return p
}

// start runs it, and waits until it is ready.
func (p *peer) start(t testing.TB) {
	t.Helper()
	p.cmd = exec.Command(p.path, p.args...)
	p.cmd.Stderr = &p.log
	check(t, p.cmd.Start())
	await(t, "Prometheus is ready", func() error {
		answer, err := http.Get(p.url + "/-/ready")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s", answer.Status)
		}
		return nil
	})
}

func (p *peer) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// proxied is the monitor's API without a login at a loopback address, as `kubectl proxy` offers it to tools.
func proxied(t testing.TB, in *instance.Instance) string {
	t.Helper()
	cfg := in.Config(t)
	transport, err := rest.TransportFor(cfg)
	check(t, err)
	to, err := url.Parse(cfg.Host)
	check(t, err)
	s := httptest.NewServer(&httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }})
	t.Cleanup(s.Close)
	return s.URL + "/prometheus"
}

// reply is the answer to one question.
type reply struct {
	status int
	body   map[string]any
}

// ask sends a question of the Prometheus HTTP API; a form makes it a POST.
func ask(base, path string, parameters url.Values, post bool) (reply, error) {
	var answer *http.Response
	var err error
	if post {
		answer, err = http.PostForm(base+path, parameters)
	} else {
		answer, err = http.Get(base + path + "?" + parameters.Encode())
	}
	if err != nil {
		return reply{}, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return reply{}, err
	}
	r := reply{status: answer.StatusCode}
	if err := json.Unmarshal(text, &r.body); err != nil {
		return r, fmt.Errorf("%s: %w in %.200s", answer.Status, err, text)
	}
	return r, nil
}

// vector asks for the values of an expression now.
func vector(base, expr string) ([]any, error) {
	r, err := ask(base, "/api/v1/query", url.Values{"query": {expr}}, false)
	if err != nil {
		return nil, err
	}
	data, _ := r.body["data"].(map[string]any)
	list, ok := data["result"].([]any)
	if !ok {
		return nil, fmt.Errorf("%d: %v", r.status, r.body)
	}
	return list, nil
}

// awaitSeries waits until an expression has a value.
func awaitSeries(t testing.TB, base, expr string) {
	t.Helper()
	await(t, expr, func() error {
		list, err := vector(base, expr)
		if err == nil && len(list) == 0 {
			err = fmt.Errorf("there is none yet")
		}
		return err
	})
}

// await waits for a condition.
func await(t testing.TB, what string, met func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(4 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if err = met(); err == nil {
			return
		}
	}
	t.Fatalf("wait until %s: %v", what, err)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// apply hands a manifest to kubectl.
func apply(t testing.TB, in *instance.Instance, manifest string) {
	t.Helper()
	cmd := exec.Command("kubectl", "--kubeconfig", in.Kubeconfig(), "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// visit sends a request through the gateway.
func visit(in *instance.Instance) error {
	request, err := http.NewRequest("GET", "http://"+in.Gateway+"/", nil)
	if err != nil {
		return err
	}
	request.Host = "shop.localhost"
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the gateway answers %s", answer.Status)
	}
	return nil
}
