package controllers

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata"
	"k8s.io/klog/v2"
	upstream "k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher"
	"k8s.io/kubernetes/pkg/controller/clusterroleaggregation"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
	"k8s.io/kubernetes/pkg/controller/resourcequota"
	"k8s.io/kubernetes/pkg/controller/serviceaccount"
	"k8s.io/kubernetes/pkg/controller/tainteviction"
	quotainstall "k8s.io/kubernetes/pkg/quota/v1/install"
)

// discoveryPeriod is how soon controllers of all kinds notice a new kind.
const discoveryPeriod = 30 * time.Second

func newServiceAccount(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("service-account-controller")
	if err != nil {
		return nil, err
	}
	core := e.informers.Core().V1()
	c, err := serviceaccount.NewServiceAccountsController(klog.FromContext(ctx), core.ServiceAccounts(), core.Namespaces(),
		client, serviceaccount.DefaultServiceAccountsControllerOptions())
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}

// newRootCA publishes the API's certificate authority to all namespaces. It
// looks at ConfigMaps of that one name only, so it has an informer of its own.
func newRootCA(_ context.Context, e *environment) (run, error) {
	client, err := e.client("root-ca-cert-publisher")
	if err != nil {
		return nil, err
	}
	reader, err := e.client(componentShared)
	if err != nil {
		return nil, err
	}
	own := informers.NewSharedInformerFactoryWithOptions(reader, 0, informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, rootcacertpublisher.RootCACertConfigMapName).String()
		}))
	e.private = append(e.private, own)
	c, err := rootcacertpublisher.NewPublisher(own.Core().V1().ConfigMaps(), e.informers.Core().V1().Namespaces(), client, e.cfg.CABundle)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}

func newRoleAggregation(_ context.Context, e *environment) (run, error) {
	client, err := e.client("clusterrole-aggregation-controller")
	if err != nil {
		return nil, err
	}
	c := clusterroleaggregation.NewClusterRoleAggregation(e.informers.Rbac().V1().ClusterRoles(), client.RbacV1())
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}

func newQuota(ctx context.Context, e *environment) (run, error) {
	client, err := e.client("resourcequota-controller")
	if err != nil {
		return nil, err
	}
	kinds := everyKind{e}
	evaluators, err := quotainstall.NewQuotaConfigurationForControllers(generic.ListerFuncForResourceFunc(kinds.ForResource), e.informers)
	if err != nil {
		return nil, err
	}
	discover := client.Discovery().ServerPreferredNamespacedResources
	c, err := resourcequota.NewController(ctx, &resourcequota.ControllerOptions{
		QuotaClient:               client.CoreV1(),
		ResourceQuotaInformer:     e.informers.Core().V1().ResourceQuotas(),
		ResyncPeriod:              upstream.StaticResyncPeriodFunc(5 * time.Minute),
		InformerFactory:           kinds,
		ReplenishmentResyncPeriod: upstream.StaticResyncPeriodFunc(12 * time.Hour),
		DiscoveryFunc:             discover,
		IgnoredResourcesFunc:      evaluators.IgnoredResources,
		InformersStarted:          e.started,
		Registry:                  generic.NewRegistry(evaluators.Evaluators()),
		UpdateFilter:              quotainstall.DefaultUpdateFilter(),
	})
	if err != nil {
		return nil, err
	}
	return both(
		func(ctx context.Context) { c.Run(ctx, 2) },
		func(ctx context.Context) { c.Sync(ctx, discover, discoveryPeriod) },
	), nil
}

func newTaintEviction(ctx context.Context, e *environment) (run, error) {
	const name = "node-controller"
	client, err := e.client(name)
	if err != nil {
		return nil, err
	}
	c, err := tainteviction.New(ctx, client, e.informers.Core().V1().Pods(), e.informers.Core().V1().Nodes(), name)
	if err != nil {
		return nil, err
	}
	return c.Run, nil
}

func newGarbageCollector(ctx context.Context, e *environment) (run, error) {
	const name = "generic-garbage-collector"
	client, err := e.client(name)
	if err != nil {
		return nil, err
	}
	meta, err := metadata.NewForConfig(e.config(name))
	if err != nil {
		return nil, err
	}
	c, err := garbagecollector.NewGarbageCollector(ctx, client, meta, e.mapper, garbagecollector.DefaultIgnoredResources(), everyKind{e}, e.started)
	if err != nil {
		return nil, err
	}
	return both(
		func(ctx context.Context) { c.Run(ctx, workers, discoveryPeriod) },
		func(ctx context.Context) { c.Sync(ctx, client.Discovery(), discoveryPeriod) },
	), nil
}
