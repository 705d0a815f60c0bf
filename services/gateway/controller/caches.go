package controller

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/apiclient"
	"github.com/gantryhq/gantry/services/gateway/translate"
)

// byService is the index of EndpointSlices by the Service they belong to.
const byService = "service"

// caches hold what the API says, without the parts nobody here reads.
type caches struct {
	classes, gateways, listenerSets, httpRoutes, grpcRoutes, tlsRoutes, tcpRoutes, grants, backendTLS,
	ingresses, ingressClasses, services, endpointSlices, secrets, configMaps, namespaces *follower
	// Of Gantry's own kinds; nil without a client for them.
	accessPolicies, trafficPolicies, scalePolicies, backendPolicies, credentials *follower
}

// newCaches prepares the caches and wires their changes to the controller.
func newCaches(kube kubernetes.Interface, gateway gatewayclient.Interface, own *apiclient.Client, c *Controller) (*caches, error) {
	all := metav1.NamespaceAll
	// Only what is made for the gateway: the process should not even hold other secrets.
	ofType := func(t string) string { return fields.OneTermEqualSelector("type", t).String() }
	certificates := ofType(string(corev1.SecretTypeTLS))
	s := &caches{
		classes:        follow(gateway, gateway.GatewayV1().GatewayClasses(), &gatewayv1.GatewayClass{}, ""),
		gateways:       follow(gateway, gateway.GatewayV1().Gateways(all), &gatewayv1.Gateway{}, ""),
		listenerSets:   follow(gateway, gateway.GatewayV1().ListenerSets(all), &gatewayv1.ListenerSet{}, ""),
		grpcRoutes:     follow(gateway, gateway.GatewayV1().GRPCRoutes(all), &gatewayv1.GRPCRoute{}, ""),
		tlsRoutes:      follow(gateway, gateway.GatewayV1().TLSRoutes(all), &gatewayv1.TLSRoute{}, ""),
		tcpRoutes:      follow(gateway, gateway.GatewayV1().TCPRoutes(all), &gatewayv1.TCPRoute{}, ""),
		backendTLS:     follow(gateway, gateway.GatewayV1().BackendTLSPolicies(all), &gatewayv1.BackendTLSPolicy{}, ""),
		configMaps:     follow(kube, kube.CoreV1().ConfigMaps(all), &corev1.ConfigMap{}, ""),
		httpRoutes:     follow(gateway, gateway.GatewayV1().HTTPRoutes(all), &gatewayv1.HTTPRoute{}, ""),
		grants:         follow(gateway, gateway.GatewayV1().ReferenceGrants(all), &gatewayv1.ReferenceGrant{}, ""),
		ingresses:      follow(kube, kube.NetworkingV1().Ingresses(all), &networkingv1.Ingress{}, ""),
		ingressClasses: follow(kube, kube.NetworkingV1().IngressClasses(), &networkingv1.IngressClass{}, ""),
		services:       follow(kube, kube.CoreV1().Services(all), &corev1.Service{}, ""),
		endpointSlices: follow(kube, kube.DiscoveryV1().EndpointSlices(all), &discoveryv1.EndpointSlice{}, ""),
		namespaces:     follow(kube, kube.CoreV1().Namespaces(), &corev1.Namespace{}, ""),
		secrets:        follow(kube, kube.CoreV1().Secrets(all), &corev1.Secret{}, certificates),
	}
	if own != nil {
		s.accessPolicies = follow(own, own.AccessPolicies(all), &v1alpha1.AccessPolicy{}, "")
		s.trafficPolicies = follow(own, own.TrafficPolicies(all), &v1alpha1.TrafficPolicy{}, "")
		s.credentials = follow(kube, kube.CoreV1().Secrets(all), &corev1.Secret{}, ofType(translate.CredentialsType))
		s.backendPolicies = follow(own, own.BackendPolicies(all), &v1alpha1.BackendPolicy{}, "")
		s.scalePolicies = follow(own, own.ScalePolicies(all), &v1alpha1.ScalePolicy{}, "")
		if err := s.indexScaledServices(); err != nil {
			return nil, err
		}
	}
	for _, f := range s.followers() {
		f.touched = func(any) { c.statuses.set() } // somebody wrote a status; it may have been ours
		f.changed = func(any) { c.everythingChanged() }
	}
	for kind, f := range map[string]*follower{"HTTPRoute": s.httpRoutes, "GRPCRoute": s.grpcRoutes, "TLSRoute": s.tlsRoutes, "TCPRoute": s.tcpRoutes} {
		f.changed = func(o any) { c.routeChanged(kind, nameOf(o.(metav1.Object))) }
		f.touched = func(o any) { c.routeTouched(kind, nameOf(o.(metav1.Object))) }
	}
	for _, f := range []*follower{s.classes, s.gateways, s.listenerSets} {
		f.changed = func(any) { c.listenersChanged() }
	}
	s.backendTLS.changed = func(any) { c.changed(func(change *translate.Change) { change.BackendTLS = true }) }
	s.ingressClasses.changed = func(any) { c.changed(func(change *translate.Change) { change.IngressClasses = true }) }
	s.grants.changed = func(o any) { c.grantChanged(o.(metav1.Object).GetNamespace()) }
	if own != nil {
		s.accessPolicies.changed = func(any) { c.policyChanged() }
		s.trafficPolicies.changed = func(any) { c.policyChanged() }
		s.backendPolicies.changed = func(any) { c.servicesChanged() }
	}
	s.services.changed = func(o any) {
		c.serviceChanged(nameOf(o.(metav1.Object)))
		c.usersChanged(nameOf(o.(metav1.Object)))
		c.statuses.set() // a policy may have it as its target
	}
	for kind, f := range map[string]*follower{"Secret": s.secrets, "ConfigMap": s.configMaps, "Namespace": s.namespaces, "Credential": s.credentials} {
		if f != nil {
			f.changed = func(o any) { c.referenceChanged(kind, nameOf(o.(metav1.Object))) }
		}
	}
	s.ingresses.changed = func(o any) { c.routeChanged("Ingress", nameOf(o.(metav1.Object))) }
	if s.scalePolicies != nil {
		s.scalePolicies.changed = func(o any) { c.scalePolicyChanged(o.(*v1alpha1.ScalePolicy)) }
		s.scalePolicies.touched = func(any) {}
	}
	s.endpointSlices.changed = func(o any) { c.serviceChanged(serviceOf(o.(*discoveryv1.EndpointSlice))) }
	return s, s.endpointSlices.AddIndexers(cache.Indexers{byService: func(o any) ([]string, error) {
		return []string{serviceOf(o.(*discoveryv1.EndpointSlice)).String()}, nil
	}})
}

