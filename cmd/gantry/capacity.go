package main

import (
	"context"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/gantryhq/gantry/services/metrics"
	"github.com/gantryhq/gantry/services/scale"
)

// newScaleCommand and newMetricsCommand are commands of pods on a cluster; here `gantry serve`
// does their work itself.
func newScaleCommand(g *globals) *cobra.Command {
	var cfg scale.Config
	c := &cobra.Command{
		Use:   "scale",
		Short: "Run only the scaling service: replicas follow ScalePolicy objects",
		Long: "Adjusts replicas as the ScalePolicy objects of the API say that --kubeconfig names.\n" +
			"`gantry serve` does this by itself; on a cluster this is the command of a pod.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if cfg.Client, err = g.config(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			if err := scale.Run(ctx, cfg); ctx.Err() == nil {
				return err
			}
			return nil
		},
	}
	c.Flags().StringVar(&cfg.Gateways, "gateways", "http://gantry-gateway-admin.gantry-system:9180",
		"where gateways tell of the demand: unix:PATH, or http://HOST:PORT of their admin addresses")
	return c
}

func newMetricsCommand(g *globals) *cobra.Command {
	var cfg metrics.Config
	var listen string
	c := &cobra.Command{
		Use:   "metrics",
		Short: "Run only the metrics APIs: what kubectl top and autoscalers ask",
		Long: "Serves metrics.k8s.io and custom.metrics.k8s.io for the API server that --kubeconfig names.\n" +
			"`gantry serve` does this by itself; on a cluster this is the command of a pod.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if cfg.Client, err = g.config(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			m, err := metrics.New(cfg)
			if err != nil {
				return err
			}
			group, ctx := errgroup.WithContext(ctx)
			group.Go(func() error { return m.Listen(ctx, listen) })
			group.Go(func() error { return ignoreEnd(ctx, m.Run(ctx)) })
			return group.Wait()
		},
	}
	c.Flags().StringVar(&listen, "listen", ":8443", "address for the API server, with TLS")
	c.Flags().StringVar(&cfg.Gateways, "gateways", "", "where gateways tell of the demand, as for gantry scale (default nowhere)")
	return c
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
