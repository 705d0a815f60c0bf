package apiserver

import (
	"net/http"
	"slices"
	"strings"
	"sync"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apiextensionshelpers "k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/client-go/tools/cache"
)

// crdDiscovery publishes the groups and versions of custom resources. Upstream's controller for
// this cannot be used without upstream's server.
type crdDiscovery struct {
	crds       *customResources
	serializer runtime.NegotiatedSerializer
	groupList  discovery.GroupManager     // /apis
	aggregated aggregated.ResourceManager // /apis in one document

	mu       sync.RWMutex                         // guards following
	groups   map[string]http.Handler              // /apis/<group>
	versions map[schema.GroupVersion]http.Handler // /apis/<group>/<version>
}

// newCRDDiscovery follows the definitions once they are started.
func newCRDDiscovery(crds *customResources, g *apiGroups) *crdDiscovery {
	d := &crdDiscovery{
		crds: crds, serializer: g.serializer, groupList: g.groupList, aggregated: g.groups.WithSource(aggregated.CRDSource),
		groups: map[string]http.Handler{}, versions: map[schema.GroupVersion]http.Handler{},
	}
	changed := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition); ok {
			d.publish(crd.Spec.Group)
		}
	}
	_, _ = crds.informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, obj any) { changed(obj) }, DeleteFunc: changed,
	}) // fails only for an informer that was stopped
	return d
}

// ServeHTTP answers /apis/<group> and /apis/<group>/<version> and passes other paths on.
func (d *crdDiscovery) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	d.mu.RLock()
	h := http.NotFoundHandler()
	switch len(parts) {
	case 2:
		if group, ok := d.groups[parts[1]]; ok {
			h = group
		}
	case 3:
		if version, ok := d.versions[schema.GroupVersion{Group: parts[1], Version: parts[2]}]; ok {
			h = version
		}
	default:
		h = d.crds.handler
	}
	d.mu.RUnlock()
	h.ServeHTTP(w, r)
}

// publish makes the documents of one group from its definitions.
func (d *crdDiscovery) publish(group string) {
	all, err := d.crds.informer.Lister().List(labels.Everything())
	if err != nil {
		return // a lister of an informer cannot fail
	}
	var kinds []*apiextensionsv1.CustomResourceDefinition
	served := map[string]bool{}
	for _, crd := range all {
		if crd.Spec.Group != group || !apiextensionshelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
			continue
		}
		kinds = append(kinds, crd)
		for _, v := range crd.Spec.Versions {
			if v.Served {
				served[v.Name] = true
			}
		}
	}
	slices.SortFunc(kinds, func(a, b *apiextensionsv1.CustomResourceDefinition) int { return strings.Compare(a.Name, b.Name) })

	d.mu.Lock()
	defer d.mu.Unlock()
	d.withdraw(group, served)
	if len(served) == 0 {
		return
	}
	names := make([]string, 0, len(served))
	for name := range served {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return -version.CompareKubeAwareVersionStrings(a, b) })
	doc := metav1.APIGroup{Name: group}
	for i, name := range names {
		gv := schema.GroupVersion{Group: group, Version: name}
		doc.Versions = append(doc.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: name})
		plain, entries := describe(kinds, gv)
		d.versions[gv] = discovery.NewAPIVersionHandler(d.serializer, gv, discovery.APIResourceListerFunc(func() []metav1.APIResource { return plain }))
		d.aggregated.AddGroupVersion(group, apidiscoveryv2.APIVersionDiscovery{
			Version: name, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Resources: entries})
		d.aggregated.SetGroupVersionPriority(metav1.GroupVersion(gv), 1000, 100+len(names)-i)
	}
	doc.PreferredVersion = doc.Versions[0]
	d.groups[group] = discovery.NewAPIGroupHandler(d.serializer, doc)
	d.groupList.AddGroup(doc)
}

