package main

import (
	"os"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// An API server drops fields that a definition does not have, without a word: routes would
// be served without what they ask for.
func TestTheDefinitionsHaveTheExperimentalFieldsThatAreServed(t *testing.T) {
	text, err := os.ReadFile("../httproutes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var definition apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(text, &definition); err != nil {
		t.Fatal(err)
	}
	for _, version := range definition.Spec.Versions {
		rule := version.Schema.OpenAPIV3Schema.Properties["spec"].Properties["rules"].Items.Schema
		for field, part := range map[string]string{"retry": "codes", "sessionPersistence": "absoluteTimeout"} {
			if _, ok := rule.Properties[field].Properties[part]; !ok {
				t.Errorf("version %s has no spec.rules[].%s.%s", version.Name, field, part)
			}
		}
		if _, ok := rule.Properties["name"]; !ok {
			t.Errorf("version %s has no spec.rules[].name: the path to the fields has changed", version.Name)
		}
	}
}
