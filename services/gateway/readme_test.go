package gateway

import (
	"os"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/translate"
)

// The examples of the README are accepted as they stand there, attached to the
// Gateway that EnsureDefaults creates.
func TestExamplesOfTheReadme(t *testing.T) {
	objects := translate.Objects{
		Service: func(n types.NamespacedName) *corev1.Service { // every service they name exists
			return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name},
				Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}, {Port: 8080}, {Port: 9000}, {Port: 5432}}}}
		},
		Secret:    func(types.NamespacedName) *corev1.Secret { return nil },
		ConfigMap: func(types.NamespacedName) *corev1.ConfigMap { return nil },
		Namespace: func(string) *corev1.Namespace { return nil },
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(readme, -1)
	texts := strings.Split(string(defaults), "\n---\n")
	for _, e := range examples {
		texts = append(texts, strings.Split(string(e[1]), "\n---\n")...)
	}
	var backends []*v1alpha1.BackendPolicy
	for _, text := range texts {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(text), &kind); err != nil {
			t.Fatal(err)
		}
		switch kind.Kind {
		case "GatewayClass":
			objects.Classes = append(objects.Classes, unmarshal(t, text, &gatewayv1.GatewayClass{}))
		case "Gateway":
			objects.Gateways = append(objects.Gateways, unmarshal(t, text, &gatewayv1.Gateway{}))
		case "HTTPRoute":
			objects.Routes = append(objects.Routes, unmarshal(t, text, &gatewayv1.HTTPRoute{}))
		case "GRPCRoute":
			objects.GRPCRoutes = append(objects.GRPCRoutes, unmarshal(t, text, &gatewayv1.GRPCRoute{}))
		case "TLSRoute":
			objects.TLSRoutes = append(objects.TLSRoutes, unmarshal(t, text, &gatewayv1.TLSRoute{}))
		case "BackendTLSPolicy":
			objects.BackendTLS = append(objects.BackendTLS, unmarshal(t, text, &gatewayv1.BackendTLSPolicy{}))
		case "BackendPolicy":
			backends = append(backends, unmarshal(t, text, &v1alpha1.BackendPolicy{}))
		case "Ingress":
			objects.Ingresses = append(objects.Ingresses, unmarshal(t, text, &networkingv1.Ingress{}))
		}
	}
	result := translate.New().Translate(objects)
	if len(result.Routes) != 3 || len(result.Ingresses) != 1 || len(result.Wishes) != 1 {
		t.Fatalf("%d routes and %d ingresses are attached, %d certificates are wanted; want 3, 1 and 1", len(result.Routes), len(result.Ingresses), len(result.Wishes))
	}
	for name, status := range translate.NewBackendPolicies(backends, objects.Service).Statuses {
		if c := status.Ancestors[0].Conditions[0]; c.Status != metav1.ConditionTrue {
			t.Errorf("BackendPolicy %s: %s", name, c.Message)
		}
	}
	for name, parents := range result.Routes {
		for _, c := range parents[0].Conditions {
			if c.Status != metav1.ConditionTrue {
				t.Errorf("%v: %s is %s: %s", name, c.Type, c.Status, c.Message)
			}
		}
	}
	for _, p := range result.Problems {
		if !strings.Contains(p, "Secret shop/shop-tls") { // nobody made the certificate here
			t.Error(p)
		}
	}
}

func unmarshal[T any](t *testing.T, text string, into *T) *T {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
		t.Fatalf("decode %T: %v", into, err)
	}
	return into
}
