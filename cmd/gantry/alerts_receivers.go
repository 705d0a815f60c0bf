package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/yaml"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/services/alerts"
	"github.com/gantryhq/gantry/services/alerts/alertmanager"
)

func newReceiversCommand(g *globals) *cobra.Command {
	var output *string
	c := &cobra.Command{
		Use:   "receivers",
		Short: "Show who is told of alerts",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := newAlertsClient(g)
			if err != nil {
				return err
			}
			list, err := client.receivers(c.Context())
			if err != nil {
				return err
			}
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), list)
			}
			if len(list) == 0 {
				fmt.Fprintln(c.OutOrStdout(), "Nobody is told of alerts. To add one: gantry alerts receiver add --help")
				return nil
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(w, "NAME\tKIND\tTOLD OF")
			for _, r := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\n", plain(r.Name), strings.Join(r.Kinds, ","), plain(cmp.Or(strings.Join(r.Routes, " or "), "nothing: no route leads to it")))
			}
			return w.Flush()
		},
	}
	output = outputFlag(c)
	return c
}

// receiverRow is a receiver without its secrets.
type receiverRow struct {
	Name   string   `json:"name"`
	Kinds  []string `json:"kinds"`
	Routes []string `json:"routes"` // the matchers of each route to it
}

// receivers are those of the configuration that is in force and that tell somebody.
func (c *alertsClient) receivers(ctx context.Context) ([]receiverRow, error) {
	var status struct{ Config struct{ Original string } }
	if err := c.get(ctx, alerts.Prefix+"api/v2/status", &status); err != nil {
		return nil, err
	}
	type route struct {
		Receiver string   `json:"receiver"`
		Matchers []string `json:"matchers"`
		Routes   []route  `json:"routes"`
	}
	var cfg struct {
		Route     route                        `json:"route"`
		Receivers []map[string]json.RawMessage `json:"receivers"`
	}
	if err := yaml.Unmarshal([]byte(status.Config.Original), &cfg); err != nil {
		return nil, fmt.Errorf("read the configuration in force: %w", err)
	}
	matchers := map[string][]string{}
	var walk func(route, string)
	walk = func(r route, receiver string) {
		receiver = cmp.Or(r.Receiver, receiver)
		matchers[receiver] = append(matchers[receiver], cmp.Or(strings.Join(r.Matchers, ", "), "all that no other route is for"))
		for _, below := range r.Routes {
			walk(below, receiver)
		}
	}
	walk(cfg.Route, "")
	list := []receiverRow{}
	for _, r := range cfg.Receivers {
		row := receiverRow{Kinds: []string{}}
		for key, value := range r {
			if kind, isKind := strings.CutSuffix(key, "_configs"); isKind {
				row.Kinds = append(row.Kinds, kind)
			} else if key == "name" {
				_ = json.Unmarshal(value, &row.Name) // a string, as Alertmanager has checked
			}
		}
		if row.Routes = matchers[row.Name]; len(row.Kinds) > 0 {
			slices.Sort(row.Kinds)
			list = append(list, row)
		}
	}
	return list, nil
}

func newReceiverCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "receiver", Short: "Add, test or remove one who is told of alerts", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(newReceiverAddCommand(g), newReceiverTestCommand(g), newReceiverRemoveCommand(g))
	return c
}

func newReceiverAddCommand(g *globals) *cobra.Command {
	var r alertmanager.Receiver
	var secretFile, secretEnv string
	var onlyBegin, plainMail bool
	c := &cobra.Command{
		Use:   "add webhook|slack|email|pagerduty|opsgenie NAME",
		Short: "Tell somebody of alerts",
		Long: "Adds a receiver, and a route to it, to the configuration of Alertmanager in the Secret " + platform.SystemNamespace + "/" + alerts.SecretName + ".\n" +
			"Its secret is read from standard input, or from --secret-file or --secret-env; it is never an argument,\n" +
			"because others see those:\n" + secretsOfKinds(),
		Example: "  gantry alerts receiver add slack team < webhook-url\n" +
			"  gantry alerts receiver add pagerduty oncall --secret-env PAGERDUTY_KEY --severity critical\n" +
			"  gantry alerts receiver add email ops --to ops@example.com --from gantry@example.com --smarthost mail.example.com:587 --username gantry --secret-file password\n" +
			"  gantry alerts receiver add webhook dead-man --heartbeat 1m --secret-file healthchecks-url",
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			r.Kind, r.Name, r.Resolved, r.Email.Plain = args[0], args[1], !onlyBegin, plainMail
			if alertmanager.Kinds[r.Kind] == "" {
				return usageError{fmt.Errorf("%q: one of webhook, slack, email, pagerduty and opsgenie is known", r.Kind)}
			}
			if r.Heartbeat != 0 && r.Heartbeat < 30*time.Second {
				return usageError{fmt.Errorf("--heartbeat %s is too short: 30s is the least", r.Heartbeat)}
			}
			if r.Kind != "email" || r.Email.Username != "" {
				var err error
				if r.Secret, err = readReceiverSecret(c, r.Kind, secretFile, secretEnv); err != nil {
					return err
				}
			}
			client, err := newAlertsClient(g)
			if err != nil {
				return err
			}
			if err := client.editConfig(c.Context(), func(text []byte) ([]byte, error) { return alertmanager.AddReceiver(text, r) }); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "Added %s. To see that it works: gantry alerts receiver test %s\n", r.Name, r.Name)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&secretFile, "secret-file", "", "file with the secret; - is standard input")
	f.StringVar(&secretEnv, "secret-env", "", "environment variable with the secret")
	f.StringSliceVar(&r.Severities, "severity", nil, "what it is told of: critical, warning, info (default critical,warning)")
	f.StringSliceVarP(&r.Namespaces, "namespace", "n", nil, "only alerts about these namespaces")
	f.DurationVar(&r.Heartbeat, "heartbeat", 0, "be told that alerting works, this often, and of nothing else")
	f.BoolVar(&onlyBegin, "no-resolved", false, "do not tell when an alert is over")
	f.StringVar(&r.Channel, "channel", "", "slack: another channel than the webhook's own")
	f.StringVar(&r.APIURL, "api-url", "", "pagerduty, opsgenie: address of the API, such as https://api.eu.opsgenie.com/")
	f.StringVar(&r.Email.To, "to", "", "email: who is told")
	f.StringVar(&r.Email.From, "from", "", "email: the sender")
	f.StringVar(&r.Email.Smarthost, "smarthost", "", "email: the mail server, HOST:PORT")
	f.StringVar(&r.Email.Username, "username", "", "email: name of the login at the mail server")
	f.BoolVar(&plainMail, "no-tls", false, "email: send without encryption")
	return c
}

