package main

import (
	"context"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/gantryhq/gantry/services/console"
)

// startConsole serves the web console under the API's address. It reaches the API through its
// socket, like any client, because everyone who is logged in brings a token.
func startConsole(ctx context.Context, in *server) error {
	if err := console.EnsureRole(ctx, in.installer()); err != nil {
		return err
	}
	api, err := clientcmd.BuildConfigFromFlags("", filepath.Join(in.dataDir, "kubeconfig"))
	if err != nil {
		return err
	}
	c, err := console.New(console.Config{API: api, Register: legacyregistry.RawMustRegister})
	if err != nil {
		return err
	}
	return in.api.MountStreaming(console.Prefix, c)
}
