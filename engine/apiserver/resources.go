package apiserver

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	internalcore "k8s.io/kubernetes/pkg/apis/core"

	"github.com/gantryhq/gantry/engine/apiserver/inproc"
)

// servedVersions is the API: every version of every group that is served, in the order in which
// discovery offers them.
var servedVersions = []schema.GroupVersion{
	corev1.SchemeGroupVersion,
	apiextensionsv1.SchemeGroupVersion,
	authenticationv1.SchemeGroupVersion,
	authorizationv1.SchemeGroupVersion,
	autoscalingv2.SchemeGroupVersion,
	autoscalingv1.SchemeGroupVersion,
	batchv1.SchemeGroupVersion,
	certificatesv1.SchemeGroupVersion,
	coordinationv1.SchemeGroupVersion,
	discoveryv1.SchemeGroupVersion,
	networkingv1.SchemeGroupVersion,
	nodev1.SchemeGroupVersion,
	policyv1.SchemeGroupVersion,
	rbacv1.SchemeGroupVersion,
	schedulingv1.SchemeGroupVersion,
	storagev1.SchemeGroupVersion,
	appsv1.SchemeGroupVersion,
	admissionregistrationv1.SchemeGroupVersion,
	eventsv1.SchemeGroupVersion,
	resourcev1.SchemeGroupVersion,
	apiregistrationv1.SchemeGroupVersion,
}

// servedResources tells upstream's storage providers what to set up.
func servedResources() *serverstorage.ResourceConfig {
	c := serverstorage.NewResourceConfig()
	c.EnableVersions(servedVersions...)
	// Their admission plugin asks for all OpenAPI documents every second.
	c.DisableResources(
		admissionregistrationv1.SchemeGroupVersion.WithResource("mutatingadmissionpolicies"),
		admissionregistrationv1.SchemeGroupVersion.WithResource("mutatingadmissionpolicybindings"),
	)
	// Service addresses are allocated in memory from one range, so there is nothing to configure
	// or to look at in these.
	c.DisableResources(
		networkingv1.SchemeGroupVersion.WithResource("servicecidrs"),
		networkingv1.SchemeGroupVersion.WithResource("ipaddresses"),
	)
	return c
}

// relaxedWrites lists what in-process components rebuild by themselves after a crash: their
// writes are visible at once and reach the disk with the next commit. The same writes of
// external clients are durable before they are answered.
var relaxedWrites = map[schema.GroupResource]sets.Set[string]{ // to subresources, "" is the resource
	{Resource: "events"}:                                         sets.New(""),
	{Group: "events.k8s.io", Resource: "events"}:                 sets.New(""),
	{Group: "coordination.k8s.io", Resource: "leases"}:           sets.New(""),
	{Resource: "nodes"}:                                          sets.New("status"),
	{Resource: "pods"}:                                           sets.New("status"),
	{Resource: "endpoints"}:                                      sets.New(""),
	{Group: "discovery.k8s.io", Resource: "endpointslices"}:      sets.New(""),
	{Group: "apps", Resource: "deployments"}:                     sets.New("status"),
	{Group: "apps", Resource: "replicasets"}:                     sets.New("status"),
	{Group: "apps", Resource: "statefulsets"}:                    sets.New("status"),
	{Group: "apps", Resource: "daemonsets"}:                      sets.New("status"),
	{Resource: "replicationcontrollers"}:                         sets.New("status"),
	{Group: "autoscaling", Resource: "horizontalpodautoscalers"}: sets.New("status"),
	{Group: "policy", Resource: "poddisruptionbudgets"}:          sets.New("status"),
}

// relaxed returns whether a write of the resource need not wait for the disk, or nil when every
// write must.
func relaxed(gr schema.GroupResource) func(context.Context, runtime.Object) bool {
	subresources, ok := relaxedWrites[gr]
	if !ok {
		return nil
	}
	return func(ctx context.Context, obj runtime.Object) bool {
		if _, ok := inproc.UserFrom(ctx); !ok {
			return false
		}
		info, ok := request.RequestInfoFrom(ctx)
		return ok && info.Resource == gr.Resource && subresources.Has(info.Subresource) && !lastWord(obj)
	}
}

// lastWord reports whether a status says how a pod has ended: once it is published the node
// removes the containers, and with them the exit codes, so that nobody could tell it again.
// For a pod that is being deleted nobody asks, unless somebody has a finalizer on it.
func lastWord(obj runtime.Object) bool {
	switch pod := obj.(type) {
	case *internalcore.Pod:
		over := pod.Status.Phase == internalcore.PodSucceeded || pod.Status.Phase == internalcore.PodFailed
		return over && (pod.DeletionTimestamp == nil || len(pod.Finalizers) > 0)
	case *corev1.Pod:
		over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		return over && (pod.DeletionTimestamp == nil || len(pod.Finalizers) > 0)
	}
	return false
}
