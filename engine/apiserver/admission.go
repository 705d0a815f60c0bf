package apiserver

import (
	"context"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/endpoints/request"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core"
	coreinformersv1 "k8s.io/client-go/informers/core/v1"
	admissionlisters "k8s.io/client-go/listers/admissionregistration/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	api "k8s.io/kubernetes/pkg/apis/core"
	kubeadmission "k8s.io/kubernetes/pkg/kubeapiserver/admission"
	"k8s.io/kubernetes/pkg/quota/v1/install"
	"k8s.io/kubernetes/pkg/registry/core/pod/storage"
	certapproval "k8s.io/kubernetes/plugin/pkg/admission/certificates/approval"
	certsigning "k8s.io/kubernetes/plugin/pkg/admission/certificates/signing"
	certsubject "k8s.io/kubernetes/plugin/pkg/admission/certificates/subjectrestriction"
	"k8s.io/kubernetes/plugin/pkg/admission/defaulttolerationseconds"
	"k8s.io/kubernetes/plugin/pkg/admission/limitranger"
	"k8s.io/kubernetes/plugin/pkg/admission/network/defaultingressclass"
	"k8s.io/kubernetes/plugin/pkg/admission/network/denyserviceexternalips"
	"k8s.io/kubernetes/plugin/pkg/admission/priority"
	"k8s.io/kubernetes/plugin/pkg/admission/runtimeclass"
	"k8s.io/kubernetes/plugin/pkg/admission/security/podsecurity"
	"k8s.io/kubernetes/plugin/pkg/admission/serviceaccount"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/storageclass/setdefault"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/storageobjectinuseprotection"
)

// admissionPlugins are upstream's plugins that every write passes, in upstream's order.
var admissionPlugins = []struct {
	name     string
	register func(*admission.Plugins)
}{
	{lifecycle.PluginName, lifecycle.Register},
	{limitranger.PluginName, limitranger.Register},
	{serviceaccount.PluginName, serviceaccount.Register},
	{podsecurity.PluginName, podsecurity.Register},
	{priority.PluginName, priority.Register},
	{defaulttolerationseconds.PluginName, defaulttolerationseconds.Register},
	{setdefault.PluginName, setdefault.Register},
	{storageobjectinuseprotection.PluginName, storageobjectinuseprotection.Register},
	{runtimeclass.PluginName, runtimeclass.Register},
	{certapproval.PluginName, certapproval.Register},
	{certsigning.PluginName, certsigning.Register},
	{certsubject.PluginName, certsubject.Register},
	{defaultingressclass.PluginName, defaultingressclass.Register},
	{denyserviceexternalips.PluginName, denyserviceexternalips.Register}, // unless Config.AllowExternalIPs
	{mutatingwebhook.PluginName, registerMutatingWebhooks},
	{validatingpolicy.PluginName, validatingpolicy.Register},
	{validatingwebhook.PluginName, validatingwebhook.Register},
	{resourcequota.PluginName, resourcequota.Register},
}

// noConfig gives every plugin its defaults.
type noConfig struct{}

// ConfigFor implements admission.ConfigProvider.
func (noConfig) ConfigFor(string) (io.Reader, error) { return nil, nil }

// mutatingWebhooks is upstream's plugin, which copies every object that is written, spared from
// doing so while there is no webhook.
type mutatingWebhooks struct {
	*mutatingwebhook.Plugin
	configured admissionlisters.MutatingWebhookConfigurationLister
}

func registerMutatingWebhooks(plugins *admission.Plugins) {
	plugins.Register(mutatingwebhook.PluginName, func(config io.Reader) (admission.Interface, error) {
		p, err := mutatingwebhook.NewMutatingWebhook(config)
		return &mutatingWebhooks{Plugin: p}, err
	})
}

// SetExternalKubeInformerFactory implements initializer.WantsExternalKubeInformerFactory.
func (m *mutatingWebhooks) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	m.configured = f.Admissionregistration().V1().MutatingWebhookConfigurations().Lister()
	m.Plugin.SetExternalKubeInformerFactory(f)
}

// Admit implements admission.MutationInterface.
func (m *mutatingWebhooks) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if have, err := m.configured.List(everyLabel); err == nil && len(have) == 0 && m.WaitForReady() {
		return nil
	}
	return m.Plugin.Admit(ctx, a, o)
}

