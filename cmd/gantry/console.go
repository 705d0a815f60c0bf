package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/services/console"
)

// consoleAdmin is the ServiceAccount in platform.SystemNamespace that an administrator without a
// token is in the console. Deleting it ends all sessions of administrators.
const consoleAdmin = "console-administrator"

// consoleLink is what `gantry console -o json` prints.
type consoleLink struct {
	URL     string    `json:"url"`
	User    string    `json:"user"`
	Expires time.Time `json:"expires"`
}

// consoleOptions are the flags of `gantry console`.
type consoleOptions struct {
	account string
	url     string
	open    bool
	lasting time.Duration
}

func newConsoleCommand(g *globals) *cobra.Command {
	var o consoleOptions
	var output *string
	c := &cobra.Command{
		Use:   "console",
		Short: "Print a link that opens the web console, logged in",
		Long: "Prints a link to the web console that logs in once, within two minutes. Whoever opens it is\n" +
			"the user of the kubeconfig when that has a token; an administrator with a certificate is the\n" +
			"ServiceAccount " + platform.SystemNamespace + "/" + consoleAdmin + ", which is made at first use and may do everything.\n" +
			"The link holds no token.",
		Example: "  gantry console\n  gantry console --service-account team-a/viewer   # may what that account may",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			link, err := o.link(c.Context(), g)
			if err != nil {
				return err
			}
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), link)
			}
			fmt.Fprintln(c.OutOrStdout(), link.URL)
			fmt.Fprintf(c.ErrOrStderr(), "opens the console as %s, once, until %s\n", link.User, link.Expires.Local().Format(time.TimeOnly))
			if o.open {
				if err := exec.CommandContext(c.Context(), "xdg-open", link.URL).Run(); err != nil {
					return hint.Wrap(fmt.Errorf("open a browser: %w", err), "open the link yourself")
				}
			}
			return nil
		},
	}
	output = outputFlag(c)
	f := c.Flags()
	f.StringVar(&o.account, "service-account", "", "log in as this ServiceAccount, NAMESPACE/NAME")
	f.StringVar(&o.url, "url", "", "address of the console (default "+console.Prefix+" of the API's address)")
	f.BoolVar(&o.open, "open", false, "open the link in this desktop's browser")
	f.DurationVar(&o.lasting, "duration", 12*time.Hour, "how long the token behind the session is valid")
	return c
}

func (o *consoleOptions) link(ctx context.Context, g *globals) (*consoleLink, error) {
	cfg, err := g.config()
	if err != nil {
		return nil, err
	}
	token, err := o.token(ctx, cfg)
	if err != nil {
		return nil, err
	}
	at := o.url
	if at == "" {
		base, _, err := rest.DefaultServerUrlFor(cfg)
		if err != nil {
			return nil, err
		}
		at = base.JoinPath(console.Prefix).String()
	}
	at = strings.TrimSuffix(at, "/") + "/"
	code, err := askForCode(ctx, cfg, at, token)
	if err != nil {
		return nil, err
	}
	return &consoleLink{URL: at + "login#" + url.PathEscape(code.Code), User: code.User.Name, Expires: code.Expires}, nil
}

// token is what the console is to act with.
func (o *consoleOptions) token(ctx context.Context, cfg *rest.Config) (string, error) {
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return "", err
	}
	if o.account != "" {
		namespace, name, ok := strings.Cut(o.account, "/")
		if !ok || namespace == "" || name == "" {
			return "", usageError{fmt.Errorf("--service-account %q is not NAMESPACE/NAME", o.account)}
		}
		return o.accountToken(ctx, kube, namespace, name)
	}
	if token, err := ownToken(cfg); token != "" || err != nil {
		return token, err
	}
	if err := ensureConsoleAdmin(ctx, kube); err != nil {
		return "", hint.Wrap(err, "log in as an account that you may create tokens for: --service-account NAMESPACE/NAME")
	}
	return o.accountToken(ctx, kube, platform.SystemNamespace, consoleAdmin)
}

func (o *consoleOptions) accountToken(ctx context.Context, kube kubernetes.Interface, namespace, name string) (string, error) {
	seconds := int64(o.lasting.Seconds())
	made, err := kube.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create a token of service account %s/%s: %w", namespace, name, err)
	}
	return made.Status.Token, nil
}

// ownToken is the token that a client configuration sends, wherever it has it from: "" when it
// proves who it is in another way.
func ownToken(cfg *rest.Config) (string, error) {
	var token string
	wrapped, err := rest.HTTPWrappersForConfig(cfg, roundTripper(func(r *http.Request) (*http.Response, error) {
		token, _ = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		return nil, errSeen
	}))
	if err != nil {
		return "", err
	}
	req, err := http.NewRequest(http.MethodGet, "https://api.invalid/", nil) // goes nowhere
	if err != nil {
		return "", err
	}
	if _, err := wrapped.RoundTrip(req); !errors.Is(err, errSeen) {
		return "", fmt.Errorf("find the token of the kubeconfig's user: %w", err)
	}
	return token, nil
}

var errSeen = errors.New("seen")

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// ensureConsoleAdmin makes the account of administrators.
func ensureConsoleAdmin(ctx context.Context, kube kubernetes.Interface) error {
	_, err := kube.CoreV1().ServiceAccounts(platform.SystemNamespace).Create(ctx,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: consoleAdmin}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make the console's administrator: %w", err)
	}
	_, err = kube.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "gantry-" + consoleAdmin},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: platform.SystemNamespace, Name: consoleAdmin}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make the console's administrator: %w", err)
	}
	return nil
}

// askForCode has the console at an address make a code for a token.
func askForCode(ctx context.Context, cfg *rest.Config, at, token string) (*console.Code, error) {
	transport, err := rest.TransportFor(rest.AnonymousClientConfig(cfg))
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(console.Credentials{Token: token})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at+"session/code", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(console.ProofHeader, "link")
	resp, err := (&http.Client{Transport: transport, Timeout: 15 * time.Second}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the console for a link: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("ask the console for a link: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var why metav1.Status
		if json.Unmarshal(text, &why) != nil || why.Message == "" {
			return nil, hint.Wrap(fmt.Errorf("ask the console for a link: %s answers %s", at, resp.Status), "name the console's address with --url")
		}
		return nil, fmt.Errorf("ask the console for a link: %s", why.Message)
	}
	var code console.Code
	if err := json.Unmarshal(text, &code); err != nil {
		return nil, fmt.Errorf("ask the console for a link: %w", err)
	}
	return &code, nil
}
