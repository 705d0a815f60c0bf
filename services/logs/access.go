package logs

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/rights"
)

// access knows whose logs somebody may see: those of the namespaces in which they may get pods/log.
type access struct{ rights.Reviews }

func newAccess(client kubernetes.Interface) *access {
	return &access{rights.Reviews{Client: client}}
}

// may asks whether u may get pods/log in a namespace; "" is all of them.
func (a *access) may(ctx context.Context, u user.Info, namespace string) (bool, error) {
	return a.May(ctx, u, authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "get", Resource: "pods", Subresource: "log"})
}

// among returns a function that tells in which of some namespaces, and no others, u may see logs.
func (a *access) among(ctx context.Context, u user.Info, namespaces []string) (func(namespace string) bool, error) {
	everywhere, err := a.may(ctx, u, "")
	if err != nil {
		return nil, err
	}
	if everywhere {
		return func(string) bool { return true }, nil
	}
	allowed := map[string]bool{}
	for _, n := range namespaces {
		if allowed[n], err = a.may(ctx, u, n); err != nil {
			return nil, err
		}
	}
	return func(n string) bool { return allowed[n] }, nil
}
