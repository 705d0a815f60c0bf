package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/request"
	proxyutil "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	aggregatorinformers "k8s.io/kube-aggregator/pkg/client/informers/externalversions"
	aggregatorlisters "k8s.io/kube-aggregator/pkg/client/listers/apiregistration/v1"
	"k8s.io/kube-openapi/pkg/handler3"

	"github.com/gantryhq/gantry/engine/apiserver/inproc"
)

const (
	// frontProxy is whom extension servers know this server as, by its certificate.
	frontProxy = "gantry-front-proxy"
	// aggregatorUser asks extension servers what they serve, as upstream's aggregator does.
	aggregatorUser = "system:kube-aggregator"
	// extensionPeriod is how often an extension server on the network is looked at.
	extensionPeriod = 30 * time.Second
	// extensionTimeout is how long it may take to say what it serves.
	extensionTimeout = 5 * time.Second
)

// aggregator serves the group versions that other servers implement: those of APIServices with
// a Service, as upstream's kube-aggregator, whose registry, types and clients it uses. Its proxy
// and controllers need upstream's server, and an informer for each kind they ask for.
//
// The Service of an APIService may also be answered in this process ([Server.ServeExtension]):
// registration, discovery and authorization are the same, only no connection is made.
type aggregator struct {
	s          *Server
	client     aggregatorclient.Interface
	informers  aggregatorinformers.SharedInformerFactory
	registered aggregatorlisters.APIServiceLister
	changed    chan struct{}

	mu         sync.RWMutex // guards following
	local      map[types.NamespacedName]http.Handler
	extensions map[schema.GroupVersion]*extension
	groups     map[string]http.Handler // /apis/<group>
}

// extension is one group version that another server implements. It is not changed once it
// is served.
type extension struct {
	service   *apiregistrationv1.APIService
	handler   http.Handler // everything under /apis/<group>/<version>
	transport http.RoundTripper
	local     bool
	renew     time.Time // of the certificate that transport has
	problem   string    // why it cannot be used, or ""
	resources []apidiscoveryv2.APIResourceDiscovery
	document  string // hash of its OpenAPI document, or ""
}

func (s *Server) newAggregator() (*aggregator, error) {
	client, err := aggregatorclient.NewForConfig(s.ownConfig())
	if err != nil {
		return nil, fmt.Errorf("set up aggregation: %w", err)
	}
	a := &aggregator{
		s: s, client: client, informers: aggregatorinformers.NewSharedInformerFactory(client, 0), changed: make(chan struct{}, 1),
		local: map[types.NamespacedName]http.Handler{}, extensions: map[schema.GroupVersion]*extension{}, groups: map[string]http.Handler{},
	}
	services := a.informers.Apiregistration().V1().APIServices()
	a.registered = services.Lister()
	touch := func() {
		select {
		case a.changed <- struct{}{}:
		default:
		}
	}
	_, err = services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { touch() }, DeleteFunc: func(any) { touch() },
		UpdateFunc: func(old, now any) {
			if old.(*apiregistrationv1.APIService).Generation != now.(*apiregistrationv1.APIService).Generation || !sameService(old, now) {
				touch()
			}
		},
	})
	return a, err
}

// sameService compares what counts of two states of an APIService, which upstream gives no
// generation.
func sameService(a, b any) bool {
	left, _ := json.Marshal(a.(*apiregistrationv1.APIService).Spec) // plain data
	right, _ := json.Marshal(b.(*apiregistrationv1.APIService).Spec)
	return string(left) == string(right)
}

