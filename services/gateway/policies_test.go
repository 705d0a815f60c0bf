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

// The examples in the document about policies are accepted as they stand there, each
// by itself: several of them are for the same route.
func TestExamplesOfPolicies(t *testing.T) {
	var examples [][]byte
	for _, name := range []string{"README.md", "../../docs/gateway-policies.md"} {
		document, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(document, -1) {
			if regexp.MustCompile("kind: (Access|Traffic)Policy").Match(e[1]) {
				examples = append(examples, e[1])
			}
		}
	}
	if len(examples) < 6 {
		t.Fatalf("%d examples", len(examples))
	}
	section := func(name string) *gatewayv1.SectionName { n := gatewayv1.SectionName(name); return &n }
	object := metav1.ObjectMeta{Namespace: "shop", Name: "shop"}
	for _, example := range examples {
		objects := translate.Objects{
			Service:    func(types.NamespacedName) *corev1.Service { return nil },
			Secret:     func(types.NamespacedName) *corev1.Secret { return nil },
			Namespace:  func(string) *corev1.Namespace { return nil },
			Credential: exampleSecret,
			Routes: []*gatewayv1.HTTPRoute{{ObjectMeta: object, Spec: gatewayv1.HTTPRouteSpec{
				Rules: []gatewayv1.HTTPRouteRule{{Name: section("api")}, {Name: section("pages")}, {Name: section("orders")}},
			}}},
			Ingresses: []*networkingv1.Ingress{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "admin"}}},
		}
		for _, text := range strings.Split(string(example), "\n---\n") {
			var kind metav1.TypeMeta
			if err := yaml.Unmarshal([]byte(text), &kind); err != nil {
				t.Fatal(err)
			}
			switch kind.Kind {
			case "AccessPolicy":
				objects.AccessPolicies = append(objects.AccessPolicies, unmarshal(t, text, &v1alpha1.AccessPolicy{}))
			case "TrafficPolicy":
				objects.TrafficPolicies = append(objects.TrafficPolicies, unmarshal(t, text, &v1alpha1.TrafficPolicy{}))
			default:
				t.Errorf("an example has kind %q", kind.Kind)
			}
		}
		result := translate.New().Translate(objects)
		for _, policies := range []map[types.NamespacedName]gatewayv1.PolicyStatus{result.AccessPolicies, result.TrafficPolicies} {
			for name, status := range policies {
				if len(status.Ancestors) != 1 || status.Ancestors[0].Conditions[0].Status != metav1.ConditionTrue {
					t.Errorf("%s is not accepted: %+v", name, status)
				}
			}
		}
	}
}

// exampleSecret is what the commands beside the examples make.
func exampleSecret(n types.NamespacedName) *corev1.Secret {
	data := map[string]map[string]string{
		"partners": {"acme": "key"},
		"staff":    {"htpasswd": "alice:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n"},
		"login":    {"client-secret": "secret", "cookie-secret": strings.Repeat("0123456789abcdef", 4)},
	}[n.Name]
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name}, Data: map[string][]byte{}}
	for k, v := range data {
		s.Data[k] = []byte(v)
	}
	return s
}
