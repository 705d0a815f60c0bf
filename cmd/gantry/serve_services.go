package main

import (
	"context"
	"path/filepath"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/gantryhq/gantry/engine/apiserver"
	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/services/gateway"
	"github.com/gantryhq/gantry/services/metrics"
	"github.com/gantryhq/gantry/services/scale"
)

// gatewayAddresses is where the gateway process listens.
type gatewayAddresses struct {
	HTTP string `json:"http"`
	TLS  string `json:"tls"`
}

// startGatewayKinds installs the Gateway API's kinds while the rest starts:
// checking their schemas takes longer than anything else at a first start.
func startGatewayKinds(ctx context.Context, in *server) error {
	done := make(chan error, 1)
	in.gatewayKinds = done
	in.group.Go(func() error {
		done <- gateway.EnsureCRDs(ctx, in.installer())
		return nil
	})
	return nil
}

// installer is the identity that creates what services need to exist.
func (in *server) installer() *rest.Config {
	return in.api.ClientConfig(apiserver.Installer, "system:masters")
}

// startGateway keeps the gateway's process running. The process goes on when
// this one ends.
func startGateway(ctx context.Context, in *server) error {
	if err := <-in.gatewayKinds; err != nil {
		return err
	}
	kubeconfig := filepath.Join(in.dataDir, "run", "gateway.kubeconfig")
	if err := in.api.WriteKubeconfig(kubeconfig, "system:gantry:gateway", nil); err != nil {
		return err
	}
	if err := waitReady(ctx, in.network.Ready()); err != nil {
		return err
	}
	process, err := openGatewayProcess(in.dataDir, kubeconfig, in.gatewayListen, in.gatewayTLS, in.gatewayFlags...)
	if err != nil {
		return err
	}
	in.gatewayAddr = process.addresses
	if err := gateway.EnsureDefaults(ctx, in.installer()); err != nil {
		return err
	}
	if err := process.ensure(ctx); err != nil {
		return err
	}
	in.background("gateway process", process.keepRunning)
	return nil
}

// startScaling adjusts replicas to what the gateway tells of the demand.
func startScaling(ctx context.Context, in *server) error {
	if err := scale.EnsureRole(ctx, in.installer()); err != nil {
		return err
	}
	in.background("scaling", func(ctx context.Context) error {
		return scale.Run(ctx, scale.Config{
			Client: in.api.ClientConfig(scale.User), Gateways: "unix:" + gatewayAdminSocket(in.dataDir), Register: legacyregistry.RawMustRegister,
		})
	})
	return nil
}

// startMetrics answers the metrics APIs, to which the API server sends requests without a connection.
func startMetrics(ctx context.Context, in *server) error {
	m, err := metrics.New(metrics.Config{Client: in.api.ClientConfig(metrics.User), Gateways: "unix:" + gatewayAdminSocket(in.dataDir)})
	if err != nil {
		return err
	}
	in.api.ServeExtension(metrics.Namespace, metrics.Name, m)
	in.background("metrics", m.Run)
	return metrics.Ensure(ctx, in.installer())
}

// publishAddresses lets clients find the services.
func publishAddresses(ctx context.Context, in *server) error {
	c, err := kubernetes.NewForConfig(in.installer())
	if err != nil {
		return err
	}
	return platform.Publish(ctx, c, platform.Info{
		Version: version, Registry: in.registryAddr, DataDir: in.dataDir,
		Gateway: in.gatewayAddr.HTTP, TLS: in.gatewayAddr.TLS,
	})
}