func secretsOfKinds() string {
	var lines strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(alertmanager.Kinds)) {
		fmt.Fprintf(&lines, "  %-10s %s\n", kind, alertmanager.Kinds[kind])
	}
	return strings.TrimSuffix(lines.String(), "\n")
}

// readReceiverSecret reads what must not be an argument.
func readReceiverSecret(c *cobra.Command, kind, file, env string) (string, error) {
	var text []byte
	var err error
	switch {
	case file != "" && env != "":
		return "", usageError{errors.New("--secret-file and --secret-env: one of them is enough")}
	case env != "":
		value, set := os.LookupEnv(env)
		if !set {
			return "", fmt.Errorf("--secret-env: the environment has no %s", env)
		}
		text = []byte(value)
	case file != "" && file != "-":
		text, err = os.ReadFile(file)
	default:
		text, err = readHidden(c, "Type "+alertmanager.Kinds[kind]+": ")
	}
	if err != nil {
		return "", fmt.Errorf("read the secret: %w", err)
	}
	return string(bytes.TrimSpace(text)), nil
}

// readHidden reads standard input, which is not shown if somebody types it.
func readHidden(c *cobra.Command, prompt string) ([]byte, error) {
	f, isFile := c.InOrStdin().(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return io.ReadAll(io.LimitReader(c.InOrStdin(), 64<<10))
	}
	fmt.Fprint(c.ErrOrStderr(), prompt)
	defer fmt.Fprintln(c.ErrOrStderr())
	return term.ReadPassword(int(f.Fd()))
}

func newReceiverTestCommand(g *globals) *cobra.Command {
	var output *string
	c := &cobra.Command{
		Use:   "test NAME",
		Short: "Send a notification that is only a test",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := newAlertsClient(g)
			if err != nil {
				return err
			}
			var results []alerts.TestResult
			if err := client.answer(c.Context(), client.rest.Post().AbsPath(alerts.TestPath).Param("receiver", args[0]), &results); err != nil {
				return err
			}
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), results)
			}
			var failed []error
			for _, r := range results {
				if r.Error != "" {
					failed = append(failed, fmt.Errorf("%s by %s: %s", r.Receiver, r.Integration, plain(r.Error)))
					continue
				}
				fmt.Fprintf(c.OutOrStdout(), "%s accepted a test by %s\n", r.Receiver, r.Integration)
			}
			if len(results) == 0 {
				return fmt.Errorf("receiver %s tells nobody", args[0])
			}
			return errors.Join(failed...)
		},
	}
	output = outputFlag(c)
	return c
}

func newReceiverRemoveCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Tell somebody no longer",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := newAlertsClient(g)
			if err != nil {
				return err
			}
			err = client.editConfig(c.Context(), func(text []byte) ([]byte, error) { return alertmanager.RemoveReceiver(text, args[0]) })
			if errors.Is(err, alertmanager.ErrNoReceiver) {
				return hint.Wrap(err, "`gantry alerts receivers` lists them")
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "Removed %s\n", args[0])
			return nil
		},
	}
}

// editConfig changes the configuration of Alertmanager, and waits until the new one is in force.
func (c *alertsClient) editConfig(ctx context.Context, change func([]byte) ([]byte, error)) error {
	secrets := c.CoreV1().Secrets(platform.SystemNamespace)
	var text []byte
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		secret, err := secrets.Get(ctx, alerts.SecretName, metav1.GetOptions{})
		isNew := apierrors.IsNotFound(err)
		if isNew {
			secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: alerts.SecretName}, Data: map[string][]byte{alerts.ConfigKey: alertmanager.Default()}}
		} else if err != nil {
			return fmt.Errorf("read the configuration of alerts: %w", err)
		}
		if text, err = change(secret.Data[alerts.ConfigKey]); err != nil {
			return err
		}
		secret.Data[alerts.ConfigKey] = text
		if isNew {
			_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
		} else {
			_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
		}
		return err
	})
	if err != nil {
		return err
	}
	wanted, err := alertmanager.Load(text)
	if err != nil {
		return err
	}
	return c.inForce(ctx, wanted.String())
}

// inForce waits until a configuration is in force.
func (c *alertsClient) inForce(ctx context.Context, wanted string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		var status struct{ Config struct{ Original string } }
		err := c.get(ctx, alerts.Prefix+"api/v2/status", &status)
		if err == nil && status.Config.Original == wanted {
			return nil
		}
		select {
		case <-ctx.Done():
			return hint.Wrap(errors.New("the configuration is stored, but it is not in force yet"), "`gantry alerts` says what is wrong with it")
		case <-time.After(100 * time.Millisecond):
		}
	}
}
