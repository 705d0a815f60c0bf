package policy

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// The policies in the operator's page can be kept as they stand there.
func TestExamplesOfTheOperatorsPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/operate/registry.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile(`(?m)(^    apiVersion: gantry.dev.*\n(    .*\n)+)`).FindAllString(string(page), -1)
	if len(examples) != 2 {
		t.Fatalf("%d examples, want 2", len(examples))
	}
	for _, text := range examples {
		var p v1alpha1.RegistryPolicy
		if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(text, "\n    ", "\n")[4:]), &p); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if _, err := holds([]*v1alpha1.RegistryPolicy{&p}, p.Namespace+"/hub/library/nginx", nil); err != nil {
			t.Error(err)
		}
	}
}
