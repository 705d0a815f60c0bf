package pipeline

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

const hookSecret = "It's a Secret to Everybody"

// TestGitHubsOwnExample is the one of GitHub's documentation of webhook signatures.
func TestGitHubsOwnExample(t *testing.T) {
	h := http.Header{}
	h.Set("X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")
	h.Set("X-GitHub-Event", "ping")
	if _, err := verify("GitHub", []byte(hookSecret), h, []byte("Hello, World!")); err != nil {
		t.Error(err)
	}
	if _, err := verify("GitHub", []byte(hookSecret), h, []byte("Hello, World?")); err == nil {
		t.Error("another body has the same signature")
	}
}

func sign(body string) string {
	mac := hmac.New(sha256.New, []byte(hookSecret))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

// The shapes of the three servers' deliveries, shortened to what identifies a push.
const (
	githubPush = `{"ref":"refs/heads/main","before":"6113728f27ae82c7b1a177c8d03f9e96e0adf246","after":"59b20b8d5c6ff8d09518216e87a80ce18f3d8d1d","repository":{"full_name":"acme/shop"},"pusher":{"name":"ada"},"deleted":false}`
	gitlabPush = `{"object_kind":"push","event_name":"push","before":"95790bf891e76fee5e1747ab589903a6a1f80f22","after":"da1560886d4f094c3e6c9ef40349f7d38b5d27d7","ref":"refs/heads/main","checkout_sha":"da1560886d4f094c3e6c9ef40349f7d38b5d27d7","user_name":"Ada","project":{"path_with_namespace":"acme/shop"}}`
	giteaPush  = `{"ref":"refs/heads/main","before":"28e1879d029cb852e4844d9c718537df08844e03","after":"bffeb74224043ba2feb48d137756c8a9331c449a","compare_url":"http://localhost:3000/acme/shop/compare/x...y","repository":{"full_name":"acme/shop"},"pusher":{"login":"ada"}}`
)

func TestWebhooks(t *testing.T) {
	for name, c := range map[string]struct {
		provider, body string
		headers        map[string]string
		method, path   string
		status         int
		looks          bool
	}{
		"GitHub":            {provider: "GitHub", body: githubPush, headers: map[string]string{"X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256=" + sign(githubPush)}, status: 202, looks: true},
		"Gitea":             {provider: "Gitea", body: giteaPush, headers: map[string]string{"X-Gitea-Event": "push", "X-Gitea-Signature": sign(giteaPush)}, status: 202, looks: true},
		"GitLab":            {provider: "GitLab", body: gitlabPush, headers: map[string]string{"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": hookSecret}, status: 202, looks: true},
		"GitHub's ping":     {provider: "GitHub", body: `{"zen":"x"}`, headers: map[string]string{"X-GitHub-Event": "ping", "X-Hub-Signature-256": "sha256=" + sign(`{"zen":"x"}`)}, status: 200},
		"another branch":    {provider: "GitHub", body: strings.Replace(githubPush, "heads/main", "heads/next", 1), headers: map[string]string{"X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256=" + sign(strings.Replace(githubPush, "heads/main", "heads/next", 1))}, status: 200},
		"a wrong signature": {provider: "GitHub", body: githubPush, headers: map[string]string{"X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256=" + sign(giteaPush)}, status: 403},
		"the old signature": {provider: "GitHub", body: githubPush, headers: map[string]string{"X-GitHub-Event": "push", "X-Hub-Signature": "sha1=00"}, status: 403},
		"no signature":      {provider: "Gitea", body: giteaPush, headers: map[string]string{"X-Gitea-Event": "push"}, status: 403},
		"a wrong token":     {provider: "GitLab", body: gitlabPush, headers: map[string]string{"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": "guess"}, status: 403},
		"no token":          {provider: "GitLab", body: gitlabPush, headers: map[string]string{"X-Gitlab-Event": "Push Hook"}, status: 403},
		"another server's":  {provider: "GitLab", body: githubPush, headers: map[string]string{"X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256=" + sign(githubPush)}, status: 403},
		"no such pipeline":  {provider: "GitHub", body: githubPush, path: "/.gantry/hooks/ns/none", headers: map[string]string{"X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256=" + sign(githubPush)}, status: 403},
		"a GET":             {provider: "GitHub", method: "GET", status: 405},
		"another path":      {provider: "GitHub", path: "/elsewhere", status: 404},
		"too much":          {provider: "GitHub", body: strings.Repeat("x", maxHookBody+1), status: 413},
		"no JSON":           {provider: "Gitea", body: "ref", headers: map[string]string{"X-Gitea-Event": "push", "X-Gitea-Signature": sign("ref")}, status: 400},
	} {
		t.Run(name, func(t *testing.T) {
			s, w := hookService(t, c.provider)
			if c.method == "" {
				c.method = http.MethodPost
			}
			if c.path == "" {
				c.path = HookPath("ns", "shop")
			}
			r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
			for k, v := range c.headers {
				r.Header.Set(k, v)
			}
			answer := httptest.NewRecorder()
			(&hookServer{service: s, ctx: t.Context(), slots: make(chan struct{}, 1)}).ServeHTTP(answer, r)
			if answer.Code != c.status || w.again != c.looks {
				t.Errorf("answers %d, looks %v: %s", answer.Code, w.again, answer.Body)
			}
		})
	}
}

// hookService is a service with one Pipeline, whose repository is being looked at: a
// webhook makes it look again.
func hookService(t *testing.T, provider string) (*Service, *watched) {
	t.Helper()
	p := &v1alpha1.Pipeline{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "shop"}}
	p.Spec.Source.Branch = "main"
	p.Spec.Triggers.Webhook = &v1alpha1.PipelineWebhook{Provider: provider, SecretName: "hook"}
	s := &Service{
		cfg: Config{Log: slog.Default()}, watched: map[string]*watched{"ns/shop": {looking: true}},
		kube: fake.NewClientset(&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "hook"}, Data: map[string][]byte{"secret": []byte(hookSecret)},
		}),
		pipelines: cache.NewSharedIndexInformer(&cache.ListWatch{}, p, 0, nil),
	}
	if err := s.pipelines.GetStore().Add(p); err != nil {
		t.Fatal(err)
	}
	return s, s.watched["ns/shop"]
}

func TestAnEmptySecretIsNobodys(t *testing.T) {
	h := http.Header{}
	h.Set("X-Gitlab-Event", "Push Hook")
	if _, err := verify("GitLab", nil, h, []byte(gitlabPush)); err == nil {
		t.Error("an empty token opens a webhook whose secret is empty")
	}
}
