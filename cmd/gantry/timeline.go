package main

import (
	"cmp"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/gantryhq/gantry/services/logs/timeline"
)

func newTimelineCommand(g *globals) *cobra.Command {
	var namespace, kind string
	var all bool
	var since time.Duration
	var output *string
	c := &cobra.Command{
		Use:   "timeline [APP]",
		Short: "Show what has changed: deploys, scaling, restarts, configuration, warnings, builds, alerts",
		Long: "Shows in one list, the newest last, what has changed in a namespace or of one workload.\n" +
			"BY is the program that changed the object, as the API has noted it.",
		Example: "  gantry timeline -n shop --since 1h\n  gantry timeline -n shop cart --kind deploy,restart",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if all {
				namespace = ""
			}
			params := url.Values{"namespace": {namespace}, "kind": {kind}, "start": {strconv.FormatInt(time.Now().Add(-since).Unix(), 10)}, "limit": {"1000"}}
			if len(args) > 0 {
				_, name, isPath := strings.Cut(args[0], "/")
				if !isPath {
					name = args[0]
				}
				params.Set("workload", name)
			}
			var answer timeline.Answer
			if err := g.ask(c.Context(), "read time line", timeline.Path, params, &answer); err != nil {
				return err
			}
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), answer.Events)
			}
			if answer.Incomplete != "" {
				fmt.Fprintln(c.ErrOrStderr(), "not all could be asked:", answer.Incomplete)
			}
			if len(answer.Events) == 0 {
				fmt.Fprintf(c.ErrOrStderr(), "nothing has changed in the past %s\n", since)
				return nil
			}
			return printTimeline(c.OutOrStdout(), answer.Events, all)
		},
	}
	output = outputFlag(c)
	f := c.Flags()
	f.StringVarP(&namespace, "namespace", "n", "default", "namespace that is looked at")
	f.BoolVarP(&all, "all-namespaces", "A", false, "all namespaces that you may see")
	f.StringVar(&kind, "kind", "", "only deploy, rollback, scale, restart, config, warning, build or alert; several by commas")
	f.DurationVar(&since, "since", 24*time.Hour, "how far to look back")
	return c
}

var severityColours = map[string]string{"error": "\x1b[31m", "warning": "\x1b[33m"}

func printTimeline(out io.Writer, events []timeline.Event, namespaces bool) error {
	slices.Reverse(events) // the newest last, where the eye is
	f, isFile := out.(*os.File)
	colour := isFile && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 4, 2, ' ', 0)
	head := "TIME\tKIND\tOBJECT\tBY\tWHAT"
	if namespaces {
		head = "TIME\tKIND\tNAMESPACE\tOBJECT\tBY\tWHAT"
	}
	fmt.Fprintln(w, head)
	for _, e := range events {
		where := plainText(cmp.Or(e.Object, e.Workload, "-"))
		if namespaces {
			where = cmp.Or(e.Namespace, "-") + "\t" + where
		}
		what := e.Message
		if e.End != nil {
			what += ", for " + e.End.Sub(e.Time).Round(time.Second).String()
		} else if e.Kind == "alert" {
			what += ", still firing"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", e.Time.Local().Format("2006-01-02 15:04:05"), e.Kind, where, plainText(cmp.Or(e.By, "-")), plainText(what))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
	for i, line := range lines {
		if i > 0 && colour {
			if c := severityColours[events[i-1].Severity]; c != "" {
				line = c + line + "\x1b[0m"
			}
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return nil
}
