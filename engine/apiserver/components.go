package apiserver

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/audit"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"github.com/gantryhq/gantry/engine/apiserver/inproc"
	"github.com/gantryhq/gantry/engine/apiserver/objects"
)

// access is what of a resource this process's components use without detours.
type access int

const (
	// reads are answered with objects instead of bytes, watches by the storage itself.
	reads access = iota + 1
	// untrackedWrites are, besides, not recorded in managedFields, which would take a third of
	// their CPU time: components write these often and nobody applies them. Objects without a
	// record behave as upstream's do: the record begins with the first server-side apply.
	untrackedWrites
)

// componentAccess lists what components read and write all the time. Everything else they use
// as clients on the network do. No resource may be here whose registry decorates what it reads:
// watches would miss that.
var componentAccess = map[schema.GroupVersion]map[string]access{
	corev1.SchemeGroupVersion: {
		"pods": untrackedWrites, "pods/status": untrackedWrites, "pods/binding": untrackedWrites,
		"nodes": untrackedWrites, "nodes/status": untrackedWrites, "endpoints": untrackedWrites, "events": untrackedWrites,
		"configmaps": reads, "serviceaccounts/token": untrackedWrites,
	},
	appsv1.SchemeGroupVersion: {
		"replicasets": untrackedWrites, "replicasets/status": untrackedWrites, "deployments": reads, "deployments/status": untrackedWrites,
		"statefulsets": reads, "statefulsets/status": untrackedWrites, "daemonsets": reads, "daemonsets/status": untrackedWrites,
	},
	batchv1.SchemeGroupVersion:        {"jobs": reads},
	coordinationv1.SchemeGroupVersion: {"leases": untrackedWrites},
	discoveryv1.SchemeGroupVersion:    {"endpointslices": untrackedWrites},
	eventsv1.SchemeGroupVersion:       {"events": untrackedWrites},
}

// componentCall is what one handler answers.
type componentCall struct {
	version               schema.GroupVersion
	resource, subresource string
	verb                  string // as in request.RequestInfo
}

// componentCalls are upstream's handlers for componentAccess without what surrounds them for
// clients on the network: routing by path pattern, request metrics, field management.
type componentCalls map[componentCall]http.Handler

// newComponentSerializer speaks, besides what clients on the network may, inproc.MediaType.
func newComponentSerializer() serializer.CodecFactory {
	return serializer.NewCodecFactory(legacyscheme.Scheme, serializer.WithSerializer(inproc.SerializerInfo))
}

// add installs the handlers of one version's resources.
func (c componentCalls) add(version *genericapi.APIGroupVersion, codecs runtime.NegotiatedSerializer) error {
	for resource, use := range componentAccess[version.GroupVersion] {
		storage := version.Storage[resource]
		scope, err := componentScope(version, resource, storage, codecs)
		if err != nil {
			return fmt.Errorf("serve %s to components: %w", resource, err)
		}
		name, subresource, _ := strings.Cut(resource, "/")
		on := func(verb string, h http.HandlerFunc) {
			c[componentCall{version.GroupVersion, name, subresource, verb}] = h
		}
		addReads(on, version, scope, storage)
		if use == untrackedWrites {
			addWrites(on, version, scope, storage)
		}
	}
	return nil
}

func addReads(on func(string, http.HandlerFunc), version *genericapi.APIGroupVersion, scope *handlers.RequestScope, storage rest.Storage) {
	if s, ok := storage.(rest.Getter); ok {
		p := newPlain(version, scope, storage, handlers.GetResource(s, scope))
		on("get", p.answer(http.StatusOK, (*plainCall).get))
	}
	lister, lists := storage.(rest.Lister)
	watcher, watches := storage.(rest.Watcher)
	if lists && watches && scope.Subresource == "" {
		h := handlers.ListResource(lister, watcher, scope, false, minWatch)
		on("list", h)
		on("watch", direct(h, scope.Kind.GroupVersion()))
	}
}

// addWrites makes upstream's handlers anew for each request, as upstream does: they keep what
// they add to the admission plugins.
func addWrites(on func(string, http.HandlerFunc), version *genericapi.APIGroupVersion, scope *handlers.RequestScope, storage rest.Storage) {
	var create http.HandlerFunc
	if s, ok := storage.(rest.NamedCreater); ok {
		create = func(w http.ResponseWriter, r *http.Request) {
			handlers.CreateNamedResource(s, scope, version.Admit)(w, r)
		}
	} else if s, ok := storage.(rest.Creater); ok {
		create = func(w http.ResponseWriter, r *http.Request) { handlers.CreateResource(s, scope, version.Admit)(w, r) }
	}
	if create != nil {
		on("create", newPlain(version, scope, storage, create).answer(http.StatusCreated, (*plainCall).create))
	}
	if s, ok := storage.(rest.Updater); ok {
		p := newPlain(version, scope, storage, func(w http.ResponseWriter, r *http.Request) { handlers.UpdateResource(s, scope, version.Admit)(w, r) })
		on("update", p.answer(http.StatusOK, (*plainCall).update))
	}
	if s, ok := storage.(rest.Patcher); ok {
		kinds := []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType)}
		on("patch", func(w http.ResponseWriter, r *http.Request) {
			handlers.PatchResource(s, scope, version.Admit, kinds)(w, r)
		})
	}
	if s, ok := storage.(rest.GracefulDeleter); ok && scope.Subresource == "" {
		p := newPlain(version, scope, storage, func(w http.ResponseWriter, r *http.Request) {
			handlers.DeleteResource(s, true, scope, version.Admit)(w, r)
		})
		on("delete", p.answer(http.StatusOK, (*plainCall).remove))
	}
}

