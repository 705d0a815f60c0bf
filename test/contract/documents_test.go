package contract

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// notServed are the resources that a kube-apiserver has and Gantry does not, by the
// beginning of their names, with the reason.
var notServed = map[string]string{
	"admissionregistration.k8s.io/v1 mutatingadmissionpolic": "a mutating webhook does the same; policies that validate are served",
	"apiregistration.k8s.io/":                                "nothing is aggregated: one process serves all groups",
	"flowcontrol.apiserver.k8s.io/":                          "fairness among the clients of one machine needs no configuration",
	"networking.k8s.io/v1 ipaddresses":                       "service addresses are kept in memory and filled from the Services at start",
	"networking.k8s.io/v1 servicecidrs":                      "the range of service addresses is a flag of `gantry serve`",
	"v1 componentstatuses":                                   "deprecated since Kubernetes 1.19: /readyz says more",
}

// onlyOurs are those that Gantry has besides, with the reason.
var onlyOurs = map[string]string{
	"gateway.networking.k8s.io/": "the gateway is built in",
	"metrics.k8s.io/":            "on a cluster metrics-server serves it",
}

// reason finds the reason of a name.
func reason(reasons map[string]string, name string) string {
	for prefix, why := range reasons {
		if strings.HasPrefix(name, prefix) {
			return why
		}
	}
	return ""
}

// compareDiscovery compares what is served: groups, versions, kinds, verbs, short names.
func compareDiscovery(t *testing.T, theirs, ours *teller) {
	want, got := resources(theirs), resources(ours)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		mine, served := got[name]
		switch why := reason(notServed, name); {
		case !served && why == "":
			t.Errorf("Gantry does not serve %s", name)
		case served && why != "":
			t.Errorf("Gantry serves %s now: take the reason away (%s)", name, why)
		case served && !reflect.DeepEqual(mine, want[name]):
			t.Errorf("%s:\n  Kubernetes: %+v\n  Gantry:     %+v", name, want[name], mine)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, known := want[name]; !known && reason(onlyOurs, name) == "" {
			t.Errorf("Gantry serves %s, which Kubernetes does not", name)
		}
	}
}

// resources is everything served, by group, version and name.
func resources(s *teller) map[string]metav1.APIResource {
	s.Helper()
	all := map[string]metav1.APIResource{}
	_, lists, err := s.client.Discovery().ServerGroupsAndResources()
	s.must(err)
	for _, list := range lists {
		for _, r := range list.APIResources {
			r.StorageVersionHash = "" // an aid for the migration of etcd
			slices.Sort(r.Categories)
			all[list.GroupVersion+" "+r.Name] = r
		}
	}
	return all
}

// compareOpenAPI compares the schemas and the paths of every group that both serve:
// what kubectl explains, and what clients are generated from.
func compareOpenAPI(t *testing.T, theirs, ours *teller) {
	want, got := documents(theirs), documents(ours)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		mine, served := got[name]
		if !served {
			continue // discovery says so
		}
		for _, difference := range openAPIDifferences(want[name], mine) {
			t.Errorf("/openapi/v3/%s: %s", name, difference)
		}
	}
}

// openAPI is the part of a document that is compared.
type openAPI struct {
	Paths      map[string]map[string]any
	Components struct{ Schemas map[string]any }
}

// documents reads the OpenAPI document of each group and version.
func documents(s *teller) map[string]openAPI {
	s.Helper()
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	s.must(json.Unmarshal([]byte(s.raw("GET", "/openapi/v3", "").body), &index))
	all := map[string]openAPI{}
	for name, at := range index.Paths {
		if !strings.Contains(name, "/v") {
			continue // lists of groups and versions, logs, version
		}
		var document openAPI
		s.must(json.Unmarshal([]byte(s.raw("GET", at.ServerRelativeURL, "").body), &document))
		// The kinds of all groups are deleted with the same options and watched by the
		// same events: the list of those groups is each server's own.
		for _, shared := range []string{"DeleteOptions", "WatchEvent"} {
			if schema, ok := document.Components.Schemas["io.k8s.apimachinery.pkg.apis.meta.v1."+shared].(map[string]any); ok {
				delete(schema, "x-kubernetes-group-version-kind")
			}
		}
		all[name] = document
	}
	return all
}

// openAPIDifferences compares the paths that both serve, and all schemas that those need.
func openAPIDifferences(want, got openAPI) (all []string) {
	needed := map[string]bool{}
	for _, path := range slices.Sorted(maps.Keys(want.Paths)) {
		mine, there := got.Paths[path]
		if !there {
			if reason(notServed, pathName(path)) == "" {
				all = append(all, "the path "+path+" is missing")
			}
			continue
		}
		want.need(needed, want.Paths[path])
		for _, verb := range slices.Sorted(maps.Keys(want.Paths[path])) {
			if _, there := mine[verb]; !there {
				all = append(all, "the path "+path+" has no "+verb)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		mine, there := got.Components.Schemas[name]
		if !there {
			all = append(all, "the schema "+name+" is missing")
			continue
		}
		var a, b strings.Builder
		flatten(&a, "", want.Components.Schemas[name])
		flatten(&b, "", mine)
		if difference := difference(a.String(), b.String()); difference != "" {
			all = append(all, "the schema "+name+":\n"+difference)
		}
	}
	return all
}

// pathName is what notServed calls a path: "networking.k8s.io/v1 ipaddresses".
func pathName(path string) string {
	parts := strings.Split(strings.ReplaceAll(path, "/watch/", "/"), "/")
	if parts[1] == "api" {
		return parts[2] + " " + strings.Join(parts[3:], "/")
	}
	return parts[2] + "/" + parts[3] + " " + strings.Join(parts[4:], "/")
}

// need adds the schemas that a part of the document refers to.
func (o openAPI) need(needed map[string]bool, part any) {
	switch part := part.(type) {
	case map[string]any:
		for key, value := range part {
			name, isRef := value.(string)
			if name = strings.TrimPrefix(name, "#/components/schemas/"); key == "$ref" && isRef && !needed[name] {
				needed[name] = true
				o.need(needed, o.Components.Schemas[name])
			}
			o.need(needed, value)
		}
	case []any:
		for _, value := range part {
			o.need(needed, value)
		}
	}
}
