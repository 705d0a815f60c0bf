package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/progress"
	"github.com/gantryhq/gantry/services/scan/osvdb"
)

func newScanDBCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "db",
		Short: "The vulnerability database that images are scanned with",
		RunE: func(c *cobra.Command, _ []string) error {
			return usageError{hint.Wrap(errors.New("gantry scan db: say what to do: import or status"), "see `%s --help`", c.CommandPath())}
		},
	}
	c.AddCommand(newScanDBImportCommand(g), newScanDBStatusCommand(g))
	return c
}

func newScanDBImportCommand(g *globals) *cobra.Command {
	var to string
	var output *string
	c := &cobra.Command{
		Use:   "import FILE|DIR...",
		Short: "Make the vulnerability database from OSV records",
		Long: "Reads vulnerability records in the OSV format: JSON files, the all.zip of an ecosystem as\n" +
			"osv.dev publishes it, or directories of both. The database that comes of them replaces the\n" +
			"one in the registry, and the images there are scanned again.",
		Example: "  curl -LO https://osv-vulnerabilities.storage.googleapis.com/Debian/all.zip\n" +
			"  gantry scan db import all.zip",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, paths []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			in := findInstance(ctx, g)
			ref := osvdb.Reference(in.registry)
			if to != "" {
				var err error
				if ref, err = in.fullName(to); err != nil {
					return err
				}
			}
			dir, err := os.MkdirTemp("", "gantry-osv-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			display := progress.New(os.Stderr)
			task := display.Task(ref)
			status, err := func() (*osvdb.Status, error) {
				file := filepath.Join(dir, "osv.db")
				if _, err := osvdb.Import(ctx, file, paths, func(n int) { task.Update("%d records", n) }); err != nil {
					return nil, err
				}
				task.Update("pushing")
				return osvdb.Push(ctx, file, ref, remoteOptions(ctx)...)
			}()
			if err != nil {
				task.Fail("not made")
				display.Close()
				return withoutURLs(err)
			}
			task.Done("%d records, %s", status.Records, size(status.SizeBytes))
			display.Close()
			return printDatabase(c.OutOrStdout(), status, *output)
		},
	}
	c.Flags().StringVar(&to, "to", "", "name of the database (default "+osvdb.Repository+":"+osvdb.Tag+" in the built-in registry)")
	output = outputFlag(c)
	return c
}

func newScanDBStatusCommand(g *globals) *cobra.Command {
	var output *string
	c := &cobra.Command{
		Use:   "status",
		Short: "Say what the vulnerability database holds and how old it is",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			in := findInstance(c.Context(), g)
			status, err := osvdb.Look(c.Context(), osvdb.Reference(in.registry), remoteOptions(c.Context())...)
			if err != nil {
				return withoutURLs(err)
			}
			return printDatabase(c.OutOrStdout(), status, *output)
		},
	}
	output = outputFlag(c)
	return c
}

func printDatabase(out io.Writer, s *osvdb.Status, format string) error {
	if format == "json" {
		return writeJSON(out, s)
	}
	fmt.Fprintf(out, "%s@%s\n%d records, the newest of %s, %s\n", s.Name, s.Digest, s.Records, s.Newest.Format(time.DateOnly), size(s.SizeBytes))
	if s.Skipped > 0 {
		fmt.Fprintf(out, "%d of them are withdrawn or name no package that can be looked up\n", s.Skipped)
	}
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "\nECOSYSTEM\tRECORDS")
	for _, family := range slices.Sorted(maps.Keys(s.Ecosystems)) {
		fmt.Fprintf(w, "%s\t%d\n", family, s.Ecosystems[family])
	}
	return w.Flush()
}
