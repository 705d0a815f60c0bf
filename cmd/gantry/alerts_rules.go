package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/alertmanager/matcher/parse"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/services/alerts"
	"github.com/gantryhq/gantry/services/monitor"
)

func newAlertRulesCommand(g *globals) *cobra.Command {
	var output *string
	c := &cobra.Command{
		Use:   "rules",
		Short: "Show the rules that are evaluated, and which samples they see",
		Long: "Rules come with the program, and from PrometheusRules of any namespace. Those of a namespace see\n" +
			"its own samples only, unless the namespace has the label " + alerts.ScopeLabel + "=cluster.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := newAlertsClient(g)
			if err != nil {
				return err
			}
			var answer struct {
				Data struct {
					Groups []struct {
						Name, File string
						Rules      []struct {
							Name      string            `json:"name"`
							Type      string            `json:"type"`
							State     string            `json:"state,omitempty"`
							Query     string            `json:"query"`
							Labels    map[string]string `json:"labels"`
							Health    string            `json:"health"`
							LastError string            `json:"lastError,omitempty"`
						}
					}
				}
			}
			if err := client.get(c.Context(), monitor.Prefix+"api/v1/rules", &answer); err != nil {
				return err
			}
			var health alertsHealth
			if err := client.get(c.Context(), alerts.Prefix+"health", &health); err != nil {
				return err
			}
			health.warn(c.ErrOrStderr())
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), answer.Data.Groups)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(w, "FROM\tSEES\tRULE\tSEVERITY\tSTATE")
			for _, group := range answer.Data.Groups {
				from, sees := origin(group.File)
				for _, r := range group.Rules {
					state := cmp.Or(r.State, "recording")
					if r.Health == "err" {
						state = "fails: " + plain(r.LastError)
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", from, sees, r.Name, cmp.Or(r.Labels["severity"], "-"), state)
				}
			}
			return w.Flush()
		},
	}
	output = outputFlag(c)
	return c
}

// origin is where rules of a file are from, and which samples they see.
func origin(file string) (from, sees string) {
	scope, object, _ := strings.Cut(file, "/")
	switch scope {
	case "cluster":
		return object, "all"
	case "namespace":
		namespace, _, _ := strings.Cut(object, "/")
		return object, "namespace " + namespace
	}
	return "gantry", "all"
}

// silence is one of Alertmanager's API.
type silence struct {
	ID        string           `json:"id,omitempty"`
	Matchers  []silenceMatcher `json:"matchers"`
	StartsAt  time.Time        `json:"startsAt"`
	EndsAt    time.Time        `json:"endsAt"`
	CreatedBy string           `json:"createdBy"`
	Comment   string           `json:"comment"`
	Status    *struct {
		State string `json:"state"`
	} `json:"status,omitempty"`
}

type silenceMatcher struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	IsRegex bool   `json:"isRegex"`
	IsEqual bool   `json:"isEqual"`
}

func (m silenceMatcher) String() string {
	operator := map[[2]bool]string{{true, false}: "=", {false, false}: "!=", {true, true}: "=~", {false, true}: "!~"}[[2]bool{m.IsEqual, m.IsRegex}]
	return fmt.Sprintf("%s%s%q", m.Name, operator, m.Value)
}

func newSilenceCommand(g *globals) *cobra.Command {
	var namespace, comment string
	var period time.Duration
	var output *string
	c := &cobra.Command{
		Use:     "silence ALERT|MATCHER...",
		Short:   "Tell nobody of an alert for a while",
		Example: "  gantry alerts silence PodCrashLooping -n shop --for 2h --comment 'new version on its way'\n  gantry alerts silence 'pod=~\"cart-.*\"' --for 30m",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if period <= 0 {
				return usageError{fmt.Errorf("--for %s: must be longer than nothing, such as 2h", period)}
			}
			if namespace != "" {
				args = append(args, fmt.Sprintf("namespace=%q", namespace))
			}
			s := silence{StartsAt: time.Now().UTC(), EndsAt: time.Now().Add(period).UTC(), CreatedBy: "gantry", Comment: comment}
			if u, err := user.Current(); err == nil {
				s.CreatedBy = u.Username
			}
			for _, arg := range args {
				if !strings.ContainsAny(arg, "=~!") {
					arg = fmt.Sprintf("alertname=%q", arg)
				}
				m, err := parse.Matcher(arg)
				if err != nil {
					return usageError{hint.Wrap(fmt.Errorf("%s is no alert and no matcher: %w", arg, err), `matchers are such as pod="cart-1" or pod=~"cart-.*"`)}
				}
				s.Matchers = append(s.Matchers, silenceMatcher{m.Name, m.Value, strings.HasSuffix(m.Type.String(), "~"), strings.HasPrefix(m.Type.String(), "=")})
			}
			client, err := newAlertsClient(g)
			if err != nil {
				return err
			}
			var made struct {
				SilenceID string `json:"silenceID"`
			}
			body, err := json.Marshal(s)
			if err != nil {
				return err
			}
			post := client.rest.Post().AbsPath(alerts.Prefix+"api/v2/silences").SetHeader("Content-Type", "application/json")
			if err := client.answer(c.Context(), post.Body(body), &made); err != nil {
				return err
			}
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), made)
			}
			fmt.Fprintf(c.OutOrStdout(), "Silenced until %s. To end it before: gantry alerts unsilence %s\n", s.EndsAt.Local().Format("2006-01-02 15:04"), made.SilenceID)
			return nil
		},
	}
	output = outputFlag(c)
	f := c.Flags()
	f.StringVarP(&namespace, "namespace", "n", "", "only alerts about this namespace")
	f.DurationVar(&period, "for", 2*time.Hour, "how long")
	f.StringVar(&comment, "comment", "silenced on the command line", "why, for those who wonder later")
	return c
}

func newSilencesCommand(g *globals) *cobra.Command {
	var output *string
	c := &cobra.Command{
		Use:   "silences",
		Short: "Show what is silenced",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := newAlertsClient(g)
			if err != nil {
				return err
			}
			var all []silence
			if err := client.get(c.Context(), alerts.Prefix+"api/v2/silences", &all); err != nil {
				return err
			}
			list := []silence{}
			for _, s := range all {
				if s.Status == nil || s.Status.State != "expired" {
					list = append(list, s)
				}
			}
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), list)
			}
			if len(list) == 0 {
				fmt.Fprintln(c.OutOrStdout(), "Nothing is silenced.")
				return nil
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(w, "ID\tENDS IN\tBY\tWHAT\tWHY")
			for _, s := range list {
				var matchers []string
				for _, m := range s.Matchers {
					matchers = append(matchers, m.String())
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.ID, duration.HumanDuration(time.Until(s.EndsAt)), plain(s.CreatedBy), plain(strings.Join(matchers, " ")), plain(s.Comment))
			}
			return w.Flush()
		},
	}
	output = outputFlag(c)
	return c
}

func newUnsilenceCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "unsilence ID...",
		Short: "End a silence",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, ids []string) error {
			client, err := newAlertsClient(g)
			if err != nil {
				return err
			}
			for _, id := range ids {
				if strings.ContainsAny(id, "/?%") {
					return usageError{fmt.Errorf("%q is not the ID of a silence", id)}
				}
				err := client.answer(c.Context(), client.rest.Delete().AbsPath(alerts.Prefix+"api/v2/silence/"+id), nil)
				if err != nil {
					return hint.Wrap(errors.Join(fmt.Errorf("end silence %s", id), err), "`gantry alerts silences` lists them")
				}
				fmt.Fprintf(c.OutOrStdout(), "Ended %s\n", id)
			}
			return nil
		},
	}
}
