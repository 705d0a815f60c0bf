package main

import (
	"errors"
	"fmt"
	"io/fs"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/engine/host"
	"github.com/gantryhq/gantry/engine/network"
)

func newDoctorCommand(g *globals) *cobra.Command {
	var output *string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine can and cannot do, and the remedy",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			results := append(host.Check(g.dir()), checkNetwork(g.dir())...)
			out := c.OutOrStdout()
			if *output == "json" {
				if err := writeJSON(out, results); err != nil {
					return err
				}
				return firstFailure(results)
			}
			w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "CHECK\tRESULT\tFOUND\tREMEDY")
			for _, r := range results {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Name, verdict(r), r.Detail, r.Remedy)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			return firstFailure(results)
		},
	}
	output = outputFlag(c)
	return c
}

// checkNetwork looks for what keeps the pods of a data directory from
// communicating. Before the first start there is nothing to look at.
func checkNetwork(dataDir string) []host.Result {
	report, err := network.Inspect(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []host.Result{{Name: "pod network", Level: host.Recommended, Detail: err.Error(), Remedy: "restart gantry serve: it builds the network anew"}}
	}
	results := []host.Result{{Name: "pod network", Level: host.Recommended, OK: len(report.Problems) == 0,
		Detail: fmt.Sprintf("pods %s, services %s, %d attached", report.Plan.PodCIDR, report.Plan.ServiceCIDR, len(report.Pods))}}
	for _, p := range report.Problems {
		results = append(results, host.Result{Name: "pod network", Level: host.Recommended, Detail: p.What, Remedy: p.Remedy})
	}
	return results
}

func verdict(r host.Result) string {
	switch {
	case r.OK:
		return "ok"
	case r.Level == host.Required:
		return "MISSING"
	}
	return "advice"
}

// firstFailure is nil when everything required is there.
func firstFailure(results []host.Result) error {
	for _, r := range results {
		if !r.OK && r.Level == host.Required {
			return errors.New(r.Name + ": " + r.Detail + "; " + r.Remedy)
		}
	}
	return nil
}
