// Package translate turns Kubernetes objects into what the gateway serves and
// into the statuses that those objects get: Gateway API v1 (GatewayClass,
// Gateway, HTTPRoute, ReferenceGrant) and networking.k8s.io/v1 Ingress into a
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
	Routes         []*gatewayv1.HTTPRoute
	Grants         []*gatewayv1.ReferenceGrant
	Ingresses      []*networkingv1.Ingress
	IngressClasses []*networkingv1.IngressClass

	AccessPolicies  []*v1alpha1.AccessPolicy
	TrafficPolicies []*v1alpha1.TrafficPolicy
	// Credential and Credentials look up Secrets of CredentialsType, and ConfigMap
	// ConfigMaps; without policies they may be nil.
	Credential  func(types.NamespacedName) *corev1.Secret
	Credentials func(namespace string) []*corev1.Secret
	ConfigMap   func(types.NamespacedName) *corev1.ConfigMap

	Service   func(types.NamespacedName) *corev1.Service
	Secret    func(types.NamespacedName) *corev1.Secret
	Namespace func(name string) *corev1.Namespace
}

// Result is the output: the table, and the status each object should have.
// Conditions carry no transition times: whoever writes them knows the old ones.
type Result struct {
	Table *route.Table

	Classes  map[string]gatewayv1.GatewayClassStatus
	Gateways map[types.NamespacedName]gatewayv1.GatewayStatus
	// Routes holds the parents of this controller only.
	Routes map[types.NamespacedName][]gatewayv1.RouteParentStatus
	// The policies hold the ancestors of this controller only.
	AccessPolicies, TrafficPolicies map[types.NamespacedName]gatewayv1.PolicyStatus
	// Ingresses are those this gateway serves.
	Ingresses []types.NamespacedName
	// Problems are refusals that no status field can hold, in sentences.
	Problems []string

	listeners []*listener
	keySets   map[types.NamespacedName][]*guard.KeySet // of AccessPolicies
}

// Translator remembers parsed certificates and policies between translations. It is
// for one goroutine.
type Translator struct {
	certificates map[types.NamespacedName]cachedCertificate
	cache        policyCache
}

// New returns a Translator.
func New() *Translator {
	return &Translator{certificates: map[types.NamespacedName]cachedCertificate{}}
}

// translation is the state of one run.
type translation struct {
	*Translator
	Objects
	builder   *route.Builder
	result    *Result
	listeners []*listener
	usedCerts map[types.NamespacedName]bool
	policies  policies
}

// Translate compiles the objects.
func (t *Translator) Translate(objects Objects) *Result {
	run := &translation{
		Translator: t,
		Objects:    objects,
		builder:    route.NewBuilder(),
		usedCerts:  map[types.NamespacedName]bool{},
		result: &Result{
			Classes:  map[string]gatewayv1.GatewayClassStatus{},
			Gateways: map[types.NamespacedName]gatewayv1.GatewayStatus{},
			Routes:   map[types.NamespacedName][]gatewayv1.RouteParentStatus{},

			AccessPolicies:  map[types.NamespacedName]gatewayv1.PolicyStatus{},
			TrafficPolicies: map[types.NamespacedName]gatewayv1.PolicyStatus{},
		},
	}
	run.classes()
	run.gateways()
	run.attachPolicies()
	for _, r := range oldestFirst(objects.Routes) {
		run.httpRoute(r)
	}
	for _, i := range oldestFirst(objects.Ingresses) {
		run.ingress(i)
	}
	run.result.keySets = run.keySets()
	t.cache.merged = run.policies.merged
	run.gatewayStatuses()
	for name := range t.certificates {
		if !run.usedCerts[name] {
			delete(t.certificates, name)
		}
	}
	run.result.Table = run.builder.Build()
	run.result.listeners = run.listeners
	return run.result
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
