package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/gantryhq/gantry/services/registry"
	"github.com/gantryhq/gantry/services/registry/login"
	"github.com/gantryhq/gantry/services/registry/policy"
)

// newServeRegistryCommand is a command of pods on a cluster; here `gantry serve` does its
// work itself.
func newServeRegistryCommand(g *globals) *cobra.Command {
	var listen, dir, bucket string
	var certificate registryTLS
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run only the registry, for the cluster that --kubeconfig names",
		Long: "Serves the registry whose files are under --storage, with TLS; everybody logs in, and the cluster's RBAC\n" +
			"decides. `gantry serve` does this by itself; on a cluster this is the command of a pod,\n" +
			"with one replica and a volume, or with --bucket and credentials of it in AWS_ACCESS_KEY_ID and\n" +
			"AWS_SECRET_ACCESS_KEY from a Secret.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := errors.Join(certificate.check(), checkAddress("listen", listen)); err != nil {
				return usageError{err}
			}
			if certificate.cert == "" {
				return usageError{errors.New("--tls-cert and --tls-key are needed")}
			}
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return ignoreEnd(ctx, serveRegistry(ctx, g, registry.Config{DataDir: dir, Storage: bucket}, listen, certificate))
		},
	}
	c.Flags().StringVar(&listen, "listen", ":5000", "address of the registry")
	c.Flags().StringVar(&dir, "storage", defaultDataDir, "directory of its files")
	c.Flags().StringVar(&bucket, "bucket", "", "S3 bucket for its content instead, such as s3://images/registry?endpoint=https://minio:9000")
	c.Flags().StringVar(&certificate.cert, "tls-cert", "", "its certificate, PEM")
	c.Flags().StringVar(&certificate.key, "tls-key", "", "the certificate's key, PEM")
	return c
}

func serveRegistry(ctx context.Context, g *globals, kept registry.Config, listen string, certificate registryTLS) error {
	cfg, err := g.config()
	if err != nil {
		return err
	}
	cluster, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	policies, err := policy.New(cfg, nil)
	if err != nil {
		return err
	}
	kept.Login, kept.Policies, kept.Register = login.New(cluster), policies, legacyregistry.RawMustRegister
	r, err := registry.New(kept)
	if err != nil {
		return err
	}
	current, err := certificate.source(nil)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", listen, err)
	}
	// Without login.ConnContext: in a pod nobody is root of the machine.
	server := &http.Server{
		Handler: r, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: current},
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ignoreEnd(ctx, server.ServeTLS(l, "", "")) })
	group.Go(func() error { <-ctx.Done(); return server.Close() })
	group.Go(func() error { return policies.Run(ctx, r) })
	group.Go(func() error { return r.KeepTidy(ctx, cluster) })
	return group.Wait()
}
