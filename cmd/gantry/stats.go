package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/gantryhq/gantry/internal/usage"
)

// watchInterval is how often a watched table is drawn anew.
const watchInterval = 2 * time.Second

func newStatsCommand(g *globals) *cobra.Command {
	var by, namespace string
	var all, watch bool
	var output *string
	c := &cobra.Command{
		Use:   "stats",
		Short: "Show what pods, deployments, namespaces or nodes use",
		Long: "Shows processor time, memory, network and disk as of the last minute, with the limits, and restarts.\n" +
			"The figures are those of the monitor; PromQL answers everything else:\n" +
			"  kubectl get --raw '/prometheus/api/v1/query?query=...'",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := usage.CheckBy(by); err != nil {
				return usageError{fmt.Errorf("--by %w", err)}
			}
			if all {
				namespace = ""
			}
			cfg, err := g.config()
			if err != nil {
				return err
			}
			reader, err := usage.NewReader(cfg)
			if err != nil {
				return err
			}
			show := func(ctx context.Context) (string, error) {
				rows, err := reader.Read(ctx, by, namespace)
				if err != nil {
					return "", err
				}
				var text strings.Builder
				if *output == "json" {
					err = writeJSON(&text, rows)
				} else {
					err = printUsage(&text, by, rows)
				}
				return text.String(), err
			}
			if !watch {
				text, err := show(c.Context())
				fmt.Fprint(c.OutOrStdout(), text)
				return err
			}
			return watchUsage(c.Context(), c.OutOrStdout(), show)
		},
	}
	output = outputFlag(c)
	f := c.Flags()
	f.StringVar(&by, "by", "pod", "what a row is: pod, deployment, namespace or node")
	f.StringVarP(&namespace, "namespace", "n", "default", "namespace whose pods are shown")
	f.BoolVarP(&all, "all-namespaces", "A", false, "all namespaces")
	f.BoolVarP(&watch, "watch", "w", false, "go on, in place on a terminal")
	return c
}

// watchUsage draws again and again until ctx ends.
func watchUsage(ctx context.Context, out io.Writer, show func(context.Context) (string, error)) error {
	f, isFile := out.(*os.File)
	inPlace := isFile && term.IsTerminal(int(f.Fd()))
	for lines := 0; ; {
		text, err := show(ctx)
		if err != nil {
			return err
		}
		if inPlace && lines > 0 {
			fmt.Fprintf(out, "\x1b[%dA\x1b[J", lines) // up to where it began, and clear
		}
		fmt.Fprint(out, text)
		lines = strings.Count(text, "\n")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchInterval):
		}
	}
}

func printUsage(out io.Writer, by string, rows []usage.Row) error {
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	head := map[string]string{"pod": "NAMESPACE\tPOD", "deployment": "NAMESPACE\tWORKLOAD", "namespace": "NAMESPACE", "node": "NODE"}[by]
	fmt.Fprintf(w, "%s\tCPU\tLIMIT\tMEMORY\tLIMIT\tNET IN/S\tNET OUT/S\tREAD/S\tWRITE/S\tPODS\tRESTARTS\n", head)
	for _, r := range rows {
		name := r.Name
		if by == "pod" || by == "deployment" {
			name = r.Namespace + "\t" + r.Name
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\n", name, cores(r.CPU), share(r.CPU, r.CPULimit, cores), bytesOf(&r.Memory), share(&r.Memory, r.MemoryLimit, bytesOf),
			bytesOf(r.NetworkIn), bytesOf(r.NetworkOut), bytesOf(r.DiskRead), bytesOf(r.DiskWritten), r.Pods, r.Restarts)
	}
	return w.Flush()
}

// share is a limit, and how much of it is used.
func share(used, limit *float64, write func(*float64) string) string {
	if limit == nil || *limit == 0 {
		return "-"
	}
	if used == nil {
		return write(limit)
	}
	return fmt.Sprintf("%s (%.0f %%)", write(limit), 100**used / *limit)
}

func cores(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v < 0.0995:
		return fmt.Sprintf("%.0fm", *v*1000)
	}
	return fmt.Sprintf("%.1f", *v)
}

func bytesOf(v *float64) string {
	if v == nil {
		return "-"
	}
	for _, unit := range []struct {
		name string
		size float64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if *v >= unit.size {
			return fmt.Sprintf("%.1f %s", *v/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%.0f B", *v)
}
