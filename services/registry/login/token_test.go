package login

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/services/registry"
)

// bearerOnly serves a registry to whom nobody can log in but by its tokens. It counts the
// requests that had one.
func bearerOnly(t *testing.T, c *fake.Clientset) (host string, byToken *atomic.Int64) {
	t.Helper()
	r, err := registry.New(registry.Config{DataDir: t.TempDir(), Login: New(c)})
	if err != nil {
		t.Fatal(err)
	}
	byToken = &atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch login := req.Header.Get("Authorization"); {
		case req.URL.Path == "/v2/token":
		case strings.HasPrefix(login, "Bearer "+passPrefix):
			byToken.Add(1)
		case strings.HasPrefix(login, "Basic "):
			req.Header.Del("Authorization")
		}
		r.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), byToken
}

func TestClientsLogInByToken(t *testing.T) {
	host, byToken := bearerOnly(t, cluster(t))
	ref, err := name.ParseReference(host + "/shop/cart:1")
	if err != nil {
		t.Fatal(err)
	}
	image, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err == nil || !strings.Contains(err.Error(), "UNAUTHORIZED") {
		t.Errorf("a push without a login: %v", err)
	}
	login := remote.WithAuth(&authn.Basic{Username: "x", Password: goodToken})
	if err := remote.Write(ref, image, login); err != nil {
		t.Fatalf("go-containerregistry does not push: %v", err)
	}
	if _, err := remote.Image(ref, login); err != nil {
		t.Fatalf("go-containerregistry does not pull: %v", err)
	}
	if err := remote.Delete(ref, login); err == nil || !strings.Contains(err.Error(), "may not delete from shop/cart") {
		t.Errorf("a token allows more than its user may: %v", err)
	}
	identity := remote.WithAuth(authn.FromConfig(authn.AuthConfig{IdentityToken: goodToken}))
	if _, err := remote.Image(ref, identity); err != nil {
		t.Errorf("a service-account token as identity token: %v", err)
	}
	before := byToken.Load()
	pullAsContainerd(t, ref.String(), image)
	if byToken.Load() == before {
		t.Error("no request had a token")
	}
}

func pullAsContainerd(t *testing.T, ref string, image v1.Image) {
	t.Helper()
	for what, user := range map[string]string{"name and password": "x", "identity token": ""} {
		authorizer := docker.NewDockerAuthorizer(docker.WithAuthCreds(func(string) (string, string, error) { return user, goodToken, nil }))
		resolver := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(
			docker.WithAuthorizer(authorizer), docker.WithPlainHTTP(docker.MatchAllHosts))})
		_, found, err := resolver.Resolve(t.Context(), ref)
		if err != nil {
			t.Errorf("containerd does not resolve with %s: %v", what, err)
			continue
		}
		if want, err := image.Digest(); err != nil || found.Digest.String() != want.String() {
			t.Errorf("containerd with %s finds %s, not %s (%v)", what, found.Digest, want, err)
		}
	}
}

func TestATokenIsTheLoginItStandsFor(t *testing.T) {
	secret, password, err := NewAccount("bot", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	c := cluster(t, secret)
	host, _ := bearerOnly(t, c)
	if status, _, challenges := get(t, host, "/v2/shop/cart/tags/list", ""); status != http.StatusUnauthorized || len(challenges) != 2 ||
		challenges[0] != fmt.Sprintf(`Bearer realm="http://%s/v2/token",service="%s",scope="repository:shop/cart:pull"`, host, host) || !strings.HasPrefix(challenges[1], "Basic ") {
		t.Errorf("without a login: %d %v", status, challenges)
	}
	for _, form := range []url.Values{
		{}, {"grant_type": {"password"}, "username": {"bot"}, "password": {"wrong"}}, {"grant_type": {"refresh_token"}, "refresh_token": {"gantry.x"}},
	} {
		if status, text := post(t, host, form); status != http.StatusUnauthorized || strings.Contains(text, "access_token") {
			t.Errorf("%v: %d %s", form, status, text)
		}
	}
	status, text := post(t, host, url.Values{"grant_type": {"password"}, "username": {"bot"}, "password": {password}, "scope": {"repository:shop/cart:pull"}})
	var answer struct {
		Token     string `json:"token"`
		Access    string `json:"access_token"`
		ExpiresIn int    `json:"expires_in"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || status != http.StatusOK || answer.Token == "" || answer.Token != answer.Access || answer.ExpiresIn != 300 {
		t.Fatalf("%d %s %v", status, text, err)
	}
	if strings.Contains(answer.Token, password) {
		t.Error("the token shows the password")
	}
	if status, text, _ := get(t, host, "/v2/", answer.Token); status != http.StatusOK {
		t.Errorf("with the token: %d %s", status, text)
	}
	if status, text, _ := get(t, host, "/v2/shop/cart/tags/list", answer.Token); status != http.StatusForbidden {
		t.Errorf("what the account may not: %d %s", status, text)
	}
	last := byte('A')
	if answer.Token[len(answer.Token)-5] == last {
		last = 'B'
	}
	changed := answer.Token[:len(answer.Token)-5] + string(last) + answer.Token[len(answer.Token)-4:]
	if status, _, challenges := get(t, host, "/v2/", changed); status != http.StatusUnauthorized || !strings.Contains(challenges[0], `error="invalid_token"`) {
		t.Errorf("with a token that was changed: %d %v", status, challenges)
	}
	if err := c.CoreV1().Secrets(platform.SystemNamespace).Delete(context.Background(), secret.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if status, _, challenges := get(t, host, "/v2/", answer.Token); status != http.StatusUnauthorized || !strings.Contains(challenges[0], `error="invalid_token"`) {
		t.Errorf("after the account was deleted: %d %v", status, challenges)
	}
}

func TestATokenEnds(t *testing.T) {
	p := newPasses()
	old, err := p.make("bot", "x", time.Now().Add(-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.open(old); err == nil || !strings.Contains(err.Error(), "the token expired") {
		t.Errorf("an old token: %v", err)
	}
	good, err := p.make("bot", "x", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if user, password, err := p.open(good); err != nil || user != "bot" || password != "x" {
		t.Errorf("%q %q %v", user, password, err)
	}
	if _, _, err := newPasses().open(good); err == nil {
		t.Error("another process takes the token")
	}
}

func get(t *testing.T, host, path, token string) (status int, body string, challenges []string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return do(t, req)
}

func post(t *testing.T, host string, form url.Values) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+host+"/v2/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	status, body, _ = do(t, req)
	return status, body
}

func do(t *testing.T, req *http.Request) (status int, body string, challenges []string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text), resp.Header.Values("WWW-Authenticate")
}
