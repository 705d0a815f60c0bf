package main

import (
	"context"
	"fmt"
	"net"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/gantryhq/gantry/services/trust"
)

// startTrust decides which images may run. The API server calls its webhooks without a connection,
// and the node asks it before a container starts.
func startTrust(ctx context.Context, in *server) (err error) {
	if err := trust.Ensure(ctx, in.installer()); err != nil {
		return err
	}
	in.trust, err = trust.New(trust.Config{
		Client: in.api.ClientConfig(trust.User), Dir: filepath.Join(in.dataDir, "trust"), Register: legacyregistry.RawMustRegister,
	})
	if err != nil {
		return err
	}
	in.api.ServeExtension(trust.Namespace, trust.Name, in.trust)
	in.background("trust", in.trust.Run)
	return nil
}

func newTrustCommand(g *globals) *cobra.Command {
	var cfg trust.Config
	var listen string
	c := &cobra.Command{
		Use:   "trust",
		Short: "Run only the content trust service: TrustPolicy objects decide which images may run",
		Long: "Answers the admission webhooks that hold images against the TrustPolicy objects of the API\n" +
			"that --kubeconfig names. `gantry serve` does this by itself; on a cluster this is the\n" +
			"command of a pod behind the Service gantry-system/trust.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			if cfg.Client, err = g.config(); err != nil {
				return err
			}
			kube, err := kubernetes.NewForConfig(cfg.Client)
			if err != nil {
				return err
			}
			certificate, bundle, err := trust.Certificate(ctx, kube)
			if err != nil {
				return err
			}
			cfg.CABundle = bundle
			s, err := trust.New(cfg)
			if err != nil {
				return err
			}
			listener, err := net.Listen("tcp", listen)
			if err != nil {
				return fmt.Errorf("listen on %s: %w", listen, err)
			}
			group, ctx := errgroup.WithContext(ctx)
			group.Go(func() error { return s.Listen(ctx, listener, certificate) })
			group.Go(func() error { return ignoreEnd(ctx, s.Run(ctx)) })
			return group.Wait()
		},
	}
	c.Flags().StringVar(&listen, "listen", ":9443", "address for the API server, with TLS")
	c.Flags().StringVar(&cfg.Dir, "state-dir", "", "where accepted images are remembered over a restart (default in memory only)")
	return c
}
