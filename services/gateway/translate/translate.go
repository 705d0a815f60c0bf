// Package translate turns Kubernetes objects into what the gateway serves and
// into the statuses that those objects get: Gateway API v1 (GatewayClass,
// Gateway, ListenerSet, HTTPRoute, GRPCRoute, TLSRoute, TCPRoute,
// ReferenceGrant, BackendTLSPolicy) and networking.k8s.io/v1 Ingress into a
// route.Table, Services and EndpointSlices into route.Upstreams.
//
// It is a pure function of its input: no I/O, no clock. An object that is
// wrong gets a condition that says so and changes nothing for others. Objects
// passed in are never modified, so they may come from a shared cache.
//
// Imported by the gateway's controller only.
package translate

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/guard"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// ControllerName is what a GatewayClass or IngressClass names as its
// controller to be served by this gateway.
const ControllerName = "gantry.dev/gateway"

// The ports that Ingresses are served on. A Gateway names its own ports.
const (
	HTTPPort  = 80
	HTTPSPort = 443
)

// Objects is the input: all objects of each kind, and look-ups for those that
// are only referred to. A look-up returns nil for what does not exist.
type Objects struct {
	Classes        []*gatewayv1.GatewayClass
	Gateways       []*gatewayv1.Gateway
	ListenerSets   []*gatewayv1.ListenerSet
	Routes         []*gatewayv1.HTTPRoute
	GRPCRoutes     []*gatewayv1.GRPCRoute
	TLSRoutes      []*gatewayv1.TLSRoute
	TCPRoutes      []*gatewayv1.TCPRoute
	Grants         []*gatewayv1.ReferenceGrant
	BackendTLS     []*gatewayv1.BackendTLSPolicy
	Ingresses      []*networkingv1.Ingress
	IngressClasses []*networkingv1.IngressClass

	AccessPolicies  []*v1alpha1.AccessPolicy
	TrafficPolicies []*v1alpha1.TrafficPolicy
	// Credential and Credentials look up Secrets of CredentialsType; without
	// policies they may be nil.
	Credential  func(types.NamespacedName) *corev1.Secret
	Credentials func(namespace string) []*corev1.Secret

	// These look up routes; for Translate they may be nil.
	HTTPRoute func(types.NamespacedName) *gatewayv1.HTTPRoute
	GRPCRoute func(types.NamespacedName) *gatewayv1.GRPCRoute
	TLSRoute  func(types.NamespacedName) *gatewayv1.TLSRoute
	TCPRoute  func(types.NamespacedName) *gatewayv1.TCPRoute
	// Ingress likewise.
	Ingress func(types.NamespacedName) *networkingv1.Ingress

	Service   func(types.NamespacedName) *corev1.Service
	Secret    func(types.NamespacedName) *corev1.Secret
	ConfigMap func(types.NamespacedName) *corev1.ConfigMap
	// Issuing says how it stands with the certificate of a Secret that is being
	// got, in a sentence or "". It may be nil.
	Issuing   func(types.NamespacedName) string
	Namespace func(name string) *corev1.Namespace
}

// Result is the output: the table, and the status each object should have.
// Conditions carry no transition times: whoever writes them knows the old ones.
type Result struct {
	Table *route.Table
	// Partial says that only what Update was told of has been compiled: what is
	// missing in the maps is as it was. A route without parents has none.
	Partial bool

	Classes  map[string]gatewayv1.GatewayClassStatus
	Gateways map[types.NamespacedName]gatewayv1.GatewayStatus
	// ListenerSets holds those of our Gateways.
	ListenerSets map[types.NamespacedName]gatewayv1.ListenerSetStatus
	// Routes holds the parents of this controller only.
	Routes map[RouteName][]gatewayv1.RouteParentStatus
	// The policies hold the ancestors of this controller only.
	AccessPolicies, TrafficPolicies map[types.NamespacedName]gatewayv1.PolicyStatus
	BackendTLS                      map[types.NamespacedName][]gatewayv1.PolicyAncestorStatus
	// Ingresses are those this gateway serves.
	Ingresses []types.NamespacedName
	// Wishes are certificates to be got, sorted by Secret.
	Wishes []Wish
	// IngressProblems are what is wrong with Ingresses, in sentences.
	IngressProblems map[types.NamespacedName][]string
	// Problems are refusals that no status field can hold, in sentences.
	Problems []string

	// What Bind needs to know.
	listeners []*listener
	keySets   map[types.NamespacedName][]*guard.KeySet // of AccessPolicies
	addresses map[*gatewayv1.Gateway][]netip.Addr
	sets      map[*gatewayv1.ListenerSet]metav1.Condition
	pool      netip.Prefix
}

