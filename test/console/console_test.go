// Package console drives the web console in a real Chromium against a running Gantry, as a person
// would: TestStory in every run, with a small workload; TestShop with the example shop under load,
// which also takes the pictures in docs/console (`make screenshots`).
//
// The stories are in story.mjs, by Playwright, which npm installs for them.
package console

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

// storyLimit is far more than a story takes.
const storyLimit = 5 * time.Minute

func TestStory(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	needBrowser(t)
	in := instance.Start(t, instance.Options{Args: []string{"--metrics-interval", "5s"}})
	in.BaseImages(t)
	manifests, err := os.ReadFile("front.yaml")
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, in, strings.ReplaceAll(string(manifests), "$REGISTRY", in.Registry), "apply", "-f", "-")
	kubectl(t, in, "", "rollout", "status", "-n", "lab", "deployment/front", "--timeout=60s")
	visit(t, in, "front.lab.localhost")
	t.Run("browser", func(t *testing.T) {
		play(t, in, story{Namespace: "lab", Workload: "front", Shell: true, Log: "FATAL: <b>no</b> database <img src=x onerror=alert(1)>",
			Change: change{"/spec/template/spec/containers/0/command", []string{"sh", "-c", `echo 'FATAL: <b>no</b> database <img src=x onerror=alert(1)>'; echo '<img src=x onerror=alert(2)>' > /dev/termination-log; exit 3`}}})
	})
	t.Run("amtool", func(t *testing.T) { amtool(t, in) })
	t.Run("rights", func(t *testing.T) { viewersOnlyView(t, in) })
}

func TestShop(t *testing.T) {
	if os.Getenv("GANTRY_SCREENSHOTS") == "" {
		t.Skip("takes minutes: make screenshots")
	}
	testenv.NeedContainers(t)
	needBrowser(t)
	in := instance.Start(t, instance.Options{Args: []string{"--metrics-interval", "5s"}})
	in.BaseImages(t)
	in.Run(t, "up", "../../examples/shop")
	visit(t, in, "shop.localhost")
	deliver(t, in)
	// A mistake that people make, in an image without a shell.
	play(t, in, story{Namespace: "shop", Workload: "storefront", Log: "address 8080: missing port in address", Screenshots: os.Getenv("GANTRY_SCREENSHOTS"),
		Change: change{"/spec/template/spec/containers/0/env", []map[string]string{{"name": "LISTEN", "value": "8080"}}}})
}

// The parts of the pages that decide something, in Node.
func TestLogic(t *testing.T) {
	needPackages(t)
	if out, err := exec.Command("node", "--test", "logic.test.mjs").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func needBrowser(t testing.TB) {
	testenv.NeedProgram(t, "chromium", "chromium")
	needPackages(t)
}

// needPackages asks for Node and has npm install what the tests need.
func needPackages(t testing.TB) {
	t.Helper()
	testenv.NeedProgram(t, "node", "nodejs")
	if installed(t) {
		return
	}
	testenv.NeedProgram(t, "npm", "npm")
	if out, err := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error").CombinedOutput(); err != nil {
		t.Fatalf("install Playwright: %v\n%s", err, out)
	}
}

// installed tells whether npm has installed everything that the tests name.
func installed(t testing.TB) bool {
	text, err := os.ReadFile("package.json")
	if err != nil {
		t.Fatal(err)
	}
	var named struct{ Dependencies map[string]string }
	if err := json.Unmarshal(text, &named); err != nil {
		t.Fatal(err)
	}
	for name := range named.Dependencies {
		if _, err := os.Stat(filepath.Join("node_modules", name, "package.json")); err != nil {
			return false
		}
	}
	return true
}

