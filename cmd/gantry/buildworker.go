package main

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/services/build"
)

// newBuildWorkerCommand is started by whoever builds and ends by itself.
func newBuildWorkerCommand(g *globals) *cobra.Command {
	var idle time.Duration
	c := &cobra.Command{
		Use:    "build-worker",
		Short:  "Serve builds for a data directory until idle (started on demand)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return build.Worker(ctx, build.WorkerConfig{
				DataDir: g.dir(), IdleTimeout: idle,
				Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
			})
		},
	}
	c.Flags().DurationVar(&idle, "idle", 0, "end after so long without a build (default 5m)")
	return c
}
