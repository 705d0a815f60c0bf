package v1alpha1

import (
	"context"
	"io/fs"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"sigs.k8s.io/yaml"
)

// An API server that does not accept a definition does not serve the kind: its rules
// compile, and cost no more than it allows.
func TestAPIServersAcceptTheDefinitions(t *testing.T) {
	files, err := fs.Glob(CRDs(), "*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("find definitions: %v, %d files", err, len(files))
	}
	for _, file := range files {
		text, err := fs.ReadFile(CRDs(), file)
		if err != nil {
			t.Fatal(err)
		}
		var external apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(text, &external); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		apiextensionsv1.SetDefaults_CustomResourceDefinition(&external)
		apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&external.Spec)
		var internal apiextensions.CustomResourceDefinition
		if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&external, &internal, nil); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		internal.Status.StoredVersions = []string{GroupVersion.Version}
		for _, err := range validation.ValidateCustomResourceDefinition(context.Background(), &internal) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
