package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/services/scan"
)

// newScanWorkerCommand is started by `gantry serve` and ends with its input.
func newScanWorkerCommand() *cobra.Command {
	var cfg scan.WorkerConfig
	c := &cobra.Command{
		Use:    "scan-worker",
		Short:  "Scan the images that standard input names (started on demand)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return scan.Worker(ctx, cfg, os.Stdin, os.Stdout)
		},
	}
	c.Flags().StringVar(&cfg.Dir, "dir", "", "the scanning service's directory")
	c.Flags().StringVar(&cfg.Database, "database", "", "vulnerability database, by digest")
	return c
}
