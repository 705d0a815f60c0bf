package apiserver

import (
	"context"
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	crdstore "k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/client-go/kubernetes"
	aggregationinstall "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiservicestore "k8s.io/kube-aggregator/pkg/registry/apiservice/etcd"
	admissionregistrationrest "k8s.io/kubernetes/pkg/registry/admissionregistration/rest"
	appsrest "k8s.io/kubernetes/pkg/registry/apps/rest"
	authenticationrest "k8s.io/kubernetes/pkg/registry/authentication/rest"
	authorizationrest "k8s.io/kubernetes/pkg/registry/authorization/rest"
	autoscalingrest "k8s.io/kubernetes/pkg/registry/autoscaling/rest"
	batchrest "k8s.io/kubernetes/pkg/registry/batch/rest"
	certificatesrest "k8s.io/kubernetes/pkg/registry/certificates/rest"
	coordinationrest "k8s.io/kubernetes/pkg/registry/coordination/rest"
	discoveryrest "k8s.io/kubernetes/pkg/registry/discovery/rest"
	eventsrest "k8s.io/kubernetes/pkg/registry/events/rest"
	networkingrest "k8s.io/kubernetes/pkg/registry/networking/rest"
	noderest "k8s.io/kubernetes/pkg/registry/node/rest"
	policyrest "k8s.io/kubernetes/pkg/registry/policy/rest"
	rbacrest "k8s.io/kubernetes/pkg/registry/rbac/rest"
	resourcerest "k8s.io/kubernetes/pkg/registry/resource/rest"
	schedulingrest "k8s.io/kubernetes/pkg/registry/scheduling/rest"
	storagerest "k8s.io/kubernetes/pkg/registry/storage/rest"

	"github.com/gantryhq/gantry/engine/apiserver/inproc"
)

// provider is upstream's way to set up the storage of one group.
type provider interface {
	NewRESTStorage(serverstorage.APIResourceConfigSource, generic.RESTOptionsGetter) (genericapiserver.APIGroupInfo, error)
}

// providers are the built-in groups beside core/v1 and apiextensions/v1, in the order in which
// discovery prefers them when two have a resource of the same name.
func providers(client kubernetes.Interface, who authenticator.Request, may authorizer.Authorizer, rules authorizer.RuleResolver) []provider {
	return []provider{
		authenticationrest.RESTStorageProvider{Authenticator: who, APIAudiences: authenticator.Audiences{tokenIssuer}},
		authorizationrest.RESTStorageProvider{Authorizer: may, RuleResolver: rules},
		autoscalingrest.RESTStorageProvider{},
		batchrest.RESTStorageProvider{},
		certificatesrest.RESTStorageProvider{Authorizer: may},
		coordinationrest.RESTStorageProvider{},
		discoveryrest.StorageProvider{},
		networkingrest.RESTStorageProvider{},
		noderest.RESTStorageProvider{},
		policyrest.RESTStorageProvider{},
		rbacrest.RESTStorageProvider{Authorizer: may},
		schedulingrest.RESTStorageProvider{},
		storagerest.RESTStorageProvider{},
		appsrest.StorageProvider{},
		admissionregistrationrest.RESTStorageProvider{Authorizer: may, DiscoveryClient: client.Discovery()},
		eventsrest.RESTStorageProvider{TTL: eventTTL},
		resourcerest.RESTStorageProvider{NamespaceClient: client.CoreV1().Namespaces(), Authorizer: may},
	}
}

// newAggregationScheme knows the kinds of apiregistration.k8s.io.
func newAggregationScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	aggregationinstall.Install(scheme)
	plain := schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(scheme, plain)
	scheme.AddUnversionedTypes(plain, &metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	return scheme
}

// newAggregationGroup is apiregistration.k8s.io/v1: the registrations of extension servers.
func newAggregationGroup(scheme *runtime.Scheme, codecs serializer.CodecFactory, opts generic.RESTOptionsGetter) *genericapiserver.APIGroupInfo {
	services := apiservicestore.NewREST(scheme, opts)
	info := genericapiserver.NewDefaultAPIGroupInfo(apiregistrationv1.GroupName, scheme, metav1.ParameterCodec, codecs)
	info.VersionedResourcesStorageMap["v1"] = map[string]rest.Storage{
		"apiservices":        services,
		"apiservices/status": apiservicestore.NewStatusREST(scheme, services),
	}
	return &info
}

// newCRDGroup is apiextensions.k8s.io/v1: the definitions of custom resources.
func newCRDGroup(opts generic.RESTOptionsGetter) (*genericapiserver.APIGroupInfo, error) {
	definitions, err := crdstore.NewREST(apiextensions.Scheme, opts)
	if err != nil {
		return nil, fmt.Errorf("set up customresourcedefinitions: %w", err)
	}
	definitions.CreateStrategy = ownDefinitions{definitions.CreateStrategy}
	info := genericapiserver.NewDefaultAPIGroupInfo(apiextensionsv1.GroupName, apiextensions.Scheme, metav1.ParameterCodec, apiextensions.Codecs)
	info.VersionedResourcesStorageMap["v1"] = map[string]rest.Storage{
		"customresourcedefinitions":        definitions,
		"customresourcedefinitions/status": crdstore.NewStatusREST(apiextensions.Scheme, definitions),
	}
	return &info, nil
}

// Installer is the identity of a component that creates what this program brings along.
const Installer = "system:gantry:installer"

// ownDefinitions takes the definitions that this program brings along for valid: its tests have
// validated them, and compiling their rules is a large part of what a first start does.
type ownDefinitions struct{ rest.RESTCreateStrategy }

// Validate implements rest.RESTCreateStrategy.
func (d ownDefinitions) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	if who, inProcess := inproc.UserFrom(ctx); inProcess && who.GetName() == Installer {
		return nil
	}
	return d.RESTCreateStrategy.Validate(ctx, obj)
}
