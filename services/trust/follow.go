package trust

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// follow is the controller of policies. It watches TrustPolicies, reads the keys they name, and
// writes their status and the webhook configurations, which exist only while there are policies.
func (s *Service) follow(ctx context.Context) error {
	if err := s.awaitKind(ctx); err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	touch := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	client := s.policies.TrustPolicies()
	informer := cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, o)
		},
	}, client), &v1alpha1.TrustPolicy{}, 0, nil)
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { touch() }, DeleteFunc: func(any) { touch() },
		UpdateFunc: func(old, now any) {
			if old.(*v1alpha1.TrustPolicy).Generation != now.(*v1alpha1.TrustPolicy).Generation {
				touch()
			}
		},
	})
	if err != nil {
		return fmt.Errorf("follow trust policies: %w", err)
	}
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return ctx.Err()
	}
	for {
		next := s.reconcile(ctx, informer.GetStore().List())
		if !s.isKnown() {
			close(s.known)
		}
		var timer <-chan time.Time
		if next > 0 {
			timer = time.After(next)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-timer:
		}
	}
}

func (s *Service) isKnown() bool {
	select {
	case <-s.known:
		return true
	default:
		return false
	}
}

// awaitKind waits until the kind is served. Until then there are no policies, which must not
// keep containers from starting.
func (s *Service) awaitKind(ctx context.Context) error {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		_, served, err := s.list(ctx)
		if err == nil && served {
			return nil
		}
		if err == nil && !s.isKnown() {
			close(s.known)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// reconcile makes the present policies count. It returns when to do so again, or 0.
func (s *Service) reconcile(ctx context.Context, objects []any) time.Duration {
	compiled, fingerprints := map[string]*policy{}, map[string]bool{}
	next := time.Duration(0)
	for _, o := range objects {
		p := compile(ctx, o.(*v1alpha1.TrustPolicy), s.keys)
		compiled[p.name()] = p
		fingerprints[p.fingerprint] = true
		if next == 0 {
			next = keyPeriod
		}
		if p.problem != nil {
			next = keyRetry
		}
	}
	s.mu.Lock()
	s.current = compiled
	s.mu.Unlock()
	broken := slices.ContainsFunc(slices.Collect(maps.Values(compiled)), func(p *policy) bool { return p.problem != nil })
	if !broken { // a key that is missing for a moment must not cost what was accepted with it
		s.decider.accepted.keep(fingerprints)
	}
	if err := s.configureWebhooks(ctx, compiled); err != nil {
		if ctx.Err() == nil {
			s.cfg.Log.Error("cannot configure the webhooks of trust policies", "err", err)
		}
		s.report(ctx, compiled, err)
		return keyRetry
	}
	s.report(ctx, compiled, nil)
	return next
}

// report writes the status of policies whose state changed.
func (s *Service) report(ctx context.Context, compiled map[string]*policy, failure error) {
	for _, name := range sortedNames(compiled) {
		p := compiled[name]
		status := p.object.Status.DeepCopy()
		condition := metav1.Condition{
			Type: "Ready", Status: metav1.ConditionTrue, Reason: "Enforced", ObservedGeneration: p.object.Generation,
			Message: "images are checked when pods are created and when containers start",
		}
		if !p.enforced() {
			condition.Reason, condition.Message = "Warning", "images are checked, and those that break a rule run with a warning"
		}
		switch {
		case p.problem != nil:
			condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, "Invalid", p.problem.Error()
		case failure != nil:
			condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, "NotConfigured", failure.Error()
		}
		meta.SetStatusCondition(&status.Conditions, condition)
		status.ObservedGeneration = p.object.Generation
		if equality.Semantic.DeepEqual(status, &p.object.Status) {
			continue
		}
		update := p.object.DeepCopy()
		update.Status = *status
		if _, err := s.policies.TrustPolicies().UpdateStatus(ctx, update, metav1.UpdateOptions{}); err != nil && ctx.Err() == nil {
			s.cfg.Log.Debug("write the status of a trust policy", "policy", name, "err", err) // it changed meanwhile: made up for by the next look
		}
	}
}

func sortedNames(m map[string]*policy) []string { return slices.Sorted(maps.Keys(m)) }
