package main

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	extensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
)

// The API server takes the definitions that this program brings along for valid when
// they are first created. This is where they are validated, as it would.
func TestOwnDefinitionsAreValid(t *testing.T) {
	root := filepath.Join("..", "..")
	count := 0
	for _, pattern := range []string{"api/*/crds/*.yaml", "services/*/crds/*.yaml", "services/*/*/crds/*.yaml"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			obj, _, err := extensions.Codecs.UniversalDeserializer().Decode(text, nil, nil)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			extensions.Scheme.Default(obj)
			crd := &apiextensions.CustomResourceDefinition{}
			if err := extensions.Scheme.Convert(obj, crd, nil); err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			for _, v := range crd.Spec.Versions { // as the registry's strategy does
				if v.Storage {
					crd.Status.StoredVersions = []string{v.Name}
				}
			}
			for _, problem := range validation.ValidateCustomResourceDefinition(t.Context(), crd) {
				t.Errorf("%s: %v", path, problem)
			}
			count++
		}
	}
	if count < 10 {
		t.Errorf("only %d definitions were found", count)
	}
}
