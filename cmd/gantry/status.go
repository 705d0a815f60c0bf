package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/gantryhq/gantry/internal/app"
)

func newStatusCommand(g *globals) *cobra.Command {
	var output *string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the applications, what is ready, and where to find them",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := g.config()
			if err != nil {
				return err
			}
			status, err := app.ReadStatus(c.Context(), cfg)
			if err != nil {
				return err
			}
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), status)
			}
			return printStatus(c.OutOrStdout(), status)
		},
	}
	output = outputFlag(c)
	return c
}

// memory prints a quantity in the unit that people count memory in.
func memory(q resource.Quantity) string {
	if mib := float64(q.Value()) / (1 << 20); mib < 1024 {
		return fmt.Sprintf("%.0f MiB", mib)
	}
	return fmt.Sprintf("%.1f GiB", float64(q.Value())/(1<<30))
}

func printStatus(out io.Writer, s *app.Status) error {
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "NODE\tSTATE\tPODS\tCPU REQUESTED\tMEMORY REQUESTED")
	for _, n := range s.Nodes {
		state := "not ready"
		if n.Ready {
			state = "ready"
		}
		fmt.Fprintf(w, "%s\t%s\t%d/%d\t%s of %s\t%s of %s\n", n.Name, state, n.Pods, n.PodsCapacity, n.CPUAsked.String(), n.CPU.String(), memory(n.MemoryAsked), memory(n.Memory))
	}
	if len(s.Applications) == 0 {
		fmt.Fprintln(w, "\nno application: deploy one with `gantry up PATH`")
		return w.Flush()
	}
	fmt.Fprintln(w, "\nAPPLICATION\tWORKLOAD\tREADY\tSTATE")
	for _, a := range s.Applications {
		for _, wl := range a.Workloads {
			fmt.Fprintf(w, "%s\t%s/%s\t%d/%d\t%s\n", a.Name, strings.ToLower(wl.Kind), wl.Name, wl.Ready, wl.Want, wl.State)
		}
	}
	fmt.Fprintln(w, "\nAPPLICATION\tURL")
	for _, a := range s.Applications {
		for _, url := range a.URLs {
			fmt.Fprintf(w, "%s\t%s\n", a.Name, url)
		}
	}
	return w.Flush()
}
