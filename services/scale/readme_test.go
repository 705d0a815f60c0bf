package scale

import (
	"os"
	"regexp"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/scale/decision"
)

// The examples of the README are policies as they stand there, and their schedules are understood.
// That the API accepts such ones is part of the story in test/script.
func TestExamplesOfTheReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(examples) != 2 {
		t.Fatalf("%d examples, want 2", len(examples))
	}
	for _, text := range examples {
		var p v1alpha1.ScalePolicy
		if err := yaml.UnmarshalStrict(text[1], &p); err != nil {
			t.Fatalf("decode:\n%s\n%v", text[1], err)
		}
		if p.Kind != "ScalePolicy" || p.APIVersion != v1alpha1.GroupVersion.String() || len(p.Spec.Targets) == 0 {
			t.Errorf("not a policy with targets:\n%s", text[1])
		}
		if _, err := decision.NewCalendar(p.Spec.Schedules); err != nil {
			t.Error(err)
		}
	}
}
