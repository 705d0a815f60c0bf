package logs

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
)

// access knows whose logs somebody may see: those of the namespaces in which they may get pods/log.
type access struct {
	client kubernetes.Interface

	mu    sync.Mutex
	known map[string]decision
}

type decision struct {
	allowed bool
	until   time.Time
}

const (
	// remembered is how long an answer holds: a right that is taken away ends after as long at the latest.
	remembered = 10 * time.Second
	maxKnown   = 10000
)

// may asks whether u may get pods/log in a namespace; "" is all of them.
func (a *access) may(ctx context.Context, u user.Info, namespace string) (bool, error) {
	key := strings.Join(append([]string{namespace, u.GetName(), u.GetUID()}, u.GetGroups()...), "\x00")
	now := time.Now()
	a.mu.Lock()
	d, ok := a.known[key]
	if len(a.known) > maxKnown {
		clear(a.known)
	}
	a.mu.Unlock()
	if ok && now.Before(d.until) {
		return d.allowed, nil
	}
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range u.GetExtra() {
		extra[k] = v
	}
	review, err := a.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "get", Resource: "pods", Subresource: "log"},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask whether %s may see logs: %w", u.GetName(), err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known[key] = decision{review.Status.Allowed, now.Add(remembered)}
	return review.Status.Allowed, nil
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
