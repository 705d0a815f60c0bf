package login

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/services/registry"
)

// Logins tells who sends requests. It implements [registry.Login].
type Logins struct {
	cluster  kubernetes.Interface
	accounts *accounts
	passes   passes
}

// New returns logins of the accounts and identities of a cluster. The client needs to
// create TokenReviews and SubjectAccessReviews and to get Secrets in
// platform.SystemNamespace.
func New(cluster kubernetes.Interface) *Logins {
	return &Logins{cluster: cluster, accounts: newAccounts(cluster), passes: newPasses()}
}

// Login implements [registry.Login]. A login that is sent counts, also from user 0.
func (l *Logins) Login(r *http.Request) (registry.Caller, error) {
	ctx := r.Context()
	user, password, basic := r.BasicAuth()
	basic = basic && user+password != "" // some clients that have no login say so in this way
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case basic:
		return l.basic(ctx, user, password)
	case bearer && strings.HasPrefix(token, passPrefix):
		user, password, err := l.passes.open(token)
		if err != nil {
			return nil, err
		}
		return l.basic(ctx, user, password)
	case bearer:
		return l.token(ctx, token)
	// A browser of user 0 may be led here by a page whose name means this machine.
	case fromRoot(ctx) && registry.IsLocal(r.Host):
		return root{}, nil
	}
	return nil, errNotLoggedIn
}

var errNotLoggedIn = fmt.Errorf("%w: log in with a service-account token as the password, or as an account that `gantry registry account create` made", registry.ErrUnauthenticated)

// basic is who has a name and a password, which may be a service-account token.
func (l *Logins) basic(ctx context.Context, user, password string) (registry.Caller, error) {
	if isToken(password) {
		return l.token(ctx, password)
	}
	u, err := l.accounts.check(ctx, user, password)
	if err != nil {
		return nil, err
	}
	return l.caller(u), nil
}

// isToken is whether a password is a JSON Web Token.
func isToken(password string) bool {
	return strings.HasPrefix(password, "eyJ") && strings.Count(password, ".") == 2
}

func (l *Logins) token(ctx context.Context, token string) (registry.Caller, error) {
	review, err := l.cluster.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("check token: %w", err)
	}
	if !review.Status.Authenticated {
		return nil, fmt.Errorf("%w: the token is not valid: it expired, or its service account is gone", registry.ErrUnauthenticated)
	}
	return l.caller(review.Status.User), nil
}

func (l *Logins) caller(u authenticationv1.UserInfo) registry.Caller {
	return &user{UserInfo: u, cluster: l.cluster}
}

// root is user 0 of this machine, who may do everything.
type root struct{}

func (root) May(context.Context, registry.Action, string) error { return nil }

// user is somebody whom Kubernetes knows.
type user struct {
	authenticationv1.UserInfo
	cluster kubernetes.Interface
}

// May implements [registry.Caller].
func (u *user) May(ctx context.Context, action registry.Action, repository string) error {
	namespace, name := Split(repository)
	extra := make(map[string]authorizationv1.ExtraValue, len(u.Extra))
	for k, v := range u.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := u.cluster.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: u.Username, Groups: u.Groups, UID: u.UID, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: Group, Resource: Resource, Verb: string(action), Namespace: namespace, Name: name,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("ask whether %s may %s %s: %w", u.Username, action, repository, err)
	}
	if review.Status.Allowed {
		return nil
	}
	where := fmt.Sprintf("in namespace %s", namespace)
	if namespace == "" {
		where = "in all namespaces"
	}
	what := repository
	if what == "" {
		what = "all repositories"
	}
	return fmt.Errorf("%w: %s may not %s %s: that needs a role with the verb %s on %s.%s %s",
		registry.ErrDenied, u.Username, describe(action), what, action, Resource, Group, where)
}

// Group and Resource are what roles name.
const (
	Group    = "gantry.dev"
	Resource = "repositories"
)

// Split gives the namespace that a repository belongs to and its name there. One whose
// name has a single part belongs to none: only who may use all may use it.
func Split(repository string) (namespace, name string) {
	namespace, name, ok := strings.Cut(repository, "/")
	if !ok {
		return "", repository
	}
	return namespace, name
}

func describe(a registry.Action) string {
	switch a {
	case registry.Pull:
		return "pull"
	case registry.Push:
		return "push to"
	case registry.Overwrite:
		return "move a tag of"
	case registry.Delete:
		return "delete from"
	}
	return "list"
}
