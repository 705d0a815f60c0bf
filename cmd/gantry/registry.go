package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/services/registry/login"
)

func newRegistryCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "registry",
		Short: "Manage who may use the built-in registry, or run only a registry",
		Long: "Root of this machine needs no login. Everybody else logs in with a service-account token\n" +
			"as the password (`kubectl create token NAME`), or as an account made here. What they may do\n" +
			"says RBAC: the verbs get, create, update, delete and list on repositories.gantry.dev.\n" +
			"Repository shop/cart is \"cart\" in namespace shop.",
	}
	account := &cobra.Command{Use: "account", Short: "Accounts for people and machines outside the cluster"}
	account.AddCommand(newCreateAccountCommand(g), newListAccountsCommand(g), newDeleteAccountCommand(g))
	c.AddCommand(account, newServeRegistryCommand(g))
	return c
}

func (g *globals) kube() (kubernetes.Interface, error) {
	cfg, err := g.config()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

func newCreateAccountCommand(g *globals) *cobra.Command {
	var pull, push []string
	var expires string
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Make an account and show its password, once",
		Long: "Makes an account with a password of its own and the rights that --pull and --push name:\n" +
			"NAMESPACE/* or NAMESPACE/NAME, or * for all repositories. Who may push may pull and\n" +
			"overwrite tags too. Further rights are Roles for the user " + login.AccountUser + "NAME.",
		Example: "  gantry registry account create ci --push 'shop/*' --expires 90d\n" +
			"  docker login -u ci HOST:5000",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			end, err := parseExpiry(expires, time.Now())
			if err != nil {
				return usageError{err}
			}
			if err := login.CheckAccountName(args[0]); err != nil {
				return usageError{err}
			}
			var grants []login.Grant
			for _, p := range pull {
				grants = append(grants, login.Grant{Pattern: p, Verbs: login.PullVerbs})
			}
			for _, p := range push {
				grants = append(grants, login.Grant{Pattern: p, Verbs: login.PushVerbs})
			}
			for _, grant := range grants {
				if err := login.CheckPattern(grant.Pattern); err != nil {
					return usageError{err}
				}
			}
			kube, err := g.kube()
			if err != nil {
				return err
			}
			return createAccount(c.Context(), kube, c.OutOrStdout(), args[0], end, grants)
		},
	}
	c.Flags().StringSliceVar(&pull, "pull", nil, "repositories that the account may pull")
	c.Flags().StringSliceVar(&push, "push", nil, "repositories that the account may push to")
	c.Flags().StringVar(&expires, "expires", "", "when the account ends: after 90d or 12h, or at 2030-01-31 (default never)")
	return c
}

// parseExpiry reads a duration in days or as Go writes it, or a date, in UTC. "" is the zero time.
func parseExpiry(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return time.Time{}, fmt.Errorf("--expires %q is neither a time such as 90d or 12h nor a date such as 2030-01-31", text)
	}
	return now.Add(d), nil
}

// createAccount makes the account last, so that one whose rights cannot be given is not made.
func createAccount(ctx context.Context, kube kubernetes.Interface, out io.Writer, name string, expires time.Time, grants []login.Grant) error {
	secrets := kube.CoreV1().Secrets(platform.SystemNamespace)
	if _, err := secrets.Get(ctx, login.SecretPrefix+name, metav1.GetOptions{}); err == nil {
		return hint.Wrap(fmt.Errorf("account %s exists", name), "delete it with `gantry registry account delete %s`, or choose another name", name)
	} else if !apierrors.IsNotFound(err) {
		return fmt.Errorf("look for account %s: %w", name, err)
	}
	secret, password, err := login.NewAccount(name, expires)
	if err != nil {
		return err
	}
	err = login.Bind(ctx, kube, name, grants)
	if err == nil {
		_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("make account %s: %w", name, err), login.Unbind(ctx, kube, name))
		return hint.Wrap(err, "are the namespaces there? `kubectl create namespace NAME` makes one")
	}
	fmt.Fprintf(out, "account: %s\npassword: %s\n", name, password)
	if !expires.IsZero() {
		fmt.Fprintf(out, "expires: %s\n", expires.UTC().Format(time.RFC3339))
	}
	fmt.Fprintln(out, "The password is not kept anywhere and is not shown again.")
	return nil
}

// accountRow is what a list tells of an account.
type accountRow struct {
	Name    string     `json:"name"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
}

func newListAccountsCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the accounts", Args: cobra.NoArgs}
	output := outputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		kube, err := g.kube()
		if err != nil {
			return err
		}
		list, err := kube.CoreV1().Secrets(platform.SystemNamespace).List(c.Context(), metav1.ListOptions{FieldSelector: "type=" + string(login.AccountType)})
		if err != nil {
			return fmt.Errorf("list accounts: %w", err)
		}
		rows := []accountRow{}
		for _, s := range list.Items {
			row := accountRow{Name: strings.TrimPrefix(s.Name, login.SecretPrefix), Created: s.CreationTimestamp.UTC()}
			if t, err := time.Parse(time.RFC3339, string(s.Data[login.ExpiresKey])); err == nil {
				row.Expires = &t
			}
			rows = append(rows, row)
		}
		if *output == "json" {
			return json.NewEncoder(c.OutOrStdout()).Encode(rows)
		}
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 3, ' ', 0)
		fmt.Fprintln(w, "NAME\tCREATED\tEXPIRES")
		for _, r := range rows {
			expires := "never"
			if r.Expires != nil {
				expires = r.Expires.Format(time.RFC3339)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", r.Name, r.Created.Format(time.RFC3339), expires)
		}
		return w.Flush()
	}
	return c
}

func newDeleteAccountCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete an account with its rights; it is refused from then on",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := login.CheckAccountName(args[0]); err != nil {
				return usageError{err}
			}
			kube, err := g.kube()
			if err != nil {
				return err
			}
			err = kube.CoreV1().Secrets(platform.SystemNamespace).Delete(c.Context(), login.SecretPrefix+args[0], metav1.DeleteOptions{})
			if apierrors.IsNotFound(err) {
				return hint.Wrap(fmt.Errorf("there is no account %s", args[0]), "`gantry registry account list` names them")
			}
			if err != nil {
				return fmt.Errorf("delete account %s: %w", args[0], err)
			}
			if err := login.Unbind(c.Context(), kube, args[0]); err != nil {
				return fmt.Errorf("take the rights of account %s away: %w", args[0], err)
			}
			fmt.Fprintf(c.OutOrStdout(), "deleted account %s\n", args[0])
			return nil
		},
	}
}
