package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/managedfields"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	apifilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	clientrest "k8s.io/client-go/rest"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	custominstall "k8s.io/metrics/pkg/apis/custom_metrics/install"
	"k8s.io/metrics/pkg/apis/external_metrics"
	externalinstall "k8s.io/metrics/pkg/apis/external_metrics/install"
	"k8s.io/metrics/pkg/apis/metrics"
	"k8s.io/metrics/pkg/apis/metrics/install"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver/installer"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"
	customstorage "sigs.k8s.io/custom-metrics-apiserver/pkg/registry/custom_metrics"
	externalstorage "sigs.k8s.io/custom-metrics-apiserver/pkg/registry/external_metrics"

	"github.com/gantryhq/gantry/internal/demand"
)

// Server is the extension API server: a handler for what the API server sends on.
type Server struct {
	cfg      Config
	gateways *demand.Follower // or nil
	requests *requests
	handler  http.Handler
}

// New sets the server up.
func New(cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	client, pods, err := clients(cfg.Client)
	if err != nil {
		return nil, fmt.Errorf("start metrics: %w", err)
	}
	s := &Server{cfg: cfg}
	if cfg.Gateways != "" {
		if s.gateways, err = demand.NewFollower(cfg.Gateways, cfg.Log); err != nil {
			return nil, err
		}
	}
	s.requests = newRequests(s.gateways, client)
	read := &reader{client: client, now: time.Now}
	table := rest.NewDefaultTableConvertor
	container, err := newContainer(map[string]rest.Storage{
		"nodes": &nodeMetrics{TableConvertor: table(metrics.Resource("nodes")), client: client, reader: read},
		"pods":  &podMetrics{TableConvertor: table(metrics.Resource("pods")), pods: pods, reader: read},
	}, s.requests)
	if err != nil {
		return nil, fmt.Errorf("start metrics: %w", err)
	}
	s.handler = withContext(container)
	return s, nil
}

// ServeHTTP answers requests that are authorized.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Run follows the gateways until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	if s.gateways == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	go s.requests.run(ctx)
	s.gateways.Run(ctx)
	return ctx.Err()
}

func clients(cfg *clientrest.Config) (kubernetes.Interface, metadata.Interface, error) {
	cfg = clientrest.CopyConfig(cfg)
	cfg.UserAgent = "gantry-metrics"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, nil, err
	}
	pods, err := metadata.NewForConfig(metadata.ConfigFor(cfg))
	return client, pods, err
}

// newScheme knows the kinds of all three APIs.
func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	custominstall.Install(scheme)
	externalinstall.Install(scheme)
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	scheme.AddUnversionedTypes(schema.GroupVersion{Version: "v1"},
		&metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	utilruntime.Must(installer.RegisterConversions(scheme)) // constants of this build
	return scheme
}

// newContainer serves the APIs with upstream's handlers.
func newContainer(resources map[string]rest.Storage, seen provider.MetricsProvider) (*restful.Container, error) {
	scheme := newScheme()
	codecs := serializer.NewCodecFactory(scheme)
	container := restful.NewContainer()
	container.Router(restful.CurlyRouter{})
	version := func(gv schema.GroupVersion) *genericapi.APIGroupVersion {
		return &genericapi.APIGroupVersion{
			Root: "/apis", GroupVersion: gv,
			Serializer: codecs, ParameterCodec: runtime.NewParameterCodec(scheme),
			Typer: scheme, Creater: scheme, Convertor: scheme, ConvertabilityChecker: scheme,
			UnsafeConvertor: runtime.UnsafeObjectConvertor(scheme), Defaulter: scheme,
			Namer: runtime.Namer(meta.NewAccessor()), EquivalentResourceRegistry: runtime.NewEquivalentResourceRegistry(),
			MinRequestTimeout: time.Minute,
			TypeConverter:     managedfields.NewDeducedTypeConverter(), // nothing is written here
		}
	}
	core := version(v1beta1.SchemeGroupVersion)
	core.Storage = resources
	if _, _, err := core.InstallREST(container); err != nil {
		return nil, fmt.Errorf("serve %s: %w", core.GroupVersion, err)
	}
	addGroup(container, codecs, core.GroupVersion)
	documented := []schema.GroupVersion{core.GroupVersion}
	for _, group := range []struct {
		name  string
		serve installer.MetricsAPIGroupVersion
	}{
		{custom_metrics.GroupName, installer.MetricsAPIGroupVersion{
			DynamicStorage: customstorage.NewREST(seen), ResourceLister: provider.NewCustomMetricResourceLister(seen), Handlers: &installer.CMHandlers{},
		}},
		{external_metrics.GroupName, installer.MetricsAPIGroupVersion{
			DynamicStorage: externalstorage.NewREST(seen), ResourceLister: provider.NewExternalMetricResourceLister(seen), Handlers: &installer.EMHandlers{},
		}},
	} {
		versions := scheme.PrioritizedVersionsForGroup(group.name)
		for _, gv := range versions {
			served := group.serve
			served.APIGroupVersion = version(gv)
			if err := served.InstallREST(container); err != nil {
				return nil, fmt.Errorf("serve %s: %w", gv, err)
			}
		}
		addGroup(container, codecs, versions...)
		documented = append(documented, versions...)
	}
	documents{container, scheme, documented}.install()
	return container, nil
}

// addGroup serves /apis/<group>.
func addGroup(container *restful.Container, codecs serializer.CodecFactory, versions ...schema.GroupVersion) {
	group := metav1.APIGroup{Name: versions[0].Group}
	for _, gv := range versions {
		group.Versions = append(group.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
	}
	group.PreferredVersion = group.Versions[0]
	container.Add(discovery.NewAPIGroupHandler(codecs, group).WebService())
}

// withContext adds what upstream's handlers expect of a request.
func withContext(container *restful.Container) http.Handler {
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" || r.URL.Path == "/livez" {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode("ok")
			return
		}
		container.ServeHTTP(w, r)
	})
	h = apifilters.WithRequestInfo(h, &request.RequestInfoFactory{
		APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api"),
	})
	h = apifilters.WithWarningRecorder(h)
	return apifilters.WithAuditInit(h)
}
