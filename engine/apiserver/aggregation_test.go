package apiserver_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
)

// weather is an extension server: group weather.example.com, one resource.
func weather(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/apis/weather.example.com/v1":
		json.NewEncoder(w).Encode(metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "weather.example.com/v1",
			APIResources: []metav1.APIResource{{Name: "reports", SingularName: "report", Namespaced: true, Kind: "Report", Verbs: metav1.Verbs{"get"}}},
		})
	case "/openapi/v3":
		fmt.Fprint(w, `{"paths":{"apis/weather.example.com/v1":{"serverRelativeURL":"/openapi/v3/apis/weather.example.com/v1?hash=FINE"}}}`)
	case "/openapi/v3/apis/weather.example.com/v1":
		fmt.Fprint(w, `{"openapi":"3.0.0","info":{"title":"weather"}}`)
	case "/apis/weather.example.com/v1/namespaces/default/reports/today":
		fmt.Fprintf(w, "%s of %s asks %s %s", r.Header.Get("X-Remote-User"), strings.Join(r.Header["X-Remote-Group"], "+"), r.URL.RawQuery, r.Header.Get("Authorization"))
	default:
		http.NotFound(w, r)
	}
}

func register(t *testing.T, cfg *rest.Config, spec apiregistrationv1.APIServiceSpec) aggregatorclient.Interface {
	t.Helper()
	c, err := aggregatorclient.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	spec.Group, spec.Version, spec.GroupPriorityMinimum, spec.VersionPriority = "weather.example.com", "v1", 1000, 10
	must[*apiregistrationv1.APIService](t)(c.ApiregistrationV1().APIServices().Create(t.Context(), &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1.weather.example.com"}, Spec: spec,
	}, metav1.CreateOptions{}))
	return c
}

// becomes waits for the condition Available.
func becomes(t *testing.T, c aggregatorclient.Interface, status apiregistrationv1.ConditionStatus) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s := must[*apiregistrationv1.APIService](t)(c.ApiregistrationV1().APIServices().Get(t.Context(), "v1.weather.example.com", metav1.GetOptions{}))
		if found := helper.GetAPIServiceConditionByType(s, apiregistrationv1.Available); found != nil && found.Status == status {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not Available=%s: %+v", status, s.Status)
		}
	}
}

// extended checks that the API has the group as if it were its own.
func extended(t *testing.T, in *instance, user string) {
	t.Helper()
	c := client(t, in.admin)
	groups, resources, err := c.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, l := range resources {
		found = found || l.GroupVersion == "weather.example.com/v1" && l.APIResources[0].Name == "reports"
	}
	if !found {
		t.Errorf("discovery does not show reports among %d groups", len(groups))
	}
	raw := func(path string) string {
		body, err := c.Discovery().RESTClient().Get().AbsPath(path).DoRaw(t.Context())
		if err != nil {
			t.Errorf("get %s: %v", path, err)
		}
		return string(body)
	}
	if doc := raw("/apis/weather.example.com"); !strings.Contains(doc, `"preferredVersion":{"groupVersion":"weather.example.com/v1"`) {
		t.Errorf("the group is %s", doc)
	}
	if index := raw("/openapi/v3"); !strings.Contains(index, "/openapi/v3/apis/weather.example.com/v1?hash=FINE") {
		t.Error("the index of OpenAPI documents does not name the extension's")
	}
	if doc := raw("/openapi/v3/apis/weather.example.com/v1"); !strings.Contains(doc, "weather") {
		t.Errorf("the document is %s", doc)
	}
	answer, err := c.Discovery().RESTClient().Get().AbsPath("/apis/weather.example.com/v1/namespaces/default/reports/today").
		Param("q", "1").SetHeader("X-Remote-User", "somebody-else").DoRaw(t.Context())
	if want := user + " of system:masters+system:authenticated asks q=1 "; err != nil || string(answer) != want {
		t.Errorf("the extension was told %q (%v), want %q", answer, err, want)
	}
	if _, err := client(t, in.ClientConfig("nobody")).Discovery().RESTClient().Get().AbsPath("/apis/weather.example.com/v1/namespaces/default/reports/today").DoRaw(t.Context()); err == nil {
		t.Error("somebody without rights reaches the extension")
	}
}

func TestAnExtensionInThisProcess(t *testing.T) {
	in := start(t, t.TempDir(), nil)
	c := register(t, in.admin, apiregistrationv1.APIServiceSpec{Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "weather"}})
	becomes(t, c, apiregistrationv1.ConditionFalse) // there is no such Service
	in.ServeExtension("default", "weather", http.HandlerFunc(weather))
	becomes(t, c, apiregistrationv1.ConditionTrue)
	extended(t, in, "admin")

	if err := c.ApiregistrationV1().APIServices().Delete(t.Context(), "v1.weather.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		groups, err := client(t, in.admin).Discovery().ServerGroups()
		if err != nil {
			t.Fatal(err)
		}
		left := false
		for _, g := range groups.Groups {
			left = left || g.Name == "weather.example.com"
		}
		if !left {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("discovery still shows the group")
		}
	}
}

func TestAnExtensionOnTheNetwork(t *testing.T) {
	in := start(t, t.TempDir(), nil)
	var caller string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller = r.TLS.PeerCertificates[0].Subject.CommonName
		weather(w, r)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	_, text, _ := net.SplitHostPort(server.Listener.Addr().String())
	number, _ := strconv.Atoi(text)
	port := int32(number)
	must[*corev1.Service](t)(client(t, in.admin).CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "weather"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}, metav1.CreateOptions{}))
	c := register(t, in.admin, apiregistrationv1.APIServiceSpec{
		Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "weather", Port: &port}, InsecureSkipTLSVerify: true})
	becomes(t, c, apiregistrationv1.ConditionTrue)
	extended(t, in, "admin")
	config := must[*corev1.ConfigMap](t)(client(t, in.admin).CoreV1().ConfigMaps("kube-system").Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{}))
	if !strings.Contains(config.Data["requestheader-allowed-names"], strconv.Quote(caller)) {
		t.Errorf("the API server calls itself %q, and announces %s", caller, config.Data["requestheader-allowed-names"])
	}
}
