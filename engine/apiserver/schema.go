package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	aggregation "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	builder2 "k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
	openapiutil "k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	generated "k8s.io/kubernetes/pkg/generated/openapi"
)

func v3Config() *common.OpenAPIV3Config {
	cfg := genericapiserver.DefaultOpenAPIV3Config(generated.GetOpenAPIDefinitions, openapinamer.NewDefinitionNamer(legacyscheme.Scheme, apiextensions.Scheme, aggregation.Scheme))
	cfg.Info.Title, cfg.Info.Version = "Kubernetes", kubernetesVersion().GitVersion
	return cfg
}

// newConverter gives server-side apply the schemas of what a group's versions serve.
func newConverter(scheme *runtime.Scheme, served map[schema.GroupVersion]map[string]rest.Storage) managedfields.TypeConverter {
	var names []string
	for gv, resources := range served {
		for _, storage := range resources {
			kind, err := genericapi.GetResourceKind(gv, storage, scheme)
			if err != nil {
				continue // of another scheme
			}
			if sample, err := scheme.New(kind); err == nil {
				names = append(names, openapiutil.GetCanonicalTypeName(sample))
			}
		}
	}
	schemas, err := builder3.BuildOpenAPIDefinitionsForResources(v3Config(), names...)
	if err == nil {
		var converter managedfields.TypeConverter
		if converter, err = managedfields.NewTypeConverter(schemas, false); err == nil {
			return converter
		}
	}
	panic(fmt.Sprintf("the generated schemas are unusable: %v", err)) // constants of this build
}

// pathHandler takes what the upstream service wants to register.
type pathHandler struct{ http.Handler }

// Handle implements common.PathHandler.
func (p *pathHandler) Handle(_ string, h http.Handler) { p.Handler = h }

// v2 answers the one big document of OpenAPI v2, for clients that know no other.
func (o *openAPI) v2(w http.ResponseWriter, r *http.Request) {
	var parts []string
	for gv, h := range o.hashes() {
		parts = append(parts, rootOf(gv)+h)
	}
	slices.Sort(parts)
	h, err := o.keep("v2"+strings.Join(parts, ""), func() (http.Handler, error) {
		doc, err := o.buildV2()
		if err != nil {
			return nil, err
		}
		var p pathHandler
		handler.NewOpenAPIService(doc).RegisterOpenAPIVersionedService(r.URL.Path, &p)
		return p.Handler, nil
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h.ServeHTTP(w, r)
}

func (o *openAPI) buildV2() (*spec.Swagger, error) {
	cfg := genericapiserver.DefaultOpenAPIConfig(generated.GetOpenAPIDefinitions, openapinamer.NewDefinitionNamer(legacyscheme.Scheme, apiextensions.Scheme, aggregation.Scheme))
	cfg.Info.Title, cfg.Info.Version = "Kubernetes", kubernetesVersion().GitVersion
	doc, err := builder2.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(o.groups.container.RegisteredWebServices()), cfg)
	if err != nil {
		return nil, fmt.Errorf("build OpenAPI v2 document: %w", err)
	}
	doc.Definitions = handler.PruneDefaults(doc.Definitions)
	var custom []*spec.Swagger
	for gv, kinds := range o.customKinds() {
		for _, crd := range kinds {
			one, err := builder.BuildOpenAPIV2(crd, gv.Version, builder.Options{V2: true})
			if err != nil {
				return nil, fmt.Errorf("build OpenAPI v2 document of %s: %w", crd.Name, err)
			}
			custom = append(custom, one)
		}
	}
	return builder.MergeSpecs(doc, custom...)
}