// ServeExtension answers for a Service that APIServices or admission webhooks name, in this process:
// h gets the requests as the Service's endpoints would; those of an APIService are authorized and
// have the user in X-Remote headers.
func (s *Server) ServeExtension(namespace, name string, h http.Handler) {
	a := s.extensions
	a.mu.Lock()
	a.local[types.NamespacedName{Namespace: namespace, Name: name}] = h
	a.mu.Unlock()
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// answering is what answers for a Service in this process, or nil.
func (a *aggregator) answering(namespace, name string) http.Handler {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.local[types.NamespacedName{Namespace: namespace, Name: name}]
}

// run follows the registrations until ctx ends.
func (a *aggregator) run(ctx context.Context) {
	a.informers.Start(ctx.Done())
	a.informers.WaitForCacheSync(ctx.Done())
	for {
		next := a.sync(ctx)
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-a.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// sync looks at all registrations, publishes what works, and says what does not. It returns when
// to look again.
func (a *aggregator) sync(ctx context.Context) time.Duration {
	all, err := a.registered.List(labels.Everything())
	if err != nil {
		return extensionPeriod // a lister of an informer cannot fail
	}
	var asking errgroup.Group
	var mu sync.Mutex // guards found
	found := map[schema.GroupVersion]*extension{}
	next := 10 * time.Minute
	for _, service := range all {
		if service.Spec.Service == nil {
			continue // served by ourselves, says who registers it
		}
		asking.Go(func() error {
			e := a.look(ctx, service)
			a.report(ctx, e)
			mu.Lock()
			defer mu.Unlock()
			found[schema.GroupVersion{Group: service.Spec.Group, Version: service.Spec.Version}] = e
			switch {
			case e.problem != "":
				next = min(next, extensionPeriod/10)
			case !e.local:
				next = min(next, extensionPeriod)
			}
			return nil
		})
	}
	_ = asking.Wait() // none fails: what is wrong is part of the result
	if ctx.Err() == nil {
		a.publish(found)
	}
	return next
}

// look asks an extension server what it serves.
func (a *aggregator) look(ctx context.Context, service *apiregistrationv1.APIService) *extension {
	e := &extension{service: service}
	if local := a.answering(service.Spec.Service.Namespace, service.Spec.Service.Name); local != nil {
		e.local = true
		e.transport = inproc.New(local, &user.DefaultInfo{Name: aggregatorUser})
		e.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serveLocally(local, w, r) })
	} else if err := a.connect(e); err != nil {
		e.problem = err.Error()
		return e
	}
	ctx, cancel := context.WithTimeout(ctx, extensionTimeout)
	defer cancel()
	path := "/apis/" + service.Spec.Group + "/" + service.Spec.Version
	var list metav1.APIResourceList
	if err := a.ask(ctx, e, path, &list); err != nil {
		e.problem = fmt.Sprintf("ask for %s: %v", path, err)
		return e
	}
	var err error
	if e.resources, err = genericapi.ConvertGroupVersionIntoToDiscovery(list.APIResources); err != nil {
		e.problem = fmt.Sprintf("read what it serves under %s: %v", path, err)
		return e
	}
	var documents handler3.OpenAPIV3Discovery
	if a.ask(ctx, e, "/openapi/v3", &documents) == nil { // not every server has documents
		if at, err := url.Parse(documents.Paths[strings.TrimPrefix(path, "/")].ServerRelativeURL); err == nil {
			e.document = at.Query().Get("hash")
		}
	}
	return e
}

// ask reads a JSON document from an extension server.
func (a *aggregator) ask(ctx context.Context, e *extension, path string, into any) error {
	at, err := a.location(e, &url.URL{Path: path})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "application/json")
	transport.SetAuthProxyHeaders(r, aggregatorUser, "", []string{user.SystemPrivilegedGroup, user.AllAuthenticated}, nil)
	response, err := e.transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", response.Status)
	}
	return json.NewDecoder(io.LimitReader(response.Body, maxRequestBody)).Decode(into)
}

// location is where an extension server serves a path.
func (a *aggregator) location(e *extension, at *url.URL) (*url.URL, error) {
	to := &url.URL{Scheme: "https", Host: "extension.internal", Path: at.Path, RawQuery: at.Query().Encode()}
	if e.local {
		return to, nil
	}
	service := e.service.Spec.Service
	port := int32(443)
	if service.Port != nil {
		port = *service.Port
	}
	resolved, err := serviceResolver{a.s.core.services}.ResolveEndpoint(service.Namespace, service.Name, port)
	if err != nil {
		return nil, err
	}
	to.Host = resolved.Host
	return to, nil
}

// connect prepares the way to an extension server on the network.
func (a *aggregator) connect(e *extension) error {
	e.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.forward(e, w, r) })
	gv := schema.GroupVersion{Group: e.service.Spec.Group, Version: e.service.Spec.Version}
	a.mu.RLock()
	before := a.extensions[gv]
	a.mu.RUnlock()
	if before != nil && before.transport != nil && !before.local && sameService(before.service, e.service) && time.Now().Before(before.renew) {
		e.transport, e.renew = before.transport, before.renew
		return nil
	}
	cert, key, renew, err := a.s.ca.ClientCertificate(frontProxy, nil)
	if err != nil {
		return err
	}
	e.renew = renew
	spec := &e.service.Spec
	config := &transport.Config{TLS: transport.TLSConfig{
		Insecure: spec.InsecureSkipTLSVerify, ServerName: spec.Service.Name + "." + spec.Service.Namespace + ".svc",
		CertData: cert, KeyData: key, CAData: spec.CABundle,
	}}
	e.transport, err = transport.New(config)
	return err
}

// forward sends a request to an extension server on the network.
func (a *aggregator) forward(e *extension, w http.ResponseWriter, r *http.Request) {
	who, ok := request.UserFrom(r.Context())
	if !ok {
		http.Error(w, "missing user", http.StatusInternalServerError)
		return
	}
	to, err := a.location(e, r.URL)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	out, cancel := proxyutil.NewRequestForProxy(to, r)
	defer cancel()
	upgrade := r.Header.Get("Upgrade") != ""
	if upgrade { // goes past the transport
		transport.SetAuthProxyHeaders(out, who.GetName(), "", who.GetGroups(), who.GetExtra())
	}
	h := proxy.NewUpgradeAwareHandler(to, transport.NewAuthProxyRoundTripper(who.GetName(), "", who.GetGroups(), who.GetExtra(), e.transport),
		true, upgrade, refusal{})
	h.RejectForwardingRedirects = true
	h.ServeHTTP(w, out)
}

