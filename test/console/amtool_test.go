package console

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/gantryhq/gantry/test/instance"
)

// amtool does with Alertmanager's own tool what people do with it, as an account with the role for that.
func amtool(t *testing.T, in *instance.Instance) {
	path, err := exec.LookPath("amtool")
	if err != nil {
		t.Skip("amtool is not on the PATH: script/debian prometheus-alertmanager usr/bin/amtool brings it")
	}
	kubectl(t, in, "", "create", "serviceaccount", "on-call", "-n", "lab")
	kubectl(t, in, "", "create", "clusterrolebinding", "on-call", "--clusterrole=gantry-alerts-editor", "--serviceaccount=lab:on-call")
	config, err := clientcmd.LoadFromFile(in.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ca, client := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "client.yaml")
	for _, c := range config.Clusters {
		if err := os.WriteFile(ca, c.CertificateAuthorityData, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	token := kubectl(t, in, "", "create", "token", "on-call", "-n", "lab")
	if err := os.WriteFile(client, fmt.Appendf(nil, "authorization: {credentials: %s}\ntls_config: {ca_file: %s}\n", token, ca), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(path, append([]string{"--alertmanager.url=https://" + in.API + "/alertmanager", "--http.config.file=" + client}, args...)...)
		var complaints strings.Builder // amtool warns that its version is another one
		cmd.Stderr = &complaints
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("amtool %s: %v\n%s%s", strings.Join(args, " "), err, out, complaints.String())
		}
		return string(out)
	}
	silences := func() (live []string) {
		t.Helper()
		var list []struct{ ID, Comment string }
		if err := json.Unmarshal([]byte(ask("silence", "query", "-o", "json")), &list); err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			live = append(live, s.ID+" "+s.Comment)
		}
		return live
	}
	if out := ask("alert", "query", "alertname=Watchdog"); !strings.Contains(out, "Alerting works") {
		t.Errorf("the alerts are %q", out)
	}
	id := strings.TrimSpace(ask("silence", "add", "alertname=OfATest", "namespace=lab", "--comment=on purpose", "--duration=1h", "--author=ann"))
	if got := silences(); len(got) != 1 || got[0] != id+" on purpose" {
		t.Errorf("after adding %s there are %q", id, got)
	}
	// Everybody else sees the same.
	if out := kubectl(t, in, "", "get", "--raw", "/alertmanager/api/v2/silence/"+id); !strings.Contains(out, `"createdBy":"ann"`) {
		t.Errorf("the API says of it %s", out)
	}
	ask("silence", "expire", id)
	if got := silences(); len(got) != 0 {
		t.Errorf("after expiring it there are %q", got)
	}
	if out := ask("config", "show"); !strings.Contains(out, "receivers:") || !strings.Contains(out, "inhibit_rules:") {
		t.Errorf("the configuration is %q", out)
	}
}