// change is something that a deployment gets (JSON patch, op add).
type change struct {
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// story is what story.mjs is told.
type story struct {
	Link        string `json:"link"`
	Namespace   string `json:"namespace"`
	Workload    string `json:"workload"`
	Change      change `json:"change"` // what breaks the workload
	Log         string `json:"log"`    // which the log then has
	Shell       bool   `json:"shell"`  // whether its image has one
	Screenshots string `json:"screenshots,omitempty"`
	Failure     string `json:"failure"` // a picture of the page when the story fails
}

func play(t *testing.T, in *instance.Instance, s story) {
	s.Link, s.Failure = consoleLink(t, in), filepath.Join(t.TempDir(), "failure.png")
	if keep := os.Getenv("GANTRY_FAILURES"); keep != "" {
		s.Failure = filepath.Join(keep, "console.png")
	}
	told, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	limit := storyLimit
	if s.Screenshots != "" {
		limit *= 5 // each page in two colours and sizes
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "story.mjs", string(told))
	cmd.Env = append(os.Environ(), "KUBECONFIG="+in.Kubeconfig())
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("the story ended: %v", err)
	}
}

func consoleLink(t testing.TB, in *instance.Instance) string {
	t.Helper()
	var link struct{ URL string }
	if err := json.Unmarshal([]byte(in.Run(t, "console", "-o", "json")), &link); err != nil {
		t.Fatal(err)
	}
	return link.URL
}

// visit asks the gateway for a page of a host again and again until the test ends.
func visit(t *testing.T, in *instance.Instance, host string) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { stop(); <-done })
	go func() {
		defer close(done)
		for tick := time.NewTicker(40 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+in.Gateway+"/", nil)
			if err != nil {
				return
			}
			req.Host = host
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		}
	}()
}

func kubectl(t testing.TB, in *instance.Instance, input string, args ...string) string {
	t.Helper()
	cmd := exec.Command("kubectl", append([]string{"--kubeconfig", in.Kubeconfig()}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// viewersOnlyView logs in as somebody with the role view in one namespace.
func viewersOnlyView(t *testing.T, in *instance.Instance) {
	kubectl(t, in, "", "create", "serviceaccount", "viewer", "-n", "lab")
	kubectl(t, in, "", "create", "rolebinding", "viewer", "-n", "lab", "--clusterrole=view", "--serviceaccount=lab:viewer")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	var cookies []*http.Cookie
	proof := "login"
	ask := func(method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+in.API+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Gantry-Console", proof)
		req.Header.Set("Content-Type", "application/merge-patch+json")
		for _, c := range cookies {
			req.AddCookie(c)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if set := resp.Cookies(); len(set) > 0 {
			cookies = set
		}
		return resp.StatusCode, string(text)
	}
	token := kubectl(t, in, "", "create", "token", "viewer", "-n", "lab")
	status, text := ask(http.MethodPost, "/console/session", fmt.Sprintf(`{"token":%q}`, token))
	var session struct{ Proof string }
	if err := json.Unmarshal([]byte(text), &session); err != nil || status != http.StatusOK {
		t.Fatalf("log in: %d %v %s", status, err, text)
	}
	proof = session.Proof
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{http.MethodGet, "/api/v1/namespaces/lab/pods", "", http.StatusOK},
		{http.MethodGet, "/api/v1/namespaces/lab/secrets", "", http.StatusForbidden},
		{http.MethodGet, "/api/v1/namespaces/kube-system/pods", "", http.StatusForbidden},
		{http.MethodGet, "/prometheus/api/v1/query?query=up", "", http.StatusForbidden},
		{http.MethodPatch, "/apis/apps/v1/namespaces/lab/deployments/front/scale", `{"spec":{"replicas":0}}`, http.StatusForbidden},
	} {
		if status, text := ask(c.method, "/console/api"+c.path, c.body); status != c.want {
			t.Errorf("%s %s: %d, want %d: %.200s", c.method, c.path, status, c.want, text)
		}
	}
	// A binding that is taken away counts for the next request, and an account that is gone ends the session.
	kubectl(t, in, "", "delete", "serviceaccount", "viewer", "-n", "lab")
	if status, text := ask(http.MethodGet, "/console/api/api/v1/namespaces/lab/pods", ""); status != http.StatusUnauthorized {
		t.Errorf("after the account was deleted: %d %.200s", status, text)
	}
}