// withdraw removes what a group no longer serves. The caller holds mu.
func (d *crdDiscovery) withdraw(group string, served map[string]bool) {
	for gv := range d.versions {
		if gv.Group == group && !served[gv.Version] {
			delete(d.versions, gv)
			d.aggregated.RemoveGroupVersion(metav1.GroupVersion(gv))
		}
	}
	if len(served) == 0 && d.groups[group] != nil {
		delete(d.groups, group)
		d.groupList.RemoveGroup(group)
		d.aggregated.RemoveGroup(group)
	}
}

// describe lists the resources of one version, for plain and for aggregated discovery.
func describe(kinds []*apiextensionsv1.CustomResourceDefinition, gv schema.GroupVersion) (plain []metav1.APIResource, entries []apidiscoveryv2.APIResourceDiscovery) {
	for _, crd := range kinds {
		i := slices.IndexFunc(crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool {
			return v.Name == gv.Version && v.Served
		})
		if i < 0 {
			continue
		}
		names := crd.Status.AcceptedNames
		verbs := metav1.Verbs{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}
		if apiextensionshelpers.IsCRDConditionTrue(crd, apiextensionsv1.Terminating) {
			verbs = metav1.Verbs{"delete", "deletecollection", "get", "list", "watch"}
		}
		scope, namespaced := apidiscoveryv2.ScopeCluster, false
		if crd.Spec.Scope == apiextensionsv1.NamespaceScoped {
			scope, namespaced = apidiscoveryv2.ScopeNamespace, true
		}
		kind := metav1.GroupVersionKind{Group: gv.Group, Version: gv.Version, Kind: names.Kind}
		plain = append(plain, metav1.APIResource{
			Name: names.Plural, SingularName: names.Singular, Namespaced: namespaced, Kind: names.Kind, Verbs: verbs,
			ShortNames: names.ShortNames, Categories: names.Categories, StorageVersionHash: storageVersionHash(crd),
		})
		entry := apidiscoveryv2.APIResourceDiscovery{
			Resource: names.Plural, SingularResource: names.Singular, Scope: scope, ResponseKind: &kind, Verbs: verbs,
			ShortNames: names.ShortNames, Categories: names.Categories,
		}
		for _, sub := range subresources(crd.Spec.Versions[i], kind) {
			plain = append(plain, metav1.APIResource{
				Name: names.Plural + "/" + sub.Subresource, Namespaced: namespaced, Verbs: sub.Verbs,
				Group: groupUnless(sub.ResponseKind, gv), Version: versionUnless(sub.ResponseKind, gv), Kind: sub.ResponseKind.Kind,
			})
			entry.Subresources = append(entry.Subresources, sub)
		}
		entries = append(entries, entry)
	}
	return plain, entries
}

func subresources(v apiextensionsv1.CustomResourceDefinitionVersion, kind metav1.GroupVersionKind) []apidiscoveryv2.APISubresourceDiscovery {
	var subs []apidiscoveryv2.APISubresourceDiscovery
	if v.Subresources == nil {
		return nil
	}
	verbs := metav1.Verbs{"get", "patch", "update"}
	if v.Subresources.Status != nil {
		subs = append(subs, apidiscoveryv2.APISubresourceDiscovery{Subresource: "status", ResponseKind: &kind, Verbs: verbs})
	}
	if v.Subresources.Scale != nil {
		scale := metav1.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}
		subs = append(subs, apidiscoveryv2.APISubresourceDiscovery{Subresource: "scale", ResponseKind: &scale, Verbs: verbs})
	}
	return subs
}

// groupUnless answers the group of a subresource's kind when it is not the resource's own.
func groupUnless(kind *metav1.GroupVersionKind, gv schema.GroupVersion) string {
	if kind.Group == gv.Group {
		return ""
	}
	return kind.Group
}

func versionUnless(kind *metav1.GroupVersionKind, gv schema.GroupVersion) string {
	if kind.Group == gv.Group {
		return ""
	}
	return kind.Version
}

func storageVersionHash(crd *apiextensionsv1.CustomResourceDefinition) string {
	for _, v := range crd.Spec.Versions {
		if v.Storage {
			return discovery.StorageVersionHash(crd.Spec.Group, v.Name, crd.Spec.Names.Kind)
		}
	}
	return ""
}
