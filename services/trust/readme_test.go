package trust

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// The examples of the README are policies as they stand there, and can be kept.
func TestExamplesOfTheReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	policies := 0
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		for _, text := range strings.Split(block[1], "\n---\n") {
			var object v1alpha1.TrustPolicy
			if err := yaml.UnmarshalStrict([]byte(text), &object); err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			object.Spec.Images = append(object.Spec.Images, "**")
			if p := compile(t.Context(), &object, newKeys(t)); p.problem != nil {
				t.Errorf("policy %s: %v", object.Name, p.problem)
			}
			policies++
		}
	}
	if policies != 3 {
		t.Errorf("%d examples, want 3", policies)
	}
}