// newAdmission builds the plugins. They follow what they depend on through s.informers.
func (s *Server) newAdmission(ctx context.Context) (admission.Interface, error) {
	dynamicClient, err := dynamic.NewForConfig(s.ownConfig())
	if err != nil {
		return nil, fmt.Errorf("set up admission: %w", err)
	}
	quota, err := install.NewQuotaConfigurationForAdmission(nil, quotaResources())
	if err != nil {
		return nil, fmt.Errorf("set up admission: %w", err)
	}
	plugins, names := admission.NewPlugins(), make([]string, 0, len(admissionPlugins))
	for _, p := range admissionPlugins {
		if p.name == denyserviceexternalips.PluginName && s.cfg.AllowExternalIPs {
			continue
		}
		p.register(plugins)
		names = append(names, p.name)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(s.client.Discovery()))
	chain, err := plugins.NewFromPlugins(names, noConfig{}, admission.PluginInitializers{
		initializer.New(s.client, dynamicClient, podlessInformers{s.informers, &s.core.pods}, s.may,
			utilfeature.DefaultFeatureGate, compatibility.DefaultBuildEffectiveVersion(), ctx.Done(), mapper),
		kubeadmission.NewPluginInitializer(),
		webhookinit.NewPluginInitializer(func(r webhook.AuthenticationInfoResolver) webhook.AuthenticationInfoResolver {
			return localWebhooks{r, s}
		}, serviceResolver{s.core.services}),
		quotaInitializer(func(p initializer.WantsQuotaConfiguration) { p.SetQuotaConfiguration(quota) }),
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("set up admission: %w", err)
	}
	return chain, nil
}

// startInformers begins to follow what admission depends on and returns when it is known.
func (s *Server) startInformers(ctx context.Context) error {
	s.informers.StartWithContext(ctx)
	return s.informers.WaitForCacheSyncWithContext(ctx).Err
}

type quotaInitializer func(initializer.WantsQuotaConfiguration)

// Initialize implements admission.PluginInitializer.
func (q quotaInitializer) Initialize(p admission.Interface) {
	if wants, ok := p.(initializer.WantsQuotaConfiguration); ok {
		q(wants)
	}
}

// quotaResources is everything that is served except device claims: counting them would need a
// cache of all pods.
func quotaResources() serverstorage.APIResourceConfigSource {
	c := servedResources()
	c.DisableResources(resourcev1.SchemeGroupVersion.WithResource("resourceclaims"))
	return c
}

// podlessInformers are informers that read pods from storage: PodSecurity wants a namespace's
// pods when the namespace's labels change, for which a second copy of all pods, kept up to date
// with every status, is a high price.
type podlessInformers struct {
	informers.SharedInformerFactory
	pods *storage.PodStorage
}

// Core implements informers.SharedInformerFactory.
func (f podlessInformers) Core() coreinformers.Interface {
	return podlessCore{f.SharedInformerFactory.Core(), f.pods}
}

type podlessCore struct {
	coreinformers.Interface
	pods *storage.PodStorage
}

// V1 implements core.Interface.
func (c podlessCore) V1() coreinformersv1.Interface { return podlessV1{c.Interface.V1(), c.pods} }

type podlessV1 struct {
	coreinformersv1.Interface
	pods *storage.PodStorage
}

// Pods implements v1.Interface.
func (v podlessV1) Pods() coreinformersv1.PodInformer { return storedPods{v.pods, ""} }

// storedPods lists pods of one namespace, or all.
type storedPods struct {
	pods      *storage.PodStorage
	namespace string
}

// Informer implements v1.PodInformer. No plugin may ask for it.
func (p storedPods) Informer() cache.SharedIndexInformer {
	panic("an admission plugin follows all pods: give it what it needs from storage")
}

// Lister implements v1.PodInformer.
func (p storedPods) Lister() corelisters.PodLister { return p }

// Pods implements PodLister.
func (p storedPods) Pods(namespace string) corelisters.PodNamespaceLister {
	return storedPods{p.pods, namespace}
}

// List implements PodLister and PodNamespaceLister.
func (p storedPods) List(selector labels.Selector) ([]*corev1.Pod, error) {
	ctx := request.WithNamespace(context.Background(), p.namespace)
	obj, err := p.pods.Pod.List(ctx, &metainternal.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	items := obj.(*api.PodList).Items
	pods := make([]*corev1.Pod, len(items))
	for i := range items {
		pods[i] = &corev1.Pod{}
		if err := legacyscheme.Scheme.Convert(&items[i], pods[i], nil); err != nil {
			return nil, err
		}
	}
	return pods, nil
}

// Get implements PodNamespaceLister.
func (p storedPods) Get(name string) (*corev1.Pod, error) {
	return get(context.Background(), p.pods.Pod, p.namespace, name, &corev1.Pod{})
}
