package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/engine/host"
	"github.com/gantryhq/gantry/engine/node"
	"github.com/gantryhq/gantry/engine/node/driver"
	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/internal/hint"
)

// defaultRuntime is the handler of pods without a RuntimeClass unless --runtime
// says otherwise.
const defaultRuntime = "gantry"

// openDriver opens what runs containers, and says which RuntimeClass handlers it knows.
func (in *server) openDriver() (runtime.Driver, []string, error) {
	programs, err := host.Runtimes(in.ociRuntimes)
	if err != nil {
		return nil, nil, err
	}
	handlers := append([]string{driver.Builtin}, slices.Sorted(maps.Keys(programs))...)
	if !slices.Contains(handlers, in.runtime) {
		return nil, nil, hint.Wrap(fmt.Errorf("--runtime %s: no such runtime is installed, there are %q", in.runtime, handlers),
			"install it, or name its program with --oci-runtime %s=PATH", in.runtime)
	}
	containers, err := driver.New(driver.Config{DataDir: in.dataDir, Default: in.runtime, Handlers: programs})
	return containers, handlers, err
}

func (in *server) ensureRuntimeClasses(ctx context.Context, handlers []string) error {
	client, err := kubernetes.NewForConfig(in.installer())
	if err != nil {
		return err
	}
	return node.EnsureRuntimeClasses(ctx, client, handlers)
}