// RouteName names a route of any kind.
type RouteName struct {
	Kind string
	types.NamespacedName
}

// Translator remembers parsed certificates and policies between translations. It is
// for one goroutine.
type Translator struct {
	// Pool is where Gateways that ask for no address get one of their own from;
	// without it they share the machine's. The platform's Gateway always does.
	Pool netip.Prefix

	certificates map[types.NamespacedName]cachedCertificate
	cache        policyCache
	authorities  map[types.NamespacedName]cachedAuthorities
	backendTLS   map[string]*route.BackendTLS

	given map[types.UID]netip.Addr // to Gateways, from the pool

	last *translation // of everything, for Update
	// most bounds what may be remembered until everything is translated again.
	most int
	// good are the routes as they were last without a mistake: what is served
	// while somebody looks for a mistake in a later version.
	good map[RouteName]metav1.Object
	// well are the conditions of routes with which nothing is wrong, by generation.
	well map[int64][]metav1.Condition
	// asked are the objects that anything has ever referred to: what becomes of others
	// changes nothing.
	asked map[Reference]bool
}

// New returns a Translator.
func New() *Translator {
	return &Translator{
		certificates: map[types.NamespacedName]cachedCertificate{},
		authorities:  map[types.NamespacedName]cachedAuthorities{},
		backendTLS:   map[string]*route.BackendTLS{},
		good:         map[RouteName]metav1.Object{},
		asked:        map[Reference]bool{},
		given:        map[types.UID]netip.Addr{},
		well:         map[int64][]metav1.Condition{},
	}
}

// translation is the state of one run.
type translation struct {
	*Translator
	Objects
	builder   *route.Builder
	result    *Result
	listeners []*listener
	byParent  map[parentName][]*listener
	addresses map[*gatewayv1.Gateway][]netip.Addr               // where its ports are; the zero Addr is the shared one
	setsOf    map[types.NamespacedName][]*gatewayv1.ListenerSet // by Gateway, oldest first
	clients   map[*gatewayv1.Gateway]clientCertificate
	policies  policies
	secured   backendTLSPolicies
	grants    map[string][]*gatewayv1.ReferenceGrant // by namespace
	attached  map[*gatewayv1.ListenerSet]metav1.Condition
	wished    map[RouteName][]Wish // by who wants the certificates: a Gateway, ListenerSet or Ingress
	placed    map[RouteName]*placed
	children  map[parentName]map[RouteName]bool           // routes that name a Gateway or ListenerSet
	users     map[types.NamespacedName]map[RouteName]bool // of a Service
	abroad    map[string]map[RouteName]bool               // that refer to Services of a namespace which is not theirs
	lent      map[string]bool                             // namespaces whose objects Gateways and ListenerSets of others refer to
	ingresses map[RouteName]*networkingv1.Ingress         // ours, as they were compiled
	// clientPairs are Secrets whose certificates the gateway itself shows to backends.
	clientPairs map[types.NamespacedName]bool

	usedCerts       map[types.NamespacedName]bool
	usedAuthorities map[types.NamespacedName]bool
	usedBackendTLS  map[string]bool
	canaries        map[place]*canary
}

// Translate compiles the objects.
func (t *Translator) Translate(objects Objects) *Result {
	run := &translation{
		Translator: t,
		Objects:    objects,
		builder:    route.NewBuilder(),
		byParent:   map[parentName][]*listener{},
		addresses:  map[*gatewayv1.Gateway][]netip.Addr{},
		clients:    map[*gatewayv1.Gateway]clientCertificate{},
		attached:   map[*gatewayv1.ListenerSet]metav1.Condition{},
		wished:     map[RouteName][]Wish{},
		usedCerts:  map[types.NamespacedName]bool{},

		usedAuthorities: map[types.NamespacedName]bool{},
		usedBackendTLS:  map[string]bool{},
		placed:          map[RouteName]*placed{},
		children:        map[parentName]map[RouteName]bool{},
		users:           map[types.NamespacedName]map[RouteName]bool{},
		abroad:          map[string]map[RouteName]bool{},
		lent:            map[string]bool{},
		ingresses:       map[RouteName]*networkingv1.Ingress{},
		clientPairs:     map[types.NamespacedName]bool{},
		result:          newResult(),
	}
	clear(t.asked)
	run.adopt(objects.withLookUps())
	run.readGrants(objects.Grants)
	run.classes()
	run.assignAddresses()
	run.gateways()
	for _, l := range run.listeners {
		run.open(l)
	}
	run.readBackendTLS()
	run.readPolicies()
	for _, r := range oldestFirst(run.routes()) {
		run.route(r)
	}
	run.readCanaries()
	for _, i := range oldestFirst(objects.Ingresses) {
		run.ingress(i)
	}
	run.offerCertificates()
	t.cache.merged = run.policies.merged
	run.gatewayStatuses()
	run.listenerSetStatuses()
	run.backendTLSStatuses()
	run.forget()
	t.last, t.most = run, 2*run.remembered()+sparePlaces
	return run.finish()
}

