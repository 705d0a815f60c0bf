package controllers

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
)

// environment is what the controllers share.
type environment struct {
	cfg    Config
	events afterwards

	// informers hold the kinds that some controller reads as a whole.
	informers informers.SharedInformerFactory
	// metadata holds the names and owners of all other kinds.
	metadata metadatainformer.SharedInformerFactory
	// private are informers of one controller, started with the others.
	private []informers.SharedInformerFactory
	// started is closed when the informers have been started.
	started chan struct{}
	mapper  meta.ResettableRESTMapper
}

func newEnvironment(cfg Config) (*environment, error) {
	e := &environment{cfg: cfg, started: make(chan struct{})}
	shared, err := e.client(componentShared)
	if err != nil {
		return nil, err
	}
	e.informers = informers.NewSharedInformerFactoryWithOptions(shared, 0, informers.WithTransform(trim))
	meta, err := metadata.NewForConfig(e.config(componentShared))
	if err != nil {
		return nil, fmt.Errorf("make metadata client: %w", err)
	}
	e.metadata = metadatainformer.NewSharedInformerFactoryWithOptions(meta, 0, metadatainformer.WithTransform(trim))
	e.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(shared.Discovery()))
	return e, nil
}

func (e *environment) config(component string) *rest.Config {
	c := rest.CopyConfig(e.cfg.Client(component))
	c.UserAgent = "gantry/" + component
	c.WarningHandlerWithContext = rest.NoWarnings{} // for humans, such as deprecations
	c.Wrap(e.events.wrap)
	return c
}

func (e *environment) client(component string) (*kubernetes.Clientset, error) {
	c, err := kubernetes.NewForConfig(e.config(component))
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", component, err)
	}
	return c, nil
}

// scales reads and writes the scale subresource of any kind.
func (e *environment) scales(component string, d discovery.DiscoveryInterface) (scale.ScalesGetter, error) {
	return scale.NewForConfig(e.config(component), e.mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(d))
}

func (e *environment) volumesDir() string { return filepath.Join(e.cfg.DataDir, "volumes") }

// start starts the informers and returns when they have read everything.
// Controllers poll every 100 ms for that; started afterwards, they find it done.
func (e *environment) start(ctx context.Context) error {
	factories := append([]informers.SharedInformerFactory{e.informers}, e.private...)
	for _, f := range factories {
		f.Start(ctx.Done())
	}
	e.metadata.Start(ctx.Done())
	close(e.started)
	for _, f := range factories {
		if err := e.waitFor(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (e *environment) waitFor(ctx context.Context, f informers.SharedInformerFactory) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !synced(f) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("read the state of the cluster: %w", ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// synced asks without waiting.
func synced(f informers.SharedInformerFactory) bool {
	now := make(chan struct{})
	close(now)
	for _, done := range f.WaitForCacheSync(now) {
		if !done {
			return false
		}
	}
	return true
}

// shutdown waits for the informers to end.
func (e *environment) shutdown() {
	for _, f := range append(e.private, e.informers) {
		f.Shutdown()
	}
	e.metadata.Shutdown()
}

// trim drops what no controller reads and every object carries.
func trim(obj any) (any, error) {
	if o, err := meta.Accessor(obj); err == nil && o.GetManagedFields() != nil {
		o.SetManagedFields(nil)
	}
	return obj, nil
}
