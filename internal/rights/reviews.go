package rights

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

// Reviews asks the API what people may do, for services that answer different people differently. An
// answer holds for ten seconds: a right that is taken away ends after as long at the latest. It is
// safe for concurrent use; a copy is not.
type Reviews struct {
	Client kubernetes.Interface

	mu    sync.Mutex
	known map[string]decision
}

type decision struct {
	allowed bool
	until   time.Time
}

const (
	remembered = 10 * time.Second
	maxKnown   = 10000
)

// May asks whether u may do what a says.
func (r *Reviews) May(ctx context.Context, u user.Info, a authorizationv1.ResourceAttributes) (bool, error) {
	key := strings.Join(append([]string{a.String(), u.GetName(), u.GetUID()}, u.GetGroups()...), "\x00")
	now := time.Now()
	r.mu.Lock()
	d, ok := r.known[key]
	r.mu.Unlock()
	if ok && now.Before(d.until) {
		return d.allowed, nil
	}
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range u.GetExtra() {
		extra[k] = v
	}
	review, err := r.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: extra, ResourceAttributes: &a},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask whether %s may %s %s: %w", u.GetName(), a.Verb, a.Resource, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) > maxKnown {
		r.known = map[string]decision{}
	}
	r.known[key] = decision{review.Status.Allowed, now.Add(remembered)}
	return review.Status.Allowed, nil
}
