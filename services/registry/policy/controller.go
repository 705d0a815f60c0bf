package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/apiclient"
	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/services/registry"
)

// interval is how often retention rules are applied and usage is measured; a policy that
// changes is looked at once.
const interval = time.Hour

// Controller follows RegistryPolicies. It implements [registry.Policies].
type Controller struct {
	client  *apiclient.Client
	cluster kubernetes.Interface
	indexer cache.SharedIndexInformer
	changed chan struct{}
	log     *slog.Logger
}

// New returns a controller, which knows no policies until [Controller.Run] runs. cfg needs
// the rights of registry.User. A nil log means slog.Default().
func New(cfg *rest.Config, log *slog.Logger) (*Controller, error) {
	client, err := apiclient.New(cfg)
	if err != nil {
		return nil, err
	}
	cluster, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.Default()
	}
	c := &Controller{client: client, cluster: cluster, changed: make(chan struct{}, 1), log: log}
	all := client.RegistryPolicies(metav1.NamespaceAll)
	c.indexer = cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return all.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return all.Watch(ctx, o)
		},
	}, all), &v1alpha1.RegistryPolicy{}, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	touch := func() {
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}
	_, err = c.indexer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { touch() },
		UpdateFunc: func(old, now any) {
			if old.(*v1alpha1.RegistryPolicy).Generation != now.(*v1alpha1.RegistryPolicy).Generation {
				touch()
			}
		},
	})
	return c, err
}

var errUnknown = errors.New("the registry does not know its policies yet: try again in a moment")

// Of implements [registry.Policies].
func (c *Controller) Of(repository string) (registry.Policy, error) {
	if !c.indexer.HasSynced() {
		return registry.Policy{}, errUnknown
	}
	namespace := registry.Namespace(repository)
	if namespace == "" {
		return registry.Policy{}, nil
	}
	return holds(c.policies(namespace), repository, c.login)
}

// login reads a Secret of type kubernetes.io/basic-auth.
func (c *Controller) login(ctx context.Context, secretName string) (user, password string, err error) {
	secret, err := c.cluster.CoreV1().Secrets(platform.SystemNamespace).Get(ctx, secretName, metav1.GetOptions{})
	if err != nil {
		return "", "", err
	}
	if secret.Type != corev1.SecretTypeBasicAuth {
		return "", "", fmt.Errorf("secret %s/%s is not of type %s", secret.Namespace, secretName, corev1.SecretTypeBasicAuth)
	}
	return string(secret.Data[corev1.BasicAuthUsernameKey]), string(secret.Data[corev1.BasicAuthPasswordKey]), nil
}

func (c *Controller) policies(namespace string) []*v1alpha1.RegistryPolicy {
	objects, err := c.indexer.GetIndexer().ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		return nil // fails only for an index that does not exist
	}
	policies := make([]*v1alpha1.RegistryPolicy, 0, len(objects))
	for _, o := range objects {
		policies = append(policies, o.(*v1alpha1.RegistryPolicy))
	}
	return policies
}

// Run follows the policies until ctx ends. The kind may be installed later.
func (c *Controller) Run(ctx context.Context, r *registry.Registry) error {
	err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		_, err := c.client.RegistryPolicies(metav1.NamespaceAll).List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil, nil
	})
	if err != nil {
		return nil // asked to stop
	}
	go c.indexer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), c.indexer.HasSynced) {
		return nil
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-c.changed:
		}
		if err := c.apply(ctx, r, time.Now()); err != nil && ctx.Err() == nil {
			c.log.Warn("registry policies", "err", err) // the next round tries again
		}
	}
}

// apply removes what is not retained, and reports.
func (c *Controller) apply(ctx context.Context, r *registry.Registry, now time.Time) error {
	namespaces := c.indexer.GetIndexer().ListIndexFuncValues(cache.NamespaceIndex)
	if len(namespaces) == 0 {
		return nil
	}
	inUse, err := registry.InUse(ctx, c.cluster)
	if err != nil {
		return fmt.Errorf("list deployed images: %w", err) // without it nothing may go
	}
	var all error
	for _, namespace := range namespaces {
		policies := c.policies(namespace)
		removed, err := r.Retain(namespace, func(name string, tags []registry.Tagged) []registry.Tagged {
			gone := expired(policies, name, tags, now)
			kept := gone[:0]
			for _, t := range gone {
				if !inUse(namespace+"/"+name, t.Digest) {
					kept = append(kept, t)
				}
			}
			return kept
		})
		if removed > 0 {
			c.log.Info("registry tags removed", "namespace", namespace, "tags", removed)
		}
		used, usageErr := r.Usage(namespace)
		err = errors.Join(err, usageErr)
		for _, p := range policies {
			all = errors.Join(all, c.report(ctx, p, used, removed, err, now))
		}
	}
	return all
}

func (c *Controller) report(ctx context.Context, p *v1alpha1.RegistryPolicy, used registry.Usage, removed int, problem error, now time.Time) error {
	next := p.DeepCopy()
	s := &next.Status
	s.Used = resource.NewQuantity(used.Bytes, resource.BinarySI)
	s.Repositories, s.Tags = int32(used.Repositories), int32(used.Tags)
	if len(p.Spec.Retention) > 0 {
		s.RemovedTags += int64(removed)
	}
	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Kept", ObservedGeneration: p.Generation}
	for _, u := range p.Spec.Upstreams {
		if _, err := upstreamOf(u, "x", c.login); err != nil {
			problem = errors.Join(problem, err)
		}
	}
	switch {
	case problem != nil:
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, "Failed", problem.Error()
	case p.Spec.Quota != nil && p.Spec.Quota.Value() <= used.Bytes:
		ready.Reason, ready.Message = "QuotaReached", "the quota is used up: pushes are refused"
	}
	meta.SetStatusCondition(&s.Conditions, ready)
	if equality.Semantic.DeepEqual(p.Status, *s) {
		return nil
	}
	s.Checked = &metav1.Time{Time: now}
	_, err := c.client.RegistryPolicies(p.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // changed meanwhile: its change is looked at next
	}
	return err
}
