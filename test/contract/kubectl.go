package contract

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// kubectl runs kubectl in the story's namespace and answers what it printed.
type kubectl struct {
	s          *teller
	kubeconfig string
	dir        string
}

func (s *teller) kubectl() *kubectl {
	s.Helper()
	if _, err := exec.LookPath("kubectl"); err != nil {
		s.Skip("kubectl is not installed")
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"] = &clientcmdapi.Cluster{Server: s.cfg.Host, CertificateAuthorityData: s.cfg.CAData, CertificateAuthority: s.cfg.CAFile, InsecureSkipTLSVerify: s.cfg.Insecure}
	cfg.AuthInfos["c"] = &clientcmdapi.AuthInfo{ClientCertificateData: s.cfg.CertData, ClientCertificate: s.cfg.CertFile, ClientKeyData: s.cfg.KeyData, ClientKey: s.cfg.KeyFile, Token: s.cfg.BearerToken}
	cfg.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "c", Namespace: s.namespace}
	cfg.CurrentContext = "c"
	dir := s.TempDir()
	k := &kubectl{s: s, kubeconfig: filepath.Join(dir, "kubeconfig"), dir: dir}
	s.must(clientcmd.WriteToFile(*cfg, k.kubeconfig))
	return k
}

func (k *kubectl) try(input string, args ...string) (string, error) {
	cmd := exec.CommandContext(k.s.ctx, "kubectl", args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k.kubeconfig, "KUBECACHEDIR="+filepath.Join(k.dir, "cache"))
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run runs kubectl and checks that it succeeds and prints every one of want.
func (k *kubectl) run(input, args string, want ...string) string {
	k.s.Helper()
	out, err := k.try(input, strings.Fields(args)...)
	if err != nil {
		k.s.Fatalf("kubectl %s: %v\n%s", args, err, out)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			k.s.Errorf("kubectl %s does not print %q:\n%s", args, w, out)
		}
	}
	return out
}

// fails runs kubectl and checks that it fails, saying want.
func (k *kubectl) fails(input, args, want string) {
	k.s.Helper()
	out, err := k.try(input, strings.Fields(args)...)
	if err == nil || !strings.Contains(out, want) {
		k.s.Errorf("kubectl %s: %v, want a failure that says %q:\n%s", args, err, want, out)
	}
}

const manifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {schedulerName: nobody, containers: [{name: main, image: "example.com/app:1", ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
`

func kubectlStory(s *teller) {
	k := s.kubectl()
	k.run(manifest, "apply -f -", "deployment.apps/web created", "service/web created")
	k.run(manifest, "apply -f -", "deployment.apps/web unchanged", "service/web unchanged")
	changed := strings.Replace(manifest, "app:1", "app:2", 1)
	k.fails(changed, "diff -f -", "image: example.com/app:2")
	k.fails(strings.Replace(manifest, "replicas", "replicaz", 1), "apply -f -", `unknown field "spec.replicaz"`)
	k.fails(strings.Replace(manifest, "example.com/app:1", "", 1), "apply -f -", "spec.template.spec.containers[0].image")
	k.run(changed, "apply -f -", "deployment.apps/web configured")
	k.run("", "get deployment,service -o wide", "deployment.apps/web", "example.com/app:2", "service/web", "ClusterIP", "app=web")
	k.run("", "get deployment web -o jsonpath={.spec.replicas}", "2")
	k.run("", "describe deployment web", "Replicas:", "2 desired", "example.com/app:2", "RollingUpdate")
	k.run("", "explain deployment.spec.strategy", "FIELDS:", "rollingUpdate")
	k.run("", "explain --api-version=autoscaling/v2 hpa.spec.metrics --recursive", "averageUtilization")
	k.run("", "scale deployment web --replicas=3", "scaled")
	k.run("", "set image deployment/web main=example.com/app:3", "image updated")
	k.run("", "label deployment web tier=front", "labeled")
	k.run("", "annotate deployment web note=yes", "annotated")
	k.run("", "patch deployment web --type=json -p=[{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":0}]", "patched")
	k.run("", "wait deployment/web --for=jsonpath={.spec.replicas}=0 --timeout=10s", "condition met")
	k.run("", "get deployment -l tier=front -o name", "deployment.apps/web")
	k.run(strings.Replace(manifest, "replicas: 2", "replicas: 5", 1), "apply --server-side --field-manager=ci --force-conflicts -f -", "serverside-applied")
	k.fails(strings.Replace(manifest, "replicas: 2", "replicas: 6", 1), "apply --server-side --field-manager=other -f -", "conflict")
	k.run("", "create configmap settings --from-literal=a=b", "created")
	k.run("", "create secret generic password --from-literal=p=s", "created")
	k.run("", "create configmap ghost --from-literal=a=b --dry-run=server", "created (server dry run)")
	k.fails("", "get configmap ghost", "NotFound")
	k.run("", "auth can-i create deployments", "yes")
	k.fails("", "auth can-i list secrets --as=nobody", "no")
	k.run("", "auth whoami", "Username")
	if token := k.run("", "create token runner --duration=10m"); strings.Count(token, ".") != 2 {
		s.Errorf("token: %s", token)
	}
	k.run("", "create role reader --verb=get --resource=configmaps", "created")
	k.run("", "create rolebinding reader --role=reader --user=alice", "created")
	k.run("", "auth can-i get configmaps --as=alice", "yes")
	k.run("", "api-resources --namespaced=true", "deployments", "networkpolicies", "horizontalpodautoscalers")
	k.run("", "get --raw /version", "gitVersion")
	k.run("", "events", "")
	k.run("", "delete deployment,service,configmap settings web --ignore-not-found", "")
	k.run(manifest, "apply -f -", "created")
	k.run(manifest, "delete -f - --timeout=20s", `deployment.apps "web" deleted`)
	k.fails("", "get deployment web", "NotFound")
}
