package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	crdclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	crdinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions"
	crdinformersv1 "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions/apiextensions/v1"
	crdlisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/controller/apiapproval"
	"k8s.io/apiextensions-apiserver/pkg/controller/establish"
	"k8s.io/apiextensions-apiserver/pkg/controller/finalizer"
	"k8s.io/apiextensions-apiserver/pkg/controller/nonstructuralschema"
	"k8s.io/apiextensions-apiserver/pkg/controller/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/klog/v2"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/service/storage"
)

// customResources serves what CustomResourceDefinitions define, with upstream's handler and
// controllers.
type customResources struct {
	handler   http.Handler
	informers crdinformers.SharedInformerFactory
	informer  crdinformersv1.CustomResourceDefinitionInformer
	run       []func(context.Context)
}

func (s *Server) newCustomResources(admit admission.Interface) (*customResources, error) {
	client, err := crdclient.NewForConfig(s.ownConfig())
	if err != nil {
		return nil, fmt.Errorf("set up custom resources: %w", err)
	}
	c := &customResources{informers: crdinformers.NewSharedInformerFactory(client, 0)}
	c.informer = c.informers.Apiextensions().V1().CustomResourceDefinitions()
	definitions := client.ApiextensionsV1()
	establishing := establish.NewEstablishingController(c.informer, definitions)
	handler, err := apiserver.NewCustomResourceDefinitionHandler(
		nil, nil, // discovery is ours, see crdDiscovery
		settledInformer{c.informer}, http.NotFoundHandler(), customOptions{s.cfg.Store}, admit, establishing,
		serviceResolver{s.core.services}, nil, 1, s.may, requestTimeout, minWatch, nil, maxRequestBody)
	if err != nil {
		return nil, fmt.Errorf("set up custom resources: %w", err)
	}
	c.handler = handler
	naming := status.NewNamingConditionController(klog.Background(), c.informer, definitions)
	structural := nonstructuralschema.NewConditionController(c.informer, definitions)
	approval := apiapproval.NewKubernetesAPIApprovalPolicyConformantConditionController(c.informer, definitions)
	finalizing := finalizer.NewCRDFinalizer(c.informer, definitions, handler)
	c.run = []func(context.Context){
		naming.RunWithContext,
		establishing.RunWithContext,
		func(ctx context.Context) { structural.RunWithContext(1, ctx) },
		func(ctx context.Context) { approval.RunWithContext(1, ctx) },
		func(ctx context.Context) { finalizing.RunWithContext(1, ctx) },
	}
	return c, nil
}

// start begins to follow the definitions and returns when the present ones are served.
func (c *customResources) start(ctx context.Context) error {
	c.informers.Start(ctx.Done())
	for _, run := range c.run {
		go run(ctx)
	}
	for !c.informer.Informer().HasSynced() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// settledInformer shows the request handler every established definition as if it had been so
// for a while. Upstream delays the first creations of a kind by two seconds so that the other
// API servers of a cluster hear of it; here there is no other.
type settledInformer struct {
	crdinformersv1.CustomResourceDefinitionInformer
}

// Lister implements CustomResourceDefinitionInformer.
func (i settledInformer) Lister() crdlisters.CustomResourceDefinitionLister {
	return settledLister{i.CustomResourceDefinitionInformer.Lister()}
}

type settledLister struct {
	crdlisters.CustomResourceDefinitionLister
}

// settlingTime is how old the handler wants an established definition to be.
const settlingTime = 2 * time.Second

// Get implements CustomResourceDefinitionLister.
func (l settledLister) Get(name string) (*apiextensionsv1.CustomResourceDefinition, error) {
	crd, err := l.CustomResourceDefinitionLister.Get(name)
	if err != nil {
		return nil, err
	}
	for i, c := range crd.Status.Conditions {
		if c.Type == apiextensionsv1.Established && time.Since(c.LastTransitionTime.Time) < settlingTime {
			settled := *crd
			settled.Status.Conditions = append([]apiextensionsv1.CustomResourceDefinitionCondition(nil), crd.Status.Conditions...)
			settled.Status.Conditions[i].LastTransitionTime = metav1.NewTime(c.LastTransitionTime.Add(-settlingTime))
			return &settled, nil
		}
	}
	return crd, nil
}

// serviceResolver finds the address of a Service that a webhook is configured with, without
// cluster DNS.
type serviceResolver struct{ services *storage.REST }

// ResolveEndpoint implements webhook.ServiceResolver.
func (r serviceResolver) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	obj, err := r.services.Get(request.WithNamespace(context.Background(), namespace), name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	svc := obj.(*api.Service)
	if svc.Spec.Type == api.ServiceTypeExternalName {
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(svc.Spec.ExternalName, strconv.Itoa(int(port)))}, nil
	}
	if svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == api.ClusterIPNone {
		return nil, fmt.Errorf("service %s/%s has no cluster address: a webhook needs a Service of type ClusterIP, or a URL", namespace, name)
	}
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(svc.Spec.ClusterIP, strconv.Itoa(int(port)))}, nil
}
