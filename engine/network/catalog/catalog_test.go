package catalog

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestIndexesFollowChanges(t *testing.T) {
	var changed []Key
	c := New(fake.NewClientset(), func(k Key) { changed = append(changed, k) })
	svc := func(ip string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Spec: corev1.ServiceSpec{ClusterIP: ip}}
	}
	slice := func(name string, ips ...string) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
			AddressType: discoveryv1.AddressTypeIPv4,
		}
		for _, ip := range ips {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
		}
		return s
	}
	key := Key{"shop", "db"}
	has := func(ip string) bool { return len(c.ByIP(netip.MustParseAddr(ip))) == 1 }

	c.setSlice(slice("a", "10.0.0.1")) // may arrive before its service
	if c.Get(key) != nil || c.HasNamespace("shop") {
		t.Error("a slice alone is no service")
	}
	c.setService(svc("10.96.0.5"))
	c.setSlice(slice("b", "10.0.0.2"))
	if s := c.Get(key); s == nil || len(s.Endpoints) != 2 || !has("10.96.0.5") || !has("10.0.0.1") || !has("10.0.0.2") || !c.HasNamespace("shop") {
		t.Errorf("got %+v", c.Get(key))
	}
	c.setService(svc("10.96.0.6"))
	c.setSlice(slice("a", "10.0.0.3"))
	if has("10.96.0.5") || has("10.0.0.1") || !has("10.96.0.6") || !has("10.0.0.3") {
		t.Error("former addresses are still known")
	}
	c.deleteSlice(slice("b"))
	c.deleteService(svc(""))
	if c.Get(key) != nil || c.HasNamespace("shop") || has("10.0.0.3") || len(c.All()) != 0 {
		t.Error("a deleted service is still known")
	}
	if len(changed) != 7 {
		t.Errorf("%d changes were announced, want 7", len(changed))
	}
}

func TestEndpointStates(t *testing.T) {
	yes, no := true, false
	host := "DB-0"
	eps := endpoints(map[string]*discoveryv1.EndpointSlice{"s": {Endpoints: []discoveryv1.Endpoint{
		{Addresses: []string{"10.0.0.1"}, Hostname: &host},
		{Addresses: []string{"10.0.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}},
		{Addresses: []string{"not an address"}},
		{},
	}}})
	if len(eps) != 2 {
		t.Fatalf("got %+v", eps)
	}
	// Absent conditions mean ready and serving.
	if e := eps[0]; !e.Ready || !e.Serving || e.Terminating || e.Hostname != "db-0" {
		t.Errorf("got %+v", e)
	}
	if e := eps[1]; e.Ready || !e.Serving || !e.Terminating || e.Hostname != "10-0-0-2" {
		t.Errorf("got %+v", e)
	}
}
