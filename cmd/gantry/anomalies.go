package main

import (
	"fmt"
	"io"
	"math"
	"net/url"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/services/anomaly"
)

func newAnomaliesCommand(g *globals) *cobra.Command {
	var namespace string
	var all bool
	var since time.Duration
	var output *string
	c := &cobra.Command{
		Use:   "anomalies [WORKLOAD]",
		Short: "Show what is not as usual: traffic, errors, latency, CPU, memory, restarts, log volume",
		Long: "Shows, the newest last, which signals of workloads and routes have left what is usual for them at this\n" +
			"time of day, and what was changed just before. Nothing has to be configured; the first twenty minutes are\n" +
			"needed to learn, and three days to know the time of day.",
		Example: "  gantry anomalies -n shop\n  gantry anomalies -A --since 168h -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			params := url.Values{"start": {time.Now().Add(-since).UTC().Format(time.RFC3339)}}
			if !all {
				params.Set("namespace", namespace)
			}
			if len(args) > 0 {
				params.Set("workload", args[0])
			}
			var answer anomaly.Answer
			if err := g.ask(c.Context(), "read anomalies", anomaly.Path, params, &answer); err != nil {
				return err
			}
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), answer.Anomalies)
			}
			if len(answer.Anomalies) == 0 {
				fmt.Fprintf(c.ErrOrStderr(), "nothing unusual in the past %s; of %d signals that are watched %d are known well enough\n", since, answer.Watched, answer.Known)
				return nil
			}
			return printAnomalies(c.OutOrStdout(), answer.Anomalies, all)
		},
	}
	output = outputFlag(c)
	f := c.Flags()
	f.StringVarP(&namespace, "namespace", "n", "default", "namespace that is looked at")
	f.BoolVarP(&all, "all-namespaces", "A", false, "all namespaces")
	f.DurationVar(&since, "since", 24*time.Hour, "how far to look back")
	return c
}

func printAnomalies(out io.Writer, list []anomaly.Anomaly, namespaces bool) error {
	slices.Reverse(list) // the newest last, where the eye is
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	head := "SINCE\tFOR\tWHAT\tSIGNAL\tVALUE\tUSUAL\tJUST BEFORE"
	if namespaces {
		head = "SINCE\tFOR\tNAMESPACE\tWHAT\tSIGNAL\tVALUE\tUSUAL\tJUST BEFORE"
	}
	fmt.Fprintln(w, head)
	for _, a := range list {
		lasted := "still"
		if a.End != nil {
			lasted = a.End.Sub(a.Start).Round(time.Minute).String()
		}
		what := plainText(a.Kind + "/" + a.Name)
		if namespaces {
			what = plainText(a.Namespace) + "\t" + what
		}
		cause := "-"
		if len(a.Causes) > 0 {
			c := a.Causes[0]
			cause = plainText(c.Kind + " " + c.Object + " " + c.Message)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.Start.Local().Format("2006-01-02 15:04"), lasted, what, a.Signal,
			amount(a.Value, a.Unit), amount(a.Expected, a.Unit), cause)
	}
	return w.Flush()
}

// amount is a value with its unit as people read it.
func amount(v float64, unit string) string {
	switch unit {
	case "bytes":
		return fmt.Sprintf("%.0f MiB", v/(1<<20))
	case "seconds":
		return fmt.Sprintf("%.0f ms", v*1e3)
	}
	if v == math.Trunc(v) {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.3g %s", v, unit)
}
