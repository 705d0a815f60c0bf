package main

import (
	"context"
	"fmt"
	"os"

	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/gantryhq/gantry/internal/attest"
	"github.com/gantryhq/gantry/services/registry"
	"github.com/gantryhq/gantry/services/scan"
)

// startScanning scans what is pushed to the registry, in a process that runs while
// there is something to scan.
func startScanning(ctx context.Context, in *server) error {
	if err := scan.EnsureRole(ctx, in.installer()); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the program that scans: %w", err)
	}
	s, err := scan.NewService(scan.ServiceConfig{
		Client: in.api.ClientConfig(scan.User), Registry: in.registryAddr, DataDir: in.dataDir, Version: version,
		Signer: in.signer, Command: []string{self, "scan-worker"}, Register: legacyregistry.RawMustRegister,
	})
	if err != nil {
		return err
	}
	in.scanning.Store(s)
	in.background("scanning", s.Run)
	return nil
}

// signer reads the installation's own key.
func (in *server) signer(ctx context.Context) (*attest.Signer, error) {
	kube, err := kubernetes.NewForConfig(in.installer())
	if err != nil {
		return nil, err
	}
	return attest.InstanceSigner(ctx, kube)
}

// imagePushed is told by the registry.
func (in *server) imagePushed(e registry.Event) {
	if s := in.scanning.Load(); s != nil && e.Subject == "" {
		s.Enqueue(e.Repository, e.Digest.String())
	}
}
