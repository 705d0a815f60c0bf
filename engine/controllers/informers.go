package controllers

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
)

// wholeKinds are the kinds that controllers or the scheduler read as a whole.
// The garbage collector and quotas, which look at every kind, see these
// through the shared informers and only the metadata of all others: ConfigMaps,
// Secrets, custom resources and the like are not held in memory twice.
var wholeKinds = map[schema.GroupVersionResource]bool{
	{Version: "v1", Resource: "endpoints"}:                                        true,
	{Version: "v1", Resource: "namespaces"}:                                       true,
	{Version: "v1", Resource: "nodes"}:                                            true,
	{Version: "v1", Resource: "persistentvolumeclaims"}:                           true,
	{Version: "v1", Resource: "persistentvolumes"}:                                true,
	{Version: "v1", Resource: "pods"}:                                             true,
	{Version: "v1", Resource: "replicationcontrollers"}:                           true,
	{Version: "v1", Resource: "resourcequotas"}:                                   true,
	{Version: "v1", Resource: "serviceaccounts"}:                                  true,
	{Version: "v1", Resource: "services"}:                                         true,
	{Group: "apps", Version: "v1", Resource: "controllerrevisions"}:               true,
	{Group: "apps", Version: "v1", Resource: "daemonsets"}:                        true,
	{Group: "apps", Version: "v1", Resource: "deployments"}:                       true,
	{Group: "apps", Version: "v1", Resource: "replicasets"}:                       true,
	{Group: "apps", Version: "v1", Resource: "statefulsets"}:                      true,
	{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}:   true,
	{Group: "batch", Version: "v1", Resource: "cronjobs"}:                         true,
	{Group: "batch", Version: "v1", Resource: "jobs"}:                             true,
	{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}:        true,
	{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"}:            true,
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}: true,
	{Group: "resource.k8s.io", Version: "v1", Resource: "deviceclasses"}:          true,
	{Group: "resource.k8s.io", Version: "v1", Resource: "resourceclaims"}:         true,
	{Group: "resource.k8s.io", Version: "v1", Resource: "resourceslices"}:         true,
	{Group: "storage.k8s.io", Version: "v1", Resource: "csidrivers"}:              true,
	{Group: "storage.k8s.io", Version: "v1", Resource: "csinodes"}:                true,
	{Group: "storage.k8s.io", Version: "v1", Resource: "csistoragecapacities"}:    true,
	{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"}:          true,
	{Group: "storage.k8s.io", Version: "v1", Resource: "volumeattachments"}:       true,
}

// everyKind is the informerfactory.InformerFactory of the controllers that
// look at all kinds.
type everyKind struct{ e *environment }

// ForResource answers the informer of a kind.
func (k everyKind) ForResource(kind schema.GroupVersionResource) (informers.GenericInformer, error) {
	if wholeKinds[kind] {
		return k.e.informers.ForResource(kind)
	}
	return k.e.metadata.ForResource(kind), nil
}

// Start starts informers that were asked for since the last call.
func (k everyKind) Start(stop <-chan struct{}) {
	k.e.informers.Start(stop)
	k.e.metadata.Start(stop)
}
