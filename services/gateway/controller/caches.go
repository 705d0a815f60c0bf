package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"
	gatewayinformers "sigs.k8s.io/gateway-api/pkg/client/informers/externalversions"

	"github.com/gantryhq/gantry/services/gateway/translate"
)

// byService is the index of EndpointSlices by the Service they belong to.
const byService = "service"

// caches hold what the API says, without the parts nobody here reads.
type caches struct {
	start  []func(<-chan struct{})
	synced []cache.InformerSynced

	classes, gateways, httpRoutes, grants, ingresses, ingressClasses,
	services, endpointSlices, secrets, namespaces cache.SharedIndexInformer
}

// newCaches prepares the informers and wires their events to the controller.
func newCaches(kube kubernetes.Interface, gateway gatewayclient.Interface, c *Controller) (*caches, error) {
	core := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithTransform(trim))
	// Only certificates: the process should not even hold other secrets.
	certificates := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("type", string(corev1.SecretTypeTLS)).String()
		}))
	routes := gatewayinformers.NewSharedInformerFactoryWithOptions(gateway, 0, gatewayinformers.WithTransform(trim))
	s := &caches{
		start:          []func(<-chan struct{}){core.Start, certificates.Start, routes.Start},
		classes:        routes.Gateway().V1().GatewayClasses().Informer(),
		gateways:       routes.Gateway().V1().Gateways().Informer(),
		httpRoutes:     routes.Gateway().V1().HTTPRoutes().Informer(),
		grants:         routes.Gateway().V1().ReferenceGrants().Informer(),
		ingresses:      core.Networking().V1().Ingresses().Informer(),
		ingressClasses: core.Networking().V1().IngressClasses().Informer(),
		services:       core.Core().V1().Services().Informer(),
		endpointSlices: core.Discovery().V1().EndpointSlices().Informer(),
		namespaces:     core.Core().V1().Namespaces().Informer(),
		secrets:        certificates.Core().V1().Secrets().Informer(),
	}
	if err := s.endpointSlices.AddIndexers(cache.Indexers{byService: func(o any) ([]string, error) {
		return []string{serviceOf(o.(*discoveryv1.EndpointSlice)).String()}, nil
	}}); err != nil {
		return nil, err
	}
	return s, s.wire(c)
}

// wire says what each event makes necessary.
func (s *caches) wire(c *Controller) error {
	routes := func(any) { c.routes.set() }
	service := func(o any) {
		c.serviceChanged(nameOf(o.(metav1.Object)))
		c.routes.set()
	}
	slice := func(o any) { c.serviceChanged(serviceOf(o.(*discoveryv1.EndpointSlice))) }
	for informer, changed := range map[cache.SharedIndexInformer]func(any){
		s.classes: routes, s.gateways: routes, s.httpRoutes: routes, s.grants: routes,
		s.ingresses: routes, s.ingressClasses: routes, s.secrets: routes, s.namespaces: routes,
		s.services: service, s.endpointSlices: slice,
	} {
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: changed,
			UpdateFunc: func(before, after any) {
				if sameSpec(before, after) {
					c.statuses.set() // somebody wrote a status; it may have been ours
					return
				}
				changed(after)
			},
			DeleteFunc: func(o any) {
				if unknown, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = unknown.Obj
				}
				changed(o)
			},
		})
		if err != nil {
			return err
		}
		s.synced = append(s.synced, registration.HasSynced)
	}
	return nil
}

func (s *caches) run(ctx context.Context) {
	for _, start := range s.start {
		start(ctx.Done())
	}
	<-ctx.Done()
}

// wait returns when every event of the first lists has been handled.
func (s *caches) wait(ctx context.Context) bool {
	return cache.WaitForCacheSync(ctx.Done(), s.synced...)
}

// trim drops what takes memory and is never read: managed fields everywhere,
// the kubectl copy of the object, and all but addresses of EndpointSlices.
func trim(o any) (any, error) {
	accessor, err := meta.Accessor(o)
	if err != nil {
		return o, nil // a DeletedFinalStateUnknown
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
	case *corev1.Secret:
		o.Labels, o.Annotations = nil, nil
		o.Data = map[string][]byte{
			corev1.TLSCertKey:       o.Data[corev1.TLSCertKey],
			corev1.TLSPrivateKeyKey: o.Data[corev1.TLSPrivateKeyKey],
		}
	}
	return o, nil
}

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
	return translate.Objects{
		Classes:        all[*gatewayv1.GatewayClass](s.classes),
		Gateways:       all[*gatewayv1.Gateway](s.gateways),
		Routes:         all[*gatewayv1.HTTPRoute](s.httpRoutes),
		Grants:         all[*gatewayv1.ReferenceGrant](s.grants),
		Ingresses:      all[*networkingv1.Ingress](s.ingresses),
		IngressClasses: all[*networkingv1.IngressClass](s.ingressClasses),
		Service:        s.service,
		Secret:         func(n types.NamespacedName) *corev1.Secret { return one[*corev1.Secret](s.secrets, n.String()) },
		Namespace:      func(n string) *corev1.Namespace { return one[*corev1.Namespace](s.namespaces, n) },
	}
}

func (s *caches) service(name types.NamespacedName) *corev1.Service {
	return one[*corev1.Service](s.services, name.String())
}

func (s *caches) slices(service types.NamespacedName) []*discoveryv1.EndpointSlice {
	found, err := s.endpointSlices.GetIndexer().ByIndex(byService, service.String())
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
func all[T any](informer cache.SharedIndexInformer) []T {
	var list []T
	// Listing a cache with a selector for everything has no way to fail.
	_ = cache.ListAll(informer.GetIndexer(), labels.Everything(), func(o any) { list = append(list, o.(T)) })
	return list
}

func one[T any](informer cache.SharedIndexInformer, key string) T {
	o, _, _ := informer.GetIndexer().GetByKey(key)
	t, _ := o.(T)
	return t
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func serviceOf(slice *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}
