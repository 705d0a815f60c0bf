package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/internal/app"
	"github.com/gantryhq/gantry/internal/progress"
)

const downTimeout = 2 * time.Minute

func newDownCommand(g *globals) *cobra.Command {
	var all bool
	var name string
	opt := app.DownOptions{}
	c := &cobra.Command{
		Use:   "down PATH | --all",
		Short: "Remove an application, or stop everything on this machine",
		Long: "Removes the application that `gantry up PATH` deployed; its volumes stay unless\n" +
			"--volumes is given. With --all it stops Gantry and every container, and removes\n" +
			"everything Gantry put into the kernel; the data directory stays, and `gantry serve`\n" +
			"brings all applications back.",
		Example: "  gantry down examples/shop\n  gantry down --all",
		Args: func(c *cobra.Command, args []string) error {
			if all || name != "" {
				return cobra.NoArgs(c, args)
			}
			return onePath(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if all {
				if err := downAll(ctx, g); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "stopped everything; the data stays in %s, and `gantry serve` brings it all back\n", g.dir())
				return nil
			}
			if name == "" {
				application, err := app.Load(ctx, args[0], app.Options{Env: applicationEnv(ctx, g)})
				if err != nil {
					return err
				}
				name = application.Namespace
			}
			cfg, err := g.config()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, downTimeout)
			defer cancel()
			opt.Display = progress.New(os.Stderr)
			defer opt.Display.Close()
			return app.Down(ctx, cfg, name, opt)
		},
	}
	f := c.Flags()
	f.BoolVar(&all, "all", false, "stop everything of this instance, keeping its data")
	f.BoolVar(&opt.Volumes, "volumes", false, "delete the application's volumes and what is in them")
	f.StringVarP(&name, "name", "p", "", "name of the application, instead of PATH")
	c.MarkFlagsMutuallyExclusive("all", "volumes")
	c.MarkFlagsMutuallyExclusive("all", "name")
	return c
}
