package metrics

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	generated "k8s.io/kubernetes/pkg/generated/openapi"
)

// documents serves the OpenAPI documents of some group versions: one for each (v3), and one for
// all (v2), which an API server merges with its own. They are made when asked for, because that
// takes megabytes.
type documents struct {
	container *restful.Container
	scheme    *runtime.Scheme
	versions  []schema.GroupVersion
}

func (d documents) install() {
	d.container.Handle("/openapi/v3", http.HandlerFunc(d.index))
	d.container.Handle("/openapi/v3/", http.HandlerFunc(d.serve))
	d.container.Handle("/openapi/v2", http.HandlerFunc(d.serveV2))
}

const documentTitle = "Gantry metrics"

func (d documents) serveV2(w http.ResponseWriter, r *http.Request) {
	config := genericapiserver.DefaultOpenAPIConfig(generated.GetOpenAPIDefinitions, openapinamer.NewDefinitionNamer(d.scheme))
	config.Info.Title, config.Info.Version = documentTitle, "v1"
	doc, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(d.container.RegisteredWebServices()), config)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	var one onePath
	handler.NewOpenAPIService(doc).RegisterOpenAPIVersionedService(r.URL.Path, &one)
	one.ServeHTTP(w, r)
}

// onePath is where upstream's service registers its handler.
type onePath struct{ http.Handler }

func (p *onePath) Handle(_ string, h http.Handler) { p.Handler = h }

func (d documents) index(w http.ResponseWriter, _ *http.Request) {
	list := handler3.OpenAPIV3Discovery{Paths: map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}}
	for _, gv := range d.versions {
		// The documents change with upstream's types only.
		hash := fmt.Sprintf("%X", sha256.Sum256([]byte("k8s.io/metrics v0.36 "+gv.String())))
		list.Paths["apis/"+gv.String()] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: "/openapi/v3/apis/" + gv.String() + "?hash=" + hash}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list) // the client is gone when this fails
}

func (d documents) serve(w http.ResponseWriter, r *http.Request) {
	root := strings.TrimPrefix(r.URL.Path, "/openapi/v3/")
	for _, ws := range d.container.RegisteredWebServices() {
		if ws.RootPath() != "/"+root || strings.Count(root, "/") != 2 {
			continue
		}
		config := genericapiserver.DefaultOpenAPIV3Config(generated.GetOpenAPIDefinitions, openapinamer.NewDefinitionNamer(d.scheme))
		config.Info.Title, config.Info.Version = documentTitle, "v1"
		doc, err := builder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices([]*restful.WebService{ws}), config)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		one := handler3.NewOpenAPIService()
		one.UpdateGroupVersion(root, doc)
		in := r.Clone(r.Context())
		in.URL.RawQuery = "" // the service would insist on a hash of its own
		one.HandleGroupVersion(w, in)
		return
	}
	http.NotFound(w, r)
}
