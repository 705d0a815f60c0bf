package console_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/services/console"
)

// fixture is a console in front of an API that knows one token and says what reached it.
type fixture struct {
	*httptest.Server
	t     *testing.T
	now   time.Time
	asked []*http.Request // what the API got
}

const goodToken = "good.token.here"

func start(t *testing.T) *fixture {
	f := &fixture{t: t, now: time.Now()}
	api := httptest.NewTLSServer(http.HandlerFunc(f.api))
	t.Cleanup(api.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	c, err := console.New(console.Config{
		// The credentials of the configuration must not be used.
		API: &rest.Config{Host: api.URL, BearerToken: "the server's own", TLSClientConfig: rest.TLSClientConfig{CAData: ca}},
		Now: func() time.Time { return f.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Server = httptest.NewTLSServer(c)
	t.Cleanup(f.Server.Close)
	f.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return f
}

func (f *fixture) api(w http.ResponseWriter, r *http.Request) {
	f.asked = append(f.asked, r)
	if r.Header.Get("Authorization") != "Bearer "+goodToken {
		http.Error(w, `{"message":"Unauthorized"}`, http.StatusUnauthorized)
		return
	}
	switch r.URL.Path {
	case "/apis/authentication.k8s.io/v1/selfsubjectreviews":
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"status":{"userInfo":{"username":"ann","groups":["team"]}}}`)
	case "/api/v1/evil":
		w.Header().Set("Content-Type", "text/html")
		http.SetCookie(w, &http.Cookie{Name: "__Host-gantry-console", Value: "planted"})
		fmt.Fprint(w, "<script>alert(1)</script>")
	case "/api/v1/stream":
		fmt.Fprintln(w, "first")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	default:
		fmt.Fprint(w, r.Method, " ", r.URL.RequestURI())
	}
}

// browser is what a page has: a cookie, which it cannot read, and a proof.
type browser struct {
	*fixture
	cookie *http.Cookie
	proof  string
}

func (b *browser) do(method, path, body string, set ...string) (*http.Response, string) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.URL+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if b.cookie != nil {
		req.AddCookie(b.cookie)
	}
	req.Header.Set(console.ProofHeader, b.proof)
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	for i := 0; i < len(set); i += 2 {
		req.Header.Set(set[i], set[i+1])
	}
	resp, err := b.Client().Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp, string(text)
}

func (b *browser) logIn(body string) (*http.Response, string) {
	b.t.Helper()
	b.cookie, b.proof = nil, "login"
	resp, text := b.do(http.MethodPost, "/console/session", body)
	var answer struct{ Proof string }
	_ = json.Unmarshal([]byte(text), &answer) // a refusal has none
	b.proof = answer.Proof
	for _, c := range resp.Cookies() {
		b.cookie = c
	}
	return resp, text
}

func (f *fixture) loggedIn() *browser {
	b := &browser{fixture: f}
	if resp, text := b.logIn(`{"token":"` + goodToken + `"}`); resp.StatusCode != http.StatusOK {
		f.t.Fatalf("log in: %s %s", resp.Status, text)
	}
	return b
}

func wantStatus(t *testing.T, what string, resp *http.Response, want int) {
	t.Helper()
	if resp.StatusCode != want {
		t.Errorf("%s: %s, want %d", what, resp.Status, want)
	}
}

func TestALoginActsAsItsUser(t *testing.T) {
	f := start(t)
	b := f.loggedIn()
	if c := b.cookie; !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
		t.Errorf("the cookie is %v", c)
	}
	resp, text := b.do(http.MethodGet, "/console/api/api/v1/pods?limit=5&labelSelector=a%3Db", "", "Impersonate-User", "admin", "Authorization", "Bearer other")
	if resp.StatusCode != http.StatusOK || text != "GET /api/v1/pods?limit=5&labelSelector=a%3Db" {
		t.Errorf("forwarded: %s %q", resp.Status, text)
	}
	last := f.asked[len(f.asked)-1].Header
	for _, name := range []string{"Cookie", "Impersonate-User", console.ProofHeader, "X-Forwarded-For"} {
		if v := last.Get(name); v != "" {
			t.Errorf("the API got the header %s: %q", name, v)
		}
	}
	if _, text := b.do(http.MethodGet, "/console/session", ""); !strings.Contains(text, `"ann"`) || strings.Contains(text, goodToken) {
		t.Errorf("who am I: %s", text)
	}
	resp, _ = b.do(http.MethodDelete, "/console/session", "")
	wantStatus(t, "log out", resp, http.StatusNoContent)
	resp, _ = b.do(http.MethodGet, "/console/api/api/v1/pods", "")
	wantStatus(t, "after the log-out", resp, http.StatusUnauthorized)
}

func TestWrongTokensAreRefused(t *testing.T) {
	b := &browser{fixture: start(t)}
	for token, want := range map[string]int{"bad": http.StatusUnauthorized, "": http.StatusBadRequest, "a b": http.StatusBadRequest, "a\\nb": http.StatusBadRequest} {
		resp, text := b.logIn(`{"token":"` + token + `"}`)
		wantStatus(t, fmt.Sprintf("token %q", token), resp, want)
		if b.cookie != nil || token != "" && strings.Contains(text, `"`+token+`"`) {
			t.Errorf("token %q: cookie %v, %s", token, b.cookie, text)
		}
	}
	resp, _ := b.logIn(`nonsense`)
	wantStatus(t, "nonsense", resp, http.StatusBadRequest)
}

func TestASessionNeedsBothSecrets(t *testing.T) {
	f := start(t)
	ann, other := f.loggedIn(), f.loggedIn()
	for what, b := range map[string]*browser{
		"only the cookie":      {f, ann.cookie, ""},
		"only the proof":       {f, nil, ann.proof},
		"the proof of another": {f, ann.cookie, other.proof},
	} {
		resp, _ := b.do(http.MethodGet, "/console/api/api/v1/pods", "")
		if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s", what, resp.Status)
		}
	}
}

func TestOtherOriginsAreRefused(t *testing.T) {
	b := start(t).loggedIn()
	for _, h := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Sec-Fetch-Site", "none"},
		{"Origin", "https://evil.example"}, {"Origin", "null"},
		// Another port of the same host is another origin: applications behind the gateway are that.
		{"Origin", "https://127.0.0.1:8443"},
	} {
		for _, at := range []struct{ method, path string }{
			{http.MethodGet, "/console/api/api/v1/pods"}, {http.MethodDelete, "/console/session"}, {http.MethodPost, "/console/session"}, {http.MethodPost, "/console/session/code"}} {
			resp, _ := b.do(at.method, at.path, `{"token":"`+goodToken+`"}`, h...)
			wantStatus(t, fmt.Sprint(at, h), resp, http.StatusForbidden)
		}
	}
	resp, _ := b.do(http.MethodGet, "/console/api/api/v1/pods", "", "Origin", b.URL)
	wantStatus(t, "its own origin", resp, http.StatusOK)
}

func TestALinkIsGoodOnceAndSoon(t *testing.T) {
	f := start(t)
	cli := &browser{fixture: f, proof: "link"}
	code := func() string {
		resp, text := cli.do(http.MethodPost, "/console/session/code", `{"token":"`+goodToken+`"}`)
		wantStatus(t, "make a code", resp, http.StatusOK)
		var c console.Code
		if err := json.Unmarshal([]byte(text), &c); err != nil || c.Code == "" || c.User.Name != "ann" {
			t.Fatalf("code: %v %s", err, text)
		}
		return `{"code":"` + c.Code + `"}`
	}
	first, late, b := code(), code(), &browser{fixture: f}
	resp, _ := b.logIn(first)
	wantStatus(t, "open the link", resp, http.StatusOK)
	resp, _ = b.do(http.MethodGet, "/console/api/api/v1/pods", "")
	wantStatus(t, "ask", resp, http.StatusOK)
	resp, _ = b.logIn(first)
	wantStatus(t, "open the link again", resp, http.StatusUnauthorized)
	f.now = f.now.Add(3 * time.Minute)
	resp, _ = b.logIn(late)
	wantStatus(t, "open an old link", resp, http.StatusUnauthorized)
}

func TestSessionsEnd(t *testing.T) {
	f := start(t)
	b := f.loggedIn()
	f.now = f.now.Add(13 * time.Hour)
	resp, _ := b.do(http.MethodGet, "/console/api/api/v1/pods", "")
	wantStatus(t, "the next day", resp, http.StatusUnauthorized)
}

func TestOnlyWhatThePageNeedsIsForwarded(t *testing.T) {
	f := start(t)
	b := f.loggedIn()
	before := len(f.asked)
	for _, path := range []string{
		"/metrics", "/console/session", "/", "/debug/pprof/", "/apifoo",
		"/api/v1/namespaces/a/services/b/proxy/", "/api/v1/namespaces/a/pods/b/proxy", "/api/v1/nodes/n/proxy/logs",
		"/api/v1/namespaces/a/services/b%2Fproxy/x", "/api/..%2fmetrics", "/api/%2e%2e/metrics",
	} {
		resp, text := b.do(http.MethodGet, "/console/api"+path, "")
		if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMovedPermanently && resp.StatusCode != http.StatusTemporaryRedirect {
			t.Errorf("%s: %s %q", path, resp.Status, text)
		}
	}
	if n := len(f.asked) - before; n != 0 {
		t.Errorf("the API got %d requests", n)
	}
	// What was checked is what the API gets: nothing is decoded twice.
	for path, want := range map[string]string{
		"/api/v1/namespaces/a/services/b/%2570roxy/": "/api/v1/namespaces/a/services/b/%2570roxy/",
		"/api/v1/%252e%252e/%252e%252e/metrics":      "/api/v1/%252e%252e/%252e%252e/metrics",
	} {
		if _, text := b.do(http.MethodGet, "/console/api"+path, ""); text != "GET "+want {
			t.Errorf("%s became %q", path, text)
		}
	}
}

func TestAnswersCannotRunAsPages(t *testing.T) {
	b := start(t).loggedIn()
	resp, _ := b.do(http.MethodGet, "/console/api/api/v1/evil", "")
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "sandbox;") {
		t.Errorf("the policy is %q", csp)
	}
	if resp.Header.Get("X-Content-Type-Options") != "nosniff" || len(resp.Cookies()) > 0 {
		t.Errorf("the headers are %v", resp.Header)
	}
}

func TestStreamsArriveAsTheyAreSent(t *testing.T) {
	b := start(t).loggedIn()
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.URL+"/console/api/api/v1/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.AddCookie(b.cookie)
	req.Header.Set(console.ProofHeader, b.proof)
	resp, err := b.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	line := make([]byte, 6)
	if _, err := io.ReadFull(resp.Body, line); err != nil || string(line) != "first\n" {
		t.Errorf("read %q, %v", line, err)
	}
	leave()
}

func TestPages(t *testing.T) {
	b := &browser{fixture: start(t)}
	for path, want := range map[string]int{"/console/": 200, "/console/workloads/shop/deployment/cart": 200, "/console/assets/index.js": 200, "/console/assets/none.js": 404, "/console/login": 200} {
		resp, text := b.do(http.MethodGet, path, "")
		wantStatus(t, path, resp, want)
		if want != 200 {
			continue
		}
		if csp := resp.Header.Get("Content-Security-Policy"); strings.Contains(csp, "unsafe") || !strings.HasPrefix(csp, "default-src 'none'") {
			t.Errorf("%s: policy %q", path, csp)
		}
		again, _ := b.do(http.MethodGet, path, "", "If-None-Match", resp.Header.Get("ETag"))
		wantStatus(t, path+" unchanged", again, http.StatusNotModified)
		if strings.HasSuffix(path, "/") && (strings.Contains(text, "<style") || strings.Contains(text, "onload=")) {
			t.Errorf("%s has something inline: %s", path, text)
		}
	}
	resp, _ := b.do(http.MethodPost, "/console/", "")
	wantStatus(t, "post a page", resp, http.StatusMethodNotAllowed)
}

// maxBundle is what all pages together may take over the network.
const maxBundle = 300 << 10

func TestTheBundleIsSmall(t *testing.T) {
	total := 0
	err := filepath.WalkDir("dist", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(name, ".txt") {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		_, _ = z.Write(text) // into memory
		_ = z.Close()
		total += out.Len()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes compressed", total)
	if total > maxBundle {
		t.Errorf("the pages take %d bytes compressed, at most %d are allowed", total, maxBundle)
	}
}

func TestTheBundleIsBuiltFromTheSources(t *testing.T) {
	list, err := os.ReadFile("web/sources.sha256")
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]string{}
	for line := range strings.Lines(string(list)) {
		if sum, name, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
			left[name] = sum
		}
	}
	err = filepath.WalkDir("web", func(name string, d fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(filepath.ToSlash(name), "web/")
		switch {
		case err != nil:
			return err
		case d.IsDir() && rel == "node_modules":
			return filepath.SkipDir
		case d.IsDir() || rel == "sources.sha256" || rel == ".gitignore":
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256(text)); left[rel] != sum {
			t.Errorf("%s has changed since dist was built: run `make console`", rel)
		}
		delete(left, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range left {
		t.Errorf("%s is gone, but dist was built with it: run `make console`", name)
	}
}
