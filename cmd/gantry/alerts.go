package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/services/alerts"
	"github.com/gantryhq/gantry/services/monitor"
)

func newAlertsCommand(g *globals) *cobra.Command {
	var namespace string
	var all bool
	var output *string
	c := &cobra.Command{
		Use:   "alerts",
		Short: "Show what is wrong, since when, and what to do first",
		Long: "Shows the alerts that fire. Those that are silenced, that follow from a worse one of the same object,\n" +
			"or that are for information only, are left out unless --all is given.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := newAlertsClient(g)
			if err != nil {
				return err
			}
			var list []activeAlert
			if err := client.get(c.Context(), alerts.Prefix+"api/v2/alerts", &list); err != nil {
				return err
			}
			list = slices.DeleteFunc(list, func(a activeAlert) bool {
				return a.Labels["severity"] == "none" || namespace != "" && a.Labels["namespace"] != namespace
			})
			shown := slices.Clone(list)
			if !all {
				shown = slices.DeleteFunc(shown, func(a activeAlert) bool { return a.Status.State == "suppressed" || a.Labels["severity"] == "info" })
			}
			sortAlerts(shown)
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), shown)
			}
			var health alertsHealth
			if err := client.get(c.Context(), alerts.Prefix+"health", &health); err != nil {
				return err
			}
			health.warn(c.ErrOrStderr())
			return printAlerts(c.OutOrStdout(), shown, len(list)-len(shown))
		},
	}
	output = outputFlag(c)
	c.Flags().StringVarP(&namespace, "namespace", "n", "", "only alerts about this namespace")
	c.Flags().BoolVarP(&all, "all", "a", false, "also what is silenced, follows from something worse, or is for information only")
	c.AddCommand(newAlertRulesCommand(g), newSilenceCommand(g), newSilencesCommand(g), newUnsilenceCommand(g), newReceiversCommand(g), newReceiverCommand(g))
	return c
}

// activeAlert is an alert as Alertmanager's API tells of it.
type activeAlert struct {
	Fingerprint  string            `json:"fingerprint"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	GeneratorURL string            `json:"generatorURL"`
	Status       struct {
		State       string   `json:"state"` // active, suppressed or unprocessed
		SilencedBy  []string `json:"silencedBy"`
		InhibitedBy []string `json:"inhibitedBy"`
	} `json:"status"`
	Receivers []struct {
		Name string `json:"name"`
	} `json:"receivers"`
}

// sortAlerts puts the worst first, and of those the latest.
func sortAlerts(list []activeAlert) {
	rank := map[string]int{"critical": -3, "warning": -2, "info": -1}
	slices.SortFunc(list, func(a, b activeAlert) int {
		return cmp.Or(cmp.Compare(rank[a.Labels["severity"]], rank[b.Labels["severity"]]), b.StartsAt.Compare(a.StartsAt), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
}

func printAlerts(out io.Writer, list []activeAlert, hidden int) error {
	more := ""
	if hidden > 0 {
		more = fmt.Sprintf("%d more: silenced, following from something worse, or for information only (gantry alerts --all)\n", hidden)
	}
	if len(list) == 0 {
		_, err := fmt.Fprint(out, "Nothing fires.\n", more)
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "SEVERITY\tSINCE\tOBJECT\tALERT\tWHAT")
	for _, a := range list {
		state := ""
		switch {
		case len(a.Status.SilencedBy) > 0:
			state = " (silenced)"
		case len(a.Status.InhibitedBy) > 0:
			state = " (follows from something worse)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s%s\n", plain(cmp.Or(a.Labels["severity"], "-")), duration.HumanDuration(time.Since(a.StartsAt)),
			plain(cmp.Or(a.Annotations["object"], "-")), plain(a.Labels["alertname"]), plain(a.Annotations["summary"]), state)
		if first := a.Annotations["first"]; first != "" {
			fmt.Fprintf(w, "\t\t\t\t  first: %s\n", plain(first))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprint(out, more)
	return err
}

// plain is a text of others on one line, without what a terminal would obey.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0:
			return -1
		}
		return r
	}, strings.TrimSpace(s))
}

// alertsHealth is whether alerting works.
type alertsHealth struct {
	Working   bool       `json:"working"`
	Heartbeat *time.Time `json:"heartbeat"`
	Refused   []struct {
		Kind, Namespace, Name, Reason string
	} `json:"refused"`
}

func (h *alertsHealth) warn(out io.Writer) {
	switch {
	case !h.Working && h.Heartbeat == nil:
		fmt.Fprintln(out, "alerting is starting: the rules are evaluated for the first time within some seconds")
	case !h.Working:
		fmt.Fprintf(out, "warning: alerting does not work: the rules were evaluated for the last time %s ago\n", duration.HumanDuration(time.Since(*h.Heartbeat)))
	}
	for _, r := range h.Refused {
		fmt.Fprintf(out, "warning: %s %s/%s is not in force: %s\n", r.Kind, r.Namespace, r.Name, plain(r.Reason))
	}
}

// alertsClient asks an installation's alerting.
type alertsClient struct {
	kubernetes.Interface
	rest rest.Interface
}

func newAlertsClient(g *globals) (*alertsClient, error) {
	cfg, err := g.config()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return &alertsClient{client, client.CoreV1().RESTClient()}, nil
}

func (c *alertsClient) get(ctx context.Context, path string, into any) error {
	return c.answer(ctx, c.rest.Get().AbsPath(path), into)
}

// answer sends a request and reads its answer, unless into is nil.
func (c *alertsClient) answer(ctx context.Context, r *rest.Request, into any) error {
	text, err := r.DoRaw(ctx)
	switch {
	case apierrors.IsNotFound(err) && len(text) == 0, apierrors.IsNotFound(err) && strings.HasPrefix(string(text), "404 page not found"):
		return hint.Wrap(errors.New("ask for alerts: this installation has none"), "start `gantry serve` without --no-metrics; other clusters do not have this yet")
	case apierrors.IsServiceUnavailable(err):
		return hint.Wrap(errors.New("ask for alerts: alerting is starting"), "try again in a moment")
	case apierrors.IsForbidden(err):
		return hint.Wrap(fmt.Errorf("ask for alerts: %w", err), "ask an administrator to bind the ClusterRole %s, %s or %s to you", alerts.Reader, alerts.Editor, monitor.Reader)
	case err != nil && len(text) > 0:
		return fmt.Errorf("ask for alerts: %s", plain(strings.Trim(string(text), "\"\n")))
	case err != nil:
		return fmt.Errorf("ask for alerts: %w", err)
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("ask for alerts: %w", err)
	}
	return nil
}
