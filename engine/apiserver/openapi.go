package apiserver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	apiextensionshelpers "k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
)

// documentLifetime is how long a generated document is kept for the next who asks. Documents
// are big and asked for in bursts; an idle server holds none.
const documentLifetime = 30 * time.Second

// openAPI serves the OpenAPI documents. They are made when asked for; what changes with them is
// known without making them, so that clients can cache.
type openAPI struct {
	groups *apiGroups
	crds   *customResources
	others *aggregator

	mu   sync.Mutex              // guards following
	kept map[string]http.Handler // by path and hash
}

func newOpenAPI(g *apiGroups, crds *customResources, others *aggregator) *openAPI {
	return &openAPI{groups: g, crds: crds, others: others, kept: map[string]http.Handler{}}
}

func (o *openAPI) install(m *mux.PathRecorderMux) {
	m.HandleFunc("/openapi/v3", o.index)
	m.HandlePrefix("/openapi/v3/", http.HandlerFunc(o.document))
	m.HandleFunc("/openapi/v2", o.v2)
}

// hashes answers a hash of every group version's document.
func (o *openAPI) hashes() map[schema.GroupVersion]string {
	hashes := map[schema.GroupVersion]string{}
	for gv := range o.groups.served {
		hashes[gv] = hash(kubernetesVersion().GitVersion, gv.String())
	}
	for gv, kinds := range o.customKinds() {
		parts := make([]string, 0, len(kinds))
		for _, crd := range kinds {
			parts = append(parts, fmt.Sprintf("%s %d", crd.UID, crd.Generation))
		}
		slices.Sort(parts)
		hashes[gv] = hash(parts...)
	}
	return hashes
}

func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// customKinds answers the served definitions by group version.
func (o *openAPI) customKinds() map[schema.GroupVersion][]*apiextensionsv1.CustomResourceDefinition {
	kinds := map[schema.GroupVersion][]*apiextensionsv1.CustomResourceDefinition{}
	all, err := o.crds.informer.Lister().List(labels.Everything())
	if err != nil {
		return kinds // a lister of an informer cannot fail
	}
	for _, crd := range all {
		if !apiextensionshelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if v.Served {
				gv := schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}
				kinds[gv] = append(kinds[gv], crd)
			}
		}
	}
	return kinds
}

// index answers which documents there are.
func (o *openAPI) index(w http.ResponseWriter, _ *http.Request) {
	list := handler3.OpenAPIV3Discovery{Paths: map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}}
	hashes := o.hashes()
	maps.Copy(hashes, o.others.documents())
	for gv, h := range hashes {
		list.Paths[rootOf(gv)] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: "/openapi/v3/" + rootOf(gv) + "?hash=" + h}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list)
}

func rootOf(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.Group + "/" + gv.Version
}

// document answers the document of one group version.
func (o *openAPI) document(w http.ResponseWriter, r *http.Request) {
	root := strings.TrimPrefix(r.URL.Path, "/openapi/v3/")
	if gv, err := schema.ParseGroupVersion(strings.TrimPrefix(root, "apis/")); err == nil {
		if h := o.others.document(gv); h != nil {
			h.ServeHTTP(w, r)
			return
		}
	}
	for gv, h := range o.hashes() {
		if rootOf(gv) != root {
			continue
		}
		handler, err := o.keep(root+h, func() (http.Handler, error) {
			doc, err := o.build(gv)
			if err != nil {
				return nil, err
			}
			one := handler3.NewOpenAPIService()
			one.UpdateGroupVersion(root, doc)
			return http.HandlerFunc(one.HandleGroupVersion), nil
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if r.URL.Query().Get("hash") == h {
			w.Header().Set("Cache-Control", "public, immutable")
			w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).Format(http.TimeFormat))
		}
		in := r.Clone(r.Context())
		in.URL.RawQuery = "" // the service would insist on a hash of its own
		handler.ServeHTTP(w, in)
		return
	}
	http.NotFound(w, r)
}

// build makes the document of one group version.
func (o *openAPI) build(gv schema.GroupVersion) (*spec3.OpenAPI, error) {
	if o.groups.served[gv] != nil {
		for _, ws := range o.groups.container.RegisteredWebServices() {
			if ws.RootPath() == "/"+rootOf(gv) {
				return builder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices([]*restful.WebService{ws}), v3Config())
			}
		}
		return nil, fmt.Errorf("build OpenAPI document of %s: nothing is served there", gv)
	}
	var docs []*spec3.OpenAPI
	for _, crd := range o.customKinds()[gv] {
		doc, err := builder.BuildOpenAPIV3(crd, gv.Version, builder.Options{IncludeSelectableFields: true})
		if err != nil {
			return nil, fmt.Errorf("build OpenAPI document of %s: %w", crd.Name, err)
		}
		docs = append(docs, doc)
	}
	return builder.MergeSpecsV3(docs...)
}

// keep answers what is kept under a key, or makes it and keeps it for a while.
func (o *openAPI) keep(key string, make func() (http.Handler, error)) (http.Handler, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if h, ok := o.kept[key]; ok {
		return h, nil
	}
	h, err := make()
	if err != nil {
		return nil, err
	}
	o.kept[key] = h
	time.AfterFunc(documentLifetime, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.kept, key)
	})
	return h, nil
}
