package controller

import (
	"encoding/json"
	"fmt"
	"reflect"
	"runtime"
	"testing"
	"unsafe"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// decodedRoute is a route as it comes from the API.
func decodedRoute(t *testing.T, i int) *gatewayv1.HTTPRoute {
	t.Helper()
	text := fmt.Sprintf(`{"metadata": {"name": "route-%d", "namespace": "shop", "labels": {"app": "shop"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
"spec": {"parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "default", "namespace": "gantry-system"}],
 "hostnames": ["host-%d.example.com"],
 "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80, "weight": 1}]}]},
"status": {"parents": [{"controllerName": "gantry.dev/gateway", "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "default", "namespace": "gantry-system"},
 "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
  {"type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}]}}`, i, i)
	r := &gatewayv1.HTTPRoute{}
	if err := json.Unmarshal([]byte(text), r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCompactingChangesNothingThatCanBeRead(t *testing.T) {
	c := &compactor{}
	for i := range 3 {
		r := decodedRoute(t, i)
		before := r.DeepCopy()
		if c.compact(r); !reflect.DeepEqual(before, r) {
			t.Errorf("%+v became %+v", before, r)
		}
	}
	c.compact((*gatewayv1.HTTPRoute)(nil))
	c.compact("no object")
}

func TestCompactedObjectsShareWhatTheyHaveInCommon(t *testing.T) {
	c, a, b := &compactor{}, decodedRoute(t, 1), decodedRoute(t, 2)
	c.compact(a)
	c.compact(b)
	if a.Spec.ParentRefs[0].Kind != b.Spec.ParentRefs[0].Kind {
		t.Error("two pointers to the same word")
	}
	if unsafe.StringData(a.Namespace) != unsafe.StringData(b.Namespace) {
		t.Error("two copies of a namespace's name")
	}
	if n := cap(a.Spec.Rules); n != 1 {
		t.Errorf("room for %d rules", n)
	}
	*decodedRoute(t, 3).Spec.ParentRefs[0].Kind = "another" // what was decoded later is its own
	if *a.Spec.ParentRefs[0].Kind != "Gateway" {
		t.Errorf("kind %q", *a.Spec.ParentRefs[0].Kind)
	}
}

// What a cached route takes of memory stays below 1.6 KB; decoded it is 3.4.
func TestACompactedRouteIsSmall(t *testing.T) {
	const many, limit = 2000, 1600
	c, kept := &compactor{}, make([]*gatewayv1.HTTPRoute, many)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range kept {
		kept[i] = decodedRoute(t, i)
		c.compact(kept[i])
	}
	each := int(heap()-before) / many
	t.Logf("%d bytes for each", each)
	if each > limit {
		t.Errorf("%d bytes for each, at most %d are wanted", each, limit)
	}
	runtime.KeepAlive(kept)
}