func (s *caches) followers() []*follower {
	list := []*follower{
		s.classes, s.gateways, s.listenerSets, s.httpRoutes, s.grpcRoutes, s.tlsRoutes, s.tcpRoutes, s.grants, s.backendTLS,
		s.ingresses, s.ingressClasses, s.services, s.endpointSlices, s.secrets, s.configMaps, s.namespaces,
	}
	if s.accessPolicies != nil {
		list = append(list, s.accessPolicies, s.trafficPolicies, s.credentials, s.backendPolicies)
	}
	if s.scalePolicies != nil {
		list = append(list, s.scalePolicies)
	}
	return list
}

// run follows the API until ctx ends.
func (s *caches) run(ctx context.Context) {
	var running sync.WaitGroup
	for _, f := range s.followers() {
		running.Go(func() { f.reflector.RunWithContext(ctx) })
	}
	running.Wait()
}

// wait returns true once every kind has been listed, or false if ctx ends first.
func (s *caches) wait(ctx context.Context) bool {
	for _, f := range s.followers() {
		select {
		case <-f.synced:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// trim drops what takes memory and is never read, and shares the rest.
func (f *follower) trim(o any) any {
	o = trim(o)
	f.compactor.compact(o)
	return o
}

// trim drops what takes memory and is never read: managed fields everywhere,
// the kubectl copy of the object, and all but addresses of EndpointSlices.
func trim(o any) any {
	accessor, err := meta.Accessor(o)
	if err != nil {
		return o // not an object; storing it fails
	}
	accessor.SetManagedFields(nil)
	delete(accessor.GetAnnotations(), corev1.LastAppliedConfigAnnotation)
	switch o := o.(type) {
	case *discoveryv1.EndpointSlice:
		o.OwnerReferences, o.Annotations = nil, nil
		o.Labels = map[string]string{discoveryv1.LabelServiceName: o.Labels[discoveryv1.LabelServiceName]}
		for i := range o.Endpoints {
			o.Endpoints[i] = discoveryv1.Endpoint{Addresses: o.Endpoints[i].Addresses, Conditions: o.Endpoints[i].Conditions}
		}
	case *corev1.ConfigMap:
		// Most of them are nobody's certificates or keys, but must be known to be that.
		kept := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion,
		}}
		for _, entry := range entries {
			if text, ok := o.Data[entry]; ok {
				if kept.Data == nil {
					kept.Data = map[string]string{}
				}
				kept.Data[entry] = text
			}
		}
		return kept
	case *corev1.Secret:
		if o.Type != corev1.SecretTypeTLS {
			break
		}
		o.Labels, o.Annotations = nil, nil
		o.Data = map[string][]byte{
			corev1.TLSCertKey:       o.Data[corev1.TLSCertKey],
			corev1.TLSPrivateKeyKey: o.Data[corev1.TLSPrivateKeyKey],
		}
	}
	return o
}

// entries are what is kept of ConfigMaps: certificates of authorities and keys of tokens.
var entries = []string{translate.AuthoritiesEntry, translate.KeysEntry}

// sameSpec says whether only status or other parts that do not matter differ.
func sameSpec(before, after any) bool {
	same := equality.Semantic.DeepEqual
	switch a := after.(type) {
	case *gatewayv1.GatewayClass:
		return same(before.(*gatewayv1.GatewayClass).Spec, a.Spec)
	case *gatewayv1.Gateway:
		b := before.(*gatewayv1.Gateway)
		return b.Generation == a.Generation && same(b.Spec, a.Spec)
	case *gatewayv1.HTTPRoute:
		b := before.(*gatewayv1.HTTPRoute)
		return b.Generation == a.Generation && same(b.Spec, a.Spec)
	case *v1alpha1.AccessPolicy:
		b := before.(*v1alpha1.AccessPolicy)
		return b.Generation == a.Generation && same(b.Spec, a.Spec)
	case *v1alpha1.TrafficPolicy:
		b := before.(*v1alpha1.TrafficPolicy)
		return b.Generation == a.Generation && same(b.Spec, a.Spec)
	case *gatewayv1.ListenerSet:
		return before.(*gatewayv1.ListenerSet).Generation == a.Generation
	case *gatewayv1.GRPCRoute:
		return before.(*gatewayv1.GRPCRoute).Generation == a.Generation
	case *gatewayv1.TLSRoute:
		return before.(*gatewayv1.TLSRoute).Generation == a.Generation
	case *gatewayv1.TCPRoute:
		return before.(*gatewayv1.TCPRoute).Generation == a.Generation
	case *gatewayv1.BackendTLSPolicy:
		return before.(*gatewayv1.BackendTLSPolicy).Generation == a.Generation
	case *corev1.ConfigMap:
		return same(before.(*corev1.ConfigMap).Data, a.Data)
	case *v1alpha1.ScalePolicy:
		b := before.(*v1alpha1.ScalePolicy)
		return same(b.Spec.Hold, a.Spec.Hold) && slices.Equal(scaledServices(b), scaledServices(a))
	case *v1alpha1.BackendPolicy:
		b := before.(*v1alpha1.BackendPolicy)
		return b.Generation == a.Generation && same(b.Spec, a.Spec)
	case *networkingv1.Ingress:
		b := before.(*networkingv1.Ingress)
		return same(b.Spec, a.Spec) && same(b.Annotations, a.Annotations)
	case *corev1.Namespace:
		return same(before.(*corev1.Namespace).Labels, a.Labels)
	case *corev1.Service:
		return same(before.(*corev1.Service).Spec, a.Spec)
	case *discoveryv1.EndpointSlice:
		b := before.(*discoveryv1.EndpointSlice)
		return same(b.Endpoints, a.Endpoints) && same(b.Ports, a.Ports)
	}
	return false
}

// objects takes the input of a translation from the caches.
func (s *caches) objects() translate.Objects {
	o := s.lookUps()
	s.addListeners(&o)
	o.Routes = all[*gatewayv1.HTTPRoute](s.httpRoutes)
	o.GRPCRoutes = all[*gatewayv1.GRPCRoute](s.grpcRoutes)
	o.TLSRoutes = all[*gatewayv1.TLSRoute](s.tlsRoutes)
	o.TCPRoutes = all[*gatewayv1.TCPRoute](s.tcpRoutes)
	s.addGrants(&o)
	s.addPolicies(&o)
	s.addIngresses(&o)
	return o
}

// addListeners adds what listeners and the ways to backends are made of.
func (s *caches) addListeners(o *translate.Objects) {
	o.Classes = all[*gatewayv1.GatewayClass](s.classes)
	o.Gateways = all[*gatewayv1.Gateway](s.gateways)
	o.ListenerSets = all[*gatewayv1.ListenerSet](s.listenerSets)
	o.BackendTLS = all[*gatewayv1.BackendTLSPolicy](s.backendTLS)
}

func (s *caches) addIngresses(o *translate.Objects) {
	o.Ingresses = all[*networkingv1.Ingress](s.ingresses)
	o.IngressClasses = all[*networkingv1.IngressClass](s.ingressClasses)
}

func (s *caches) addGrants(o *translate.Objects) { o.Grants = all[*gatewayv1.ReferenceGrant](s.grants) }

func (s *caches) addPolicies(o *translate.Objects) {
	if s.accessPolicies != nil {
		o.AccessPolicies = all[*v1alpha1.AccessPolicy](s.accessPolicies)
		o.TrafficPolicies = all[*v1alpha1.TrafficPolicy](s.trafficPolicies)
	}
}

// changed is the part of the input that Update needs for a change.
func (s *caches) changed(c translate.Change) translate.Objects {
	o := s.lookUps()
	if len(c.Grants) > 0 {
		s.addGrants(&o)
	}
	if c.Listeners || c.BackendTLS || len(c.Grants)+len(c.References) > 0 {
		s.addListeners(&o)
	}
	if c.IngressClasses {
		s.addIngresses(&o)
	}
	if c.Policies {
		s.addPolicies(&o)
	}
	return o
}

// lookUps is the part of the input that is asked for by name.
func (s *caches) lookUps() translate.Objects {
	o := translate.Objects{
		HTTPRoute: func(n types.NamespacedName) *gatewayv1.HTTPRoute {
			return one[*gatewayv1.HTTPRoute](s.httpRoutes, n.String())
		},
		GRPCRoute: func(n types.NamespacedName) *gatewayv1.GRPCRoute {
			return one[*gatewayv1.GRPCRoute](s.grpcRoutes, n.String())
		},
		TLSRoute: func(n types.NamespacedName) *gatewayv1.TLSRoute {
			return one[*gatewayv1.TLSRoute](s.tlsRoutes, n.String())
		},
		TCPRoute: func(n types.NamespacedName) *gatewayv1.TCPRoute {
			return one[*gatewayv1.TCPRoute](s.tcpRoutes, n.String())
		},
		Ingress: func(n types.NamespacedName) *networkingv1.Ingress {
			return one[*networkingv1.Ingress](s.ingresses, n.String())
		},
		Service: s.service,
		Secret:  func(n types.NamespacedName) *corev1.Secret { return one[*corev1.Secret](s.secrets, n.String()) },
		ConfigMap: func(n types.NamespacedName) *corev1.ConfigMap {
			return one[*corev1.ConfigMap](s.configMaps, n.String())
		},
		Namespace: func(n string) *corev1.Namespace { return one[*corev1.Namespace](s.namespaces, n) },
	}
	if s.accessPolicies != nil {
		o.Credential = func(n types.NamespacedName) *corev1.Secret { return one[*corev1.Secret](s.credentials, n.String()) }
		o.Credentials = func(namespace string) []*corev1.Secret {
			return slices.DeleteFunc(all[*corev1.Secret](s.credentials), func(x *corev1.Secret) bool { return x.Namespace != namespace })
		}
	}
	return o
}

func (s *caches) service(name types.NamespacedName) *corev1.Service {
	return one[*corev1.Service](s.services, name.String())
}

func (s *caches) slices(service types.NamespacedName) []*discoveryv1.EndpointSlice {
	found, err := s.endpointSlices.ByIndex(byService, service.String())
	if err != nil {
		panic(fmt.Sprintf("index %q is missing: %v", byService, err)) // wired in newCaches
	}
	list := make([]*discoveryv1.EndpointSlice, len(found))
	for i, o := range found {
		list[i] = o.(*discoveryv1.EndpointSlice)
	}
	return list
}

// all lists a cache; one looks up a key in it and returns nil without a hit.
func all[T any](f *follower) []T {
	var list []T
	// Listing a cache with a selector for everything has no way to fail.
	_ = cache.ListAll(f, labels.Everything(), func(o any) { list = append(list, o.(T)) })
	return list
}

func one[T any](f *follower, key string) T {
	o, _, _ := f.GetByKey(key)
	t, _ := o.(T)
	return t
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func serviceOf(slice *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}