// withLookUps finds routes in the lists if there is no other way to look them up.
func (o Objects) withLookUps() Objects {
	if o.HTTPRoute == nil {
		o.HTTPRoute = lookUp(o.Routes)
	}
	if o.GRPCRoute == nil {
		o.GRPCRoute = lookUp(o.GRPCRoutes)
	}
	if o.TLSRoute == nil {
		o.TLSRoute = lookUp(o.TLSRoutes)
	}
	if o.TCPRoute == nil {
		o.TCPRoute = lookUp(o.TCPRoutes)
	}
	if o.Ingress == nil {
		o.Ingress = lookUp(o.Ingresses)
	}
	return o
}

func lookUp[T metav1.Object](list []T) func(types.NamespacedName) T {
	byName := make(map[types.NamespacedName]T, len(list))
	for _, o := range list {
		byName[nameOf(o)] = o
	}
	return func(n types.NamespacedName) T { return byName[n] }
}

// finish builds the table and gives the result what Bind needs.
func (t *translation) finish() *Result {
	t.result.Wishes = t.wishes()
	t.result.Table = t.builder.Build()
	t.builder = nil // it holds much that only building needs
	t.result.listeners, t.result.addresses, t.result.sets, t.result.pool = t.listeners, t.addresses, t.attached, t.Pool
	return t.result
}

func newResult() *Result {
	return &Result{
		Classes:      map[string]gatewayv1.GatewayClassStatus{},
		Gateways:     map[types.NamespacedName]gatewayv1.GatewayStatus{},
		ListenerSets: map[types.NamespacedName]gatewayv1.ListenerSetStatus{},
		Routes:       map[RouteName][]gatewayv1.RouteParentStatus{},
		BackendTLS:   map[types.NamespacedName][]gatewayv1.PolicyAncestorStatus{},

		AccessPolicies:  map[types.NamespacedName]gatewayv1.PolicyStatus{},
		TrafficPolicies: map[types.NamespacedName]gatewayv1.PolicyStatus{},
		IngressProblems: map[types.NamespacedName][]string{},
	}
}

// remembered is how much is known that a whole translation would forget if nobody uses it any more.
func (t *translation) remembered() int {
	return len(t.policies.places) + len(t.certificates) + len(t.authorities) + len(t.Translator.backendTLS) + len(t.asked)
}

// forget drops what this run did not use from the Translator's memory.
func (t *translation) forget() {
	maps.DeleteFunc(t.good, func(n RouteName, _ metav1.Object) bool { return t.placed[n] == nil })
	maps.DeleteFunc(t.certificates, func(n types.NamespacedName, _ cachedCertificate) bool { return !t.usedCerts[n] })
	maps.DeleteFunc(t.authorities, func(n types.NamespacedName, _ cachedAuthorities) bool { return !t.usedAuthorities[n] })
	maps.DeleteFunc(t.Translator.backendTLS, func(k string, _ *route.BackendTLS) bool { return !t.usedBackendTLS[k] })
}

// oldestFirst returns a copy in the order that the Gateway API gives to
// conflicting objects: by age, then by namespace and name.
func oldestFirst[T metav1.Object](objects []T) []T {
	sorted := slices.Clone(objects)
	slices.SortFunc(sorted, func(a, b T) int {
		return cmp.Or(
			a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time),
			cmp.Compare(a.GetNamespace(), b.GetNamespace()),
			cmp.Compare(a.GetName(), b.GetName()),
		)
	})
	return sorted
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// deref returns the value behind an optional field, or what it defaults to.
func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func condition(kind, reason string, ok bool, generation int64, message string) metav1.Condition {
	status := metav1.ConditionFalse
	if ok {
		status = metav1.ConditionTrue
	}
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: generation}
}