// direct lets the storage send the events of a watch itself.
func direct(h http.Handler, version schema.GroupVersion) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if takesObjects(r) {
			if send := inproc.SenderFrom(r.Context()); send != nil {
				r = r.WithContext(objects.WithDirect(r.Context(), &objects.Direct{
					Version: version, Convert: objectVersions{}, Send: send,
				}))
			}
		}
		h.ServeHTTP(w, r)
	}
}

// takesObjects tells whether a request's answer will be in inproc.MediaType.
func takesObjects(r *http.Request) bool {
	first, _, _ := strings.Cut(r.Header.Get("Accept"), ",")
	return first == inproc.MediaType
}

// componentScope is what upstream's installer makes for a resource.
func componentScope(version *genericapi.APIGroupVersion, resource string, storage rest.Storage, codecs runtime.NegotiatedSerializer) (*handlers.RequestScope, error) {
	kind, err := genericapi.GetResourceKind(version.GroupVersion, storage, version.Typer)
	if err != nil {
		return nil, err
	}
	name, subresource, _ := strings.Cut(resource, "/")
	table, ok := storage.(rest.TableConvertor)
	if !ok {
		table = rest.NewDefaultTableConvertor(version.GroupVersion.WithResource(name).GroupResource())
	}
	accepts, _ := storage.(rest.GroupVersionAcceptor)
	namespaced := true
	if s, ok := version.Storage[name].(rest.Scoper); ok {
		namespaced = s.NamespaceScoped()
	}
	scope := &handlers.RequestScope{
		Namer:                       handlers.ContextBasedNaming{Namer: runtime.Namer(meta.NewAccessor()), ClusterScoped: !namespaced},
		Serializer:                  codecs,
		ParameterCodec:              version.ParameterCodec,
		Creater:                     knownCreater{version.Creater},
		Convertor:                   version.Convertor,
		Defaulter:                   version.Defaulter,
		Typer:                       version.Typer,
		UnsafeConvertor:             version.UnsafeConvertor,
		Authorizer:                  version.Authorizer,
		EquivalentResourceMapper:    version.EquivalentResourceRegistry,
		TableConvertor:              table,
		Resource:                    version.GroupVersion.WithResource(name),
		Subresource:                 subresource,
		Kind:                        kind,
		AcceptsGroupVersionDelegate: accepts,
		HubGroupVersion:             schema.GroupVersion{Group: kind.Group, Version: runtime.APIVersionInternal},
		MetaGroupVersion:            metav1.SchemeGroupVersion,
		MaxRequestBodyBytes:         version.MaxRequestBodyBytes,
	}
	scope.FieldManager, err = managedfields.NewDefaultFieldManager(version.TypeConverter, version.UnsafeConvertor,
		version.Defaulter, scope.Creater, kind, scope.HubGroupVersion, subresource, nil)
	return scope, err
}

// find answers the handler of a component's request and what must be said in its context, or
// nil when it goes the way of all others.
func (c componentCalls) find(r *http.Request, info *request.RequestInfo) http.Handler {
	if !info.IsResourceRequest || strings.HasPrefix(info.Path, "/"+info.APIPrefix+"/watch/") {
		return nil
	}
	if info.Verb == "patch" && r.Header.Get("Content-Type") == string(types.ApplyYAMLPatchType) {
		return nil
	}
	return c[componentCall{schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}, info.Resource, info.Subresource, info.Verb}]
}

// components answers requests of this process's components: those of componentAccess directly,
// all others, those that are refused and those in the name of a user's service account by way of general.
func (s *Server) components(general http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		who, known := inproc.UserFrom(ctx)
		info, err := requestInfo.NewRequestInfo(r)
		if !known || err != nil || isSomebodys(who) || r.Header.Get(authenticationv1.ImpersonateUserHeader) != "" {
			general.ServeHTTP(w, r)
			return
		}
		h := s.groups.calls.find(r, info)
		if h == nil || !s.grants.allow(ctx, who, info) {
			general.ServeHTTP(w, r)
			return
		}
		ctx = request.WithUser(request.WithRequestInfo(audit.WithAuditContext(ctx), info), who)
		if r.Method != http.MethodGet {
			ctx = objects.Untracked(ctx)
		}
		if info.Verb == "watch" { // upstream measures how long its first events take
			ctx = request.WithReceivedTimestamp(ctx, time.Now())
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// knownCreater makes field management take every object for an old one without a record, which
// it leaves alone. Only server-side apply depends on the difference, and never comes this way.
type knownCreater struct{ runtime.ObjectCreater }

// New implements runtime.ObjectCreater.
func (c knownCreater) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	obj, err := c.ObjectCreater.New(kind)
	if err == nil {
		if o, err := meta.Accessor(obj); err == nil {
			o.SetUID("unrecorded")
		}
	}
	return obj, err
}

// objectVersions converts without copying what need not be copied.
type objectVersions struct{}

// ConvertToVersion implements objects.Converter.
func (objectVersions) ConvertToVersion(in runtime.Object, version runtime.GroupVersioner) (runtime.Object, error) {
	return legacyscheme.Scheme.UnsafeConvertToVersion(in, version)
}
