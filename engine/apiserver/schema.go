package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apimachinery/pkg/util/managedfields"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
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
	cfg := genericapiserver.DefaultOpenAPIV3Config(generated.GetOpenAPIDefinitions, openapinamer.NewDefinitionNamer(legacyscheme.Scheme, apiextensions.Scheme))
	cfg.Info.Title, cfg.Info.Version = "Kubernetes", kubernetesVersion().GitVersion
	return cfg
}

// crdConverter knows the schema of CustomResourceDefinitions, which the client library's schemas
// lack.
func crdConverter() managedfields.TypeConverter {
	name := openapiutil.GetCanonicalTypeName(&apiextensionsv1.CustomResourceDefinition{})
	schemas, err := builder3.BuildOpenAPIDefinitionsForResources(v3Config(), name)
	if err == nil {
		var converter managedfields.TypeConverter
		if converter, err = managedfields.NewTypeConverter(schemas, false); err == nil {
			return converter
		}
	}
	panic(fmt.Sprintf("the generated schema of %s is unusable: %v", name, err)) // a constant of this build
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
	cfg := genericapiserver.DefaultOpenAPIConfig(generated.GetOpenAPIDefinitions, openapinamer.NewDefinitionNamer(legacyscheme.Scheme, apiextensions.Scheme))
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
