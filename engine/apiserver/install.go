package apiserver

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// Limits of upstream's API server.
const (
	maxRequestBody = 3 << 20 // bytes
	requestTimeout = time.Minute
	minWatch       = 30 * time.Minute // watches last this long or up to twice that
)

// apiGroups serves the built-in groups and their discovery documents.
type apiGroups struct {
	container *restful.Container
	roots     map[string]bool // paths that belong to the container: /api/v1, /apis/apps, ...
	calls     componentCalls
	served    map[schema.GroupVersion]map[string]rest.Storage

	legacy, groups         aggregated.ResourceManager // aggregated discovery of /api and /apis
	legacyRoot, groupsRoot http.Handler
	groupList              discovery.GroupManager

	serializer runtime.NegotiatedSerializer
	components runtime.NegotiatedSerializer // for requests of this process
	admission  admission.Interface
	authorizer authorizer.Authorizer
	equivalent runtime.EquivalentResourceRegistry
}

func newAPIGroups(serializer runtime.NegotiatedSerializer, address string, admit admission.Interface, authz authorizer.Authorizer) *apiGroups {
	g := &apiGroups{
		container:  restful.NewContainer(),
		calls:      componentCalls{},
		components: newComponentSerializer(),
		roots:      map[string]bool{},
		served:     map[schema.GroupVersion]map[string]rest.Storage{},
		legacy:     aggregated.NewResourceManager("api"),
		groups:     aggregated.NewResourceManager("apis"),
		serializer: serializer,
		admission:  admit,
		authorizer: authz,
		equivalent: runtime.NewEquivalentResourceRegistry(),
	}
	g.container.Router(restful.CurlyRouter{})
	g.container.ServiceErrorHandler(refuseAsStatus(serializer))
	addresses := discovery.DefaultAddresses{DefaultAddress: address}
	root := discovery.NewRootAPIsHandler(addresses, serializer)
	g.groupList = root
	g.groupsRoot = aggregated.WrapAggregatedDiscoveryToHandler(root, g.groups, nil)
	g.legacyRoot = aggregated.WrapAggregatedDiscoveryToHandler(discovery.NewLegacyRootAPIHandler(addresses, serializer, "/api"), g.legacy, nil)
	return g
}

// install serves one group. The priority orders groups in discovery, the highest first.
func (g *apiGroups) install(info *genericapiserver.APIGroupInfo, converter managedfields.TypeConverter, priority int) error {
	var versions []metav1.GroupVersionForDiscovery
	for i, gv := range info.PrioritizedVersions {
		storage := info.VersionedResourcesStorageMap[gv.Version]
		if len(storage) == 0 {
			continue
		}
		resources, err := g.installVersion(info, gv, storage, converter)
		if err != nil {
			return fmt.Errorf("serve %s: %w", gv, err)
		}
		found := apidiscoveryv2.APIVersionDiscovery{Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Resources: resources}
		if gv.Group == "" {
			g.legacy.AddGroupVersion("", found)
			continue
		}
		g.groups.AddGroupVersion(gv.Group, found)
		g.groups.SetGroupVersionPriority(metav1.GroupVersion(gv), priority, len(info.PrioritizedVersions)-i)
		versions = append(versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
	}
	if len(versions) > 0 {
		group := metav1.APIGroup{Name: info.PrioritizedVersions[0].Group, Versions: versions, PreferredVersion: versions[0]}
		g.groupList.AddGroup(group)
		g.container.Add(discovery.NewAPIGroupHandler(g.serializer, group).WebService())
		g.roots["/apis/"+group.Name] = true
	}
	return nil
}

func (g *apiGroups) installVersion(info *genericapiserver.APIGroupInfo, gv schema.GroupVersion, storage map[string]rest.Storage, converter managedfields.TypeConverter) ([]apidiscoveryv2.APIResourceDiscovery, error) {
	root := "/apis"
	if gv.Group == "" {
		root = "/api"
		g.roots["/api/v1"] = true
	}
	g.served[gv] = storage
	version := &genericapi.APIGroupVersion{
		Storage:                storage,
		Root:                   root,
		GroupVersion:           gv,
		OptionsExternalVersion: info.OptionsExternalVersion,
		MetaGroupVersion:       info.MetaGroupVersion,

		Serializer:            g.serializer,
		ParameterCodec:        info.ParameterCodec,
		Typer:                 info.Scheme,
		Creater:               info.Scheme,
		Convertor:             info.Scheme,
		ConvertabilityChecker: info.Scheme,
		UnsafeConvertor:       runtime.UnsafeObjectConvertor(info.Scheme),
		Defaulter:             info.Scheme,
		Namer:                 runtime.Namer(meta.NewAccessor()),
		TypeConverter:         converter,

		EquivalentResourceRegistry: g.equivalent,
		Authorizer:                 g.authorizer,
		Admit:                      g.admission,
		MinRequestTimeout:          minWatch,
		MaxRequestBodyBytes:        maxRequestBody,
	}
	if info.NegotiatedSerializer != nil && (gv.Group == "apiextensions.k8s.io" || gv.Group == "apiregistration.k8s.io") {
		version.Serializer = info.NegotiatedSerializer // schemes of their own
	}
	resources, _, err := version.InstallREST(g.container)
	if err != nil {
		return nil, err
	}
	return resources, g.calls.add(version, g.components)
}

// owns tells whether a path belongs to a built-in group.
func (g *apiGroups) owns(path string) bool {
	if g.roots[path] {
		return true
	}
	// The group is the first two segments, as in /apis/apps or /api/v1.
	rest, ok := strings.CutPrefix(path, "/api")
	if !ok {
		return false
	}
	rest = strings.TrimPrefix(rest, "s")
	segment, _, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	return g.roots[path[:len(path)-len(rest)]+"/"+segment]
}

// lazyConverter postpones the parsing of the schemas that server-side apply and managed fields
// need until the first write: it costs tens of milliseconds and megabytes.
type lazyConverter struct {
	get func() managedfields.TypeConverter
}

func newLazyConverter(make func() managedfields.TypeConverter) lazyConverter {
	return lazyConverter{get: sync.OnceValue(make)}
}

// ObjectToTyped implements managedfields.TypeConverter.
func (l lazyConverter) ObjectToTyped(o runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	return l.get().ObjectToTyped(o, opts...)
}

// TypedToObject implements managedfields.TypeConverter.
func (l lazyConverter) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	return l.get().TypedToObject(v)
}
