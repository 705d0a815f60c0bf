package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/internal/app"
)

func newStatusCommand(g *globals) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the applications, what is ready, and where to find them",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return usageError{fmt.Errorf("--output %q: only json is known", output)}
			}
			cfg, err := g.config()
			if err != nil {
				return err
			}
			status, err := app.ReadStatus(c.Context(), cfg)
			if err != nil {
				return err
			}
			if output == "json" {
				encoder := json.NewEncoder(c.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(status)
			}
			return printStatus(c.OutOrStdout(), status)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json, for scripts")
	return c
}

func printStatus(out io.Writer, s *app.Status) error {
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "NODE\tSTATE\tPODS\tCPU REQUESTED\tMEMORY REQUESTED")
	for _, n := range s.Nodes {
		state := "not ready"
		if n.Ready {
			state = "ready"
		}
		fmt.Fprintf(w, "%s\t%s\t%d/%d\t%s of %s\t%s of %s\n", n.Name, state, n.Pods, n.PodsCapacity, n.CPUAsked, n.CPU, n.MemoryAsked, n.Memory)
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
