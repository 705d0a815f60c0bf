package apiserver_test

import (
	"context"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/gantryhq/gantry/engine/apiserver"
	"github.com/gantryhq/gantry/engine/store"
	"github.com/gantryhq/gantry/test/contract"
)

// instance is a running API server.
type instance struct {
	*apiserver.Server
	store *store.Store
	dir   string
	admin *rest.Config // over the network
	stop  func()       // as a kill would, but for what New and Serve hold
}

// start runs an API server on a directory until the test ends or stop is called.
func start(t testing.TB, dir string, change func(*apiserver.Config)) *instance {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	st, err := store.Open(filepath.Join(dir, "state.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := apiserver.Config{Store: st, DataDir: dir, Listen: "127.0.0.1:0"}
	if change != nil {
		change(&cfg)
	}
	s, err := apiserver.New(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	in := &instance{Server: s, store: st, dir: dir}
	stopped := false
	in.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := st.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	}
	t.Cleanup(in.stop)
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := s.WriteKubeconfig(kubeconfig, "admin", []string{"system:masters"}); err != nil {
		t.Fatal(err)
	}
	if in.admin, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		t.Fatal(err)
	}
	return in
}

func TestContract(t *testing.T) {
	if testing.Short() {
		t.Skip("the contract takes half a minute")
	}
	contract.Run(t, start(t, t.TempDir(), nil).admin)
}
