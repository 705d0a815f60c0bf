package scale

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/apiclient"
	"github.com/gantryhq/gantry/internal/demand"
)

// clients are the ways to the API.
type clients struct {
	kube      kubernetes.Interface
	policies  *apiclient.Client
	dynamic   dynamic.Interface
	discovery discovery.DiscoveryInterface
	metrics   metricsclient.MetricsV1beta1Interface
	events    record.EventRecorder
}

// Run adjusts replicas until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	gateways, err := demand.NewFollower(cfg.Gateways, cfg.Log)
	if err != nil {
		return err
	}
	client, stopEvents, err := newClients(ctx, cfg.Client)
	if err != nil {
		return fmt.Errorf("start scaling: %w", err)
	}
	defer stopEvents()
	c, err := newController(cfg, client, gateways)
	if err != nil {
		return fmt.Errorf("start scaling: %w", err)
	}
	var running sync.WaitGroup
	running.Go(func() { gateways.Run(ctx) })
	c.run(ctx)
	running.Wait()
	return ctx.Err()
}

func newClients(ctx context.Context, cfg *rest.Config) (c clients, stop func(), err error) {
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent = "gantry-scale"
	if cfg.QPS == 0 {
		cfg.QPS, cfg.Burst = 100, 200
	}
	plain := rest.CopyConfig(cfg)
	plain.ContentType, plain.AcceptContentTypes = runtime.ContentTypeJSON, ""
	if c.kube, err = kubernetes.NewForConfig(cfg); err != nil {
		return c, nil, err
	}
	c.discovery = c.kube.Discovery()
	if c.policies, err = apiclient.New(cfg); err != nil {
		return c, nil, err
	}
	if c.dynamic, err = dynamic.NewForConfig(plain); err != nil {
		return c, nil, err
	}
	if c.metrics, err = metricsclient.NewForConfig(plain); err != nil {
		return c, nil, err
	}
	known := runtime.NewScheme()
	if err := scheme.AddToScheme(known); err != nil {
		return c, nil, err
	}
	if err := v1alpha1.AddToScheme(known); err != nil {
		return c, nil, err
	}
	events := record.NewBroadcaster(record.WithContext(ctx))
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.kube.CoreV1().Events("")})
	c.events = events.NewRecorder(known, corev1.EventSource{Component: "gantry-scale"})
	return c, events.Shutdown, nil
}
