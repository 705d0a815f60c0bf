package contract

import (
	"os"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

// TestCluster runs the contract against the cluster of CONTRACT_KUBECONFIG, such as a real
// kube-apiserver. The engine's own test runs it against the engine.
func TestCluster(t *testing.T) {
	path := os.Getenv("CONTRACT_KUBECONFIG")
	if path == "" {
		t.Skip("CONTRACT_KUBECONFIG names no cluster to test; the engine is tested in engine/apiserver")
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	Run(t, cfg)
}
