package apiserver

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/engine/apiserver/objects"
	"github.com/gantryhq/gantry/engine/store"
)

// registryOptions is the generic.RESTOptionsGetter that makes upstream's registries keep their
// objects in our store: as protobuf of the resource's storage version.
type registryOptions struct {
	store   *store.Store
	factory *serverstorage.DefaultStorageFactory
}

// newRegistryOptions serves the kinds of one scheme.
func newRegistryOptions(s *store.Store, scheme *runtime.Scheme, codecs runtime.StorageSerializer, mediaType string) *registryOptions {
	f := serverstorage.NewDefaultStorageFactory(
		storagebackend.Config{}, mediaType, codecs,
		serverstorage.NewDefaultResourceEncodingConfig(scheme), servedResources(), specialPrefixes)
	// One set of objects, served by two groups.
	f.AddCohabitatingResources(schema.GroupResource{Resource: "events"}, schema.GroupResource{Group: "events.k8s.io", Resource: "events"})
	return &registryOptions{store: s, factory: f}
}

// specialPrefixes are the keys that would otherwise be too general to tell apart from those of
// another group's resource of the same name.
var specialPrefixes = map[schema.GroupResource]string{
	{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}: "apiextensions.k8s.io/customresourcedefinitions",
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (o *registryOptions) GetRESTOptions(gr schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	cfg, err := o.factory.NewConfig(gr, example)
	if err != nil {
		return generic.RESTOptions{}, fmt.Errorf("configure storage of %s: %w", gr, err)
	}
	return options(o.store, cfg, o.factory.ResourcePrefix(gr)), nil
}

// customOptions is the generic.RESTOptionsGetter for custom resources: JSON, under a prefix that
// no built-in resource has.
type customOptions struct{ store *store.Store }

// GetRESTOptions implements generic.RESTOptionsGetter.
func (o customOptions) GetRESTOptions(gr schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	cfg := &storagebackend.ConfigForResource{GroupResource: gr}
	cfg.Codec = unstructured.UnstructuredJSONScheme
	return options(o.store, cfg, "custom/"+gr.Group+"/"+gr.Resource), nil
}

func options(s *store.Store, cfg *storagebackend.ConfigForResource, prefix string) generic.RESTOptions {
	return generic.RESTOptions{
		StorageConfig:           cfg,
		Decorator:               decorator(s),
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: 1,
		ResourcePrefix:          prefix,
	}
}

func decorator(s *store.Store) generic.StorageDecorator {
	return func(cfg *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error),
		newFunc, newListFunc func() runtime.Object, _ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		st := objects.New(s, objects.Config{
			Resource: cfg.GroupResource,
			Prefix:   prefix,
			Codec:    cfg.Codec,
			NewFunc:  newFunc, NewListFunc: newListFunc,
			Relaxed:   relaxed(cfg.GroupResource),
			Transient: cfg.GroupResource.Resource == "events",
		})
		return st, func() {}, nil
	}
}
