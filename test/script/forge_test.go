package script

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// forge serves the bare repositories in a folder by HTTP, with Git's own server, and
// sets $FORGE to its address: forge FOLDER
func forge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: forge FOLDER")
	}
	libexec, err := exec.Command("git", "--exec-path").Output()
	ts.Check(err)
	server := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(libexec)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + ts.MkAbs(args[0]), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null"},
	})
	ts.Defer(server.Close)
	ts.Setenv("FORGE", server.URL)
}

// webhook tells a pipeline of a push as GitHub does, with the secret of its webhook,
// and wants a status: webhook NAMESPACE PIPELINE STATUS [SECRET]
func webhook(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 || len(args) > 4 {
		ts.Fatalf("usage: webhook NAMESPACE PIPELINE STATUS [SECRET]")
	}
	encoded, err := exec.Command("kubectl", "--kubeconfig", ts.Getenv("KUBECONFIG"), "get", "secret", "-n", args[0],
		args[1]+"-webhook", "-o", "jsonpath={.data.secret}").Output()
	ts.Check(err)
	secret, err := base64.StdEncoding.DecodeString(string(encoded))
	ts.Check(err)
	if len(args) == 4 {
		secret = []byte(args[3])
	}
	const body = `{"ref":"refs/heads/main","repository":{"full_name":"acme/app"}}`
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(body))
	r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://%s/.gantry/hooks/%s/%s", ts.Getenv("GATEWAY"), args[0], args[1]), strings.NewReader(body))
	ts.Check(err)
	r.Header.Set("X-GitHub-Event", "push")
	r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	answer, err := http.DefaultClient.Do(r)
	ts.Check(err)
	answer.Body.Close()
	if fmt.Sprint(answer.StatusCode) != args[2] {
		ts.Fatalf("the webhook was answered with %s, not %s", answer.Status, args[2])
	}
}