// refusal answers when the way to an extension server is broken.
type refusal struct{}

// Error implements proxy.ErrorResponder.
func (refusal) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
}

// serveLocally answers a request by a handler of this process.
func serveLocally(h http.Handler, w http.ResponseWriter, r *http.Request) {
	who, ok := request.UserFrom(r.Context())
	if !ok {
		http.Error(w, "missing user", http.StatusInternalServerError)
		return
	}
	in := r.Clone(r.Context())
	transport.SetAuthProxyHeaders(in, who.GetName(), "", who.GetGroups(), who.GetExtra())
	h.ServeHTTP(w, in)
}

// report writes the condition Available of a registration when it has changed.
func (a *aggregator) report(ctx context.Context, e *extension) {
	condition := apiregistrationv1.APIServiceCondition{
		Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, Reason: "Passed", Message: "all checks passed",
		LastTransitionTime: metav1.Now(),
	}
	if e.problem != "" {
		condition.Status, condition.Reason, condition.Message = apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck", e.problem
	}
	if before := helper.GetAPIServiceConditionByType(e.service, apiregistrationv1.Available); before != nil &&
		before.Status == condition.Status && before.Message == condition.Message {
		return
	}
	update := e.service.DeepCopy()
	helper.SetAPIServiceCondition(update, condition)
	if _, err := a.client.ApiregistrationV1().APIServices().UpdateStatus(ctx, update, metav1.UpdateOptions{}); err != nil && ctx.Err() == nil {
		a.s.cfg.Logger.Debug("write the status of an APIService", "name", update.Name, "err", err) // made up for by the next look
	}
}

// publish serves what was found and withdraws the rest.
func (a *aggregator) publish(found map[schema.GroupVersion]*extension) {
	manager := a.s.groups.groups.WithSource(aggregated.AggregatorSource)
	a.mu.Lock()
	defer a.mu.Unlock()
	for gv, old := range a.extensions {
		if now := found[gv]; old.problem == "" && (now == nil || now.problem != "") {
			manager.RemoveGroupVersion(metav1.GroupVersion(gv))
		}
	}
	before := a.extensions
	a.extensions = found
	byGroup := map[string][]schema.GroupVersion{}
	for gv, e := range found {
		if e.problem != "" {
			continue
		}
		byGroup[gv.Group] = append(byGroup[gv.Group], gv)
		manager.AddGroupVersion(gv.Group, apidiscoveryv2.APIVersionDiscovery{
			Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Resources: e.resources})
		manager.SetGroupVersionPriority(metav1.GroupVersion(gv), int(e.service.Spec.GroupPriorityMinimum), int(e.service.Spec.VersionPriority))
	}
	for gv := range before {
		if len(byGroup[gv.Group]) == 0 && a.groups[gv.Group] != nil {
			delete(a.groups, gv.Group)
			a.s.groups.groupList.RemoveGroup(gv.Group)
		}
	}
	for group, versions := range byGroup {
		slices.SortFunc(versions, func(x, y schema.GroupVersion) int {
			if d := found[y].service.Spec.VersionPriority - found[x].service.Spec.VersionPriority; d != 0 {
				return int(d)
			}
			return -version.CompareKubeAwareVersionStrings(x.Version, y.Version)
		})
		doc := metav1.APIGroup{Name: group}
		for _, gv := range versions {
			doc.Versions = append(doc.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
		}
		doc.PreferredVersion = doc.Versions[0]
		a.groups[group] = discovery.NewAPIGroupHandler(a.s.groups.serializer, doc)
		a.s.groups.groupList.AddGroup(doc)
	}
}

// find returns what serves a path, or nil.
func (a *aggregator) find(path string) http.Handler {
	rest, ok := strings.CutPrefix(path, "/apis/")
	if !ok {
		return nil
	}
	group, rest, _ := strings.Cut(strings.TrimSuffix(rest, "/"), "/")
	name, _, _ := strings.Cut(rest, "/")
	a.mu.RLock()
	defer a.mu.RUnlock()
	if name == "" {
		if h, ok := a.groups[group]; ok {
			return h
		}
		return nil
	}
	e := a.extensions[schema.GroupVersion{Group: group, Version: name}]
	switch {
	case e == nil:
		return nil
	case e.problem != "":
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "service unavailable: "+e.problem, http.StatusServiceUnavailable)
		})
	}
	return e.handler
}

// documents are the hashes of the extension servers' OpenAPI documents.
func (a *aggregator) documents() map[schema.GroupVersion]string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	hashes := map[schema.GroupVersion]string{}
	for gv, e := range a.extensions {
		if e.problem == "" && e.document != "" {
			hashes[gv] = e.document
		}
	}
	return hashes
}

// document serves an extension server's OpenAPI document, or is nil.
func (a *aggregator) document(gv schema.GroupVersion) http.Handler {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if e := a.extensions[gv]; e != nil && e.problem == "" && e.document != "" {
		return e.handler
	}
	return nil
}
