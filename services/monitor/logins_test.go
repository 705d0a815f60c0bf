package monitor

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/config"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// withLogins is a server that wants one of several logins, by path, over TLS.
func withLogins(t *testing.T) *httptest.Server {
	mux := http.NewServeMux()
	allow := func(path string, check func(*http.Request) bool) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if !check(r) {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fmt.Fprintln(w, "up 1")
		})
	}
	allow("/basic", func(r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		return user == "ann" && password == "hunter2"
	})
	allow("/bearer", func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer tok3n" })
	allow("/scheme", func(r *http.Request) bool { return r.Header.Get("Authorization") == "Token tok3n" })
	allow("/oauth2", func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer issued" })
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "ann" || password != "hunter2" || r.FormValue("scope") != "read" || r.FormValue("tenant") != "shop" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token": "issued", "token_type": "Bearer", "expires_in": 3600}`)
	})
	s := httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return s
}

// fetch asks a path as the job that a monitor in the namespace shop becomes does.
func fetch(t *testing.T, k *keeper, server *httptest.Server, path, endpoint string) (int, error) {
	t.Helper()
	const ca = "\n    scheme: https\n    tlsConfig: {ca: {configMap: {name: ca, key: ca.crt}}, serverName: example.com}"
	jobs, refers, err := k.ofMonitor(t.Context(), object(t, "metadata: {namespace: shop, name: b}\nspec:\n  selector: {}\n  podMetricsEndpoints:\n  - port: x\n    "+endpoint+ca), false)
	if err != nil {
		return 0, err
	}
	if !refers {
		t.Error("the monitor is not known to refer to Secrets")
	}
	cfg, err := load(jobs[0].job)
	if err != nil {
		t.Fatal(err)
	}
	if text := cfg.String(); strings.Contains(text, "hunter2") || strings.Contains(text, "tok3n") {
		t.Errorf("secrets are in the configuration:\n%s", text)
	}
	client, err := config.NewClientFromConfig(cfg.ScrapeConfigs[0].HTTPClientConfig, "x", config.WithSecretManager(k.vault))
	if err != nil {
		return 0, err
	}
	answer, err := client.Get(server.URL + path)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, nil
}

// Targets that want a login get the one that is in a Secret of the monitor's own namespace, and none of another.
func TestLogins(t *testing.T) {
	server, k := withLogins(t), newKeeper(t)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s"}, Data: map[string][]byte{
		"user": []byte("ann"), "password": []byte("hunter2"), "token": []byte("tok3n"),
	}}
	client := fake.NewClientset(secret,
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "foreign"}, Data: map[string][]byte{"token": []byte("tok3n")}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "ca"}, Data: map[string]string{
			"ca.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})),
		}})
	k.vault.client = client
	ask := func(path, endpoint string) {
		t.Helper()
		if status, err := fetch(t, k, server, path, endpoint); err != nil || status != http.StatusOK {
			t.Errorf("%s: %d, %v", path, status, err)
		}
	}
	ask("/basic", `basicAuth: {username: {name: s, key: user}, password: {name: s, key: password}}`)
	ask("/bearer", `bearerTokenSecret: {name: s, key: token}`)
	ask("/bearer", `authorization: {credentials: {name: s, key: token}}`)
	ask("/scheme", `authorization: {type: Token, credentials: {name: s, key: token}}`)
	oauth2 := fmt.Sprintf(`oauth2: {tokenUrl: "%s/token", clientId: {secret: {name: s, key: user}}, clientSecret: {name: s, key: password}, `+
		`scopes: [read], endpointParams: {tenant: shop}, tlsConfig: {ca: {configMap: {name: ca, key: ca.crt}}, serverName: example.com}}`, server.URL)
	ask("/oauth2", oauth2)

	if _, err := fetch(t, k, server, "/bearer", `bearerTokenSecret: {name: foreign, key: token}`); err == nil || !strings.Contains(err.Error(), "there is no secret shop/foreign") {
		t.Errorf("a Secret of another namespace: %v", err)
	}
	for _, name := range []string{"../other/foreign", "../../namespaces/other/secrets/foreign"} {
		if _, err := fetch(t, k, server, "/bearer", fmt.Sprintf(`bearerTokenSecret: {name: "%s", key: token}`, name)); err == nil {
			t.Errorf("a Secret named %s is found", name)
		}
	}

	// A login that is changed is used without the monitor being looked at again.
	secret.Data["token"] = []byte("wrong")
	if _, err := client.CoreV1().Secrets("shop").Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	k.vault.read = map[string]container{} // as after a while
	if status, err := fetch(t, k, server, "/bearer", `bearerTokenSecret: {name: s, key: token}`); err != nil || status != http.StatusUnauthorized {
		t.Errorf("with a wrong token: %d, %v", status, err)
	}
}

// The API is asked once in a while, and what it refuses is asked again at once.
func TestTheVaultAsksSeldom(t *testing.T) {
	client := fake.NewClientset(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s"}, Data: map[string][]byte{"k": []byte("v")}})
	v := &vault{client: client, read: map[string]container{}}
	for range 5 {
		if value, err := v.Fetch(t.Context(), "secret/a/s/k"); err != nil || value != "v" {
			t.Fatal(value, err)
		}
		if _, err := v.Fetch(t.Context(), "secret/a/gone/k"); err == nil {
			t.Fatal("a Secret that is not there is read")
		}
	}
	if n := len(client.Actions()); n != 2 {
		t.Errorf("the API was asked %d times, want once for each Secret", n)
	}
	v.read["secret/a/s"] = container{at: time.Now().Add(-3 * fresh)}
	if value, err := v.Fetch(t.Context(), "secret/a/s/k"); err != nil || value != "v" {
		t.Fatal(value, err)
	}
}
