package contract

import (
	"errors"
	"fmt"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// define creates the kind Widget in a group of the story's own and waits until it is served.
func (s *teller) define() (group string, v1 dynamic.ResourceInterface) {
	s.Helper()
	group = s.namespace + ".example.com"
	props := func(p map[string]apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
		return apiextensionsv1.JSONSchemaProps{Type: "object", Properties: p}
	}
	spec := props(map[string]apiextensionsv1.JSONSchemaProps{
		"size":     {Type: "integer", Minimum: pointer(1.0)},
		"colour":   {Type: "string", Enum: []apiextensionsv1.JSON{{Raw: []byte(`"red"`)}, {Raw: []byte(`"blue"`)}}, Default: &apiextensionsv1.JSON{Raw: []byte(`"red"`)}},
		"replicas": {Type: "integer", Default: &apiextensionsv1.JSON{Raw: []byte(`1`)}},
	})
	spec.Required = []string{"size"}
	spec.XValidations = apiextensionsv1.ValidationRules{
		{Rule: "self.size < 100", Message: "size must stay below 100"},
		{Rule: "self.colour == oldSelf.colour", Message: "colour is for ever"},
	}
	root := props(map[string]apiextensionsv1.JSONSchemaProps{
		"spec":   spec,
		"status": props(map[string]apiextensionsv1.JSONSchemaProps{"replicas": {Type: "integer"}}),
	})
	version := func(name string, storage bool) apiextensionsv1.CustomResourceDefinitionVersion {
		return apiextensionsv1.CustomResourceDefinitionVersion{
			Name: name, Served: true, Storage: storage,
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &root},
			Subresources: &apiextensionsv1.CustomResourceSubresources{
				Status: &apiextensionsv1.CustomResourceSubresourceStatus{},
				Scale:  &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.replicas", StatusReplicasPath: ".status.replicas"},
			},
			AdditionalPrinterColumns: []apiextensionsv1.CustomResourceColumnDefinition{{Name: "Size", Type: "integer", JSONPath: ".spec.size"}},
		}
	}
	crds := s.crds.ApiextensionsV1().CustomResourceDefinitions()
	name := "widgets." + group
	_, err := crds.Create(s.ctx, &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Scope: apiextensionsv1.NamespaceScoped,
			Names:    apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList", ShortNames: []string{"wg"}},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{version("v1", true), version("v1beta1", false)},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	s.Cleanup(func() { _ = crds.Delete(s.background(), name, metav1.DeleteOptions{}) })
	v1 = s.dynamic.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "widgets"}).Namespace(s.namespace)
	s.eventually("the kind's service", func() error {
		_, err := v1.List(s.ctx, metav1.ListOptions{})
		return err
	})
	return group, v1
}

func widget(group, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": group + "/v1", "kind": "Widget", "metadata": map[string]any{"name": name}, "spec": spec}}
}

func customResources(s *teller) {
	group, widgets := s.define()
	w, err := widgets.Create(s.ctx, widget(group, "one", map[string]any{"size": int64(5), "unknown": true}), metav1.CreateOptions{})
	s.must(err)
	if colour, _, _ := unstructured.NestedString(w.Object, "spec", "colour"); colour != "red" {
		s.Errorf("the default is missing: %v", w.Object)
	}
	if _, found, _ := unstructured.NestedBool(w.Object, "spec", "unknown"); found {
		s.Error("an unknown field was kept")
	}
	for _, bad := range []struct {
		spec map[string]any
		want string
	}{
		{map[string]any{}, "spec.size: Required"},
		{map[string]any{"size": int64(0)}, "greater than or equal to 1"},
		{map[string]any{"size": int64(500)}, "size must stay below 100"},
		{map[string]any{"size": int64(5), "colour": "green"}, "Unsupported value"},
		{map[string]any{"size": "five"}, "must be of type integer"},
	} {
		_, err := widgets.Create(s.ctx, widget(group, "bad", bad.spec), metav1.CreateOptions{})
		s.refused(err, apierrors.IsInvalid, fmt.Sprint(bad.spec))
		if !strings.Contains(err.Error(), bad.want) {
			s.Errorf("%v is refused without saying %q: %v", bad.spec, bad.want, err)
		}
	}
	_, err = widgets.Patch(s.ctx, "one", types.MergePatchType, []byte(`{"spec":{"colour":"blue"}}`), metav1.PatchOptions{})
	s.refused(err, apierrors.IsInvalid, "a change that a transition rule forbids")

	follow, err := widgets.Watch(s.ctx, metav1.ListOptions{ResourceVersion: w.GetResourceVersion()})
	s.must(err)
	defer follow.Stop()
	applied, err := widgets.Apply(s.ctx, "one", widget(group, "one", map[string]any{"size": int64(7)}), metav1.ApplyOptions{FieldManager: "alice", Force: true})
	s.must(err)
	if size, _, _ := unstructured.NestedInt64(applied.Object, "spec", "size"); size != 7 || applied.GetGeneration() != 2 {
		s.Errorf("applied: %v", applied.Object)
	}
	if kind, obj := s.next(follow, false); kind != watch.Modified || obj.(*unstructured.Unstructured).GetResourceVersion() != applied.GetResourceVersion() {
		s.Errorf("the watch saw %s of %v", kind, obj)
	}
	r := s.raw("GET", s.path("/apis/"+group+"/v1", "widgets"), "", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	if !strings.Contains(r.body, `"name":"Size"`) || !strings.Contains(r.body, `"cells":["one",7]`) {
		s.Errorf("table: %s", r.body)
	}
}

func customVersions(s *teller) {
	group, widgets := s.define()
	_, err := widgets.Create(s.ctx, widget(group, "one", map[string]any{"size": int64(5)}), metav1.CreateOptions{})
	s.must(err)
	status, err := widgets.Patch(s.ctx, "one", types.MergePatchType, []byte(`{"spec":{"size":9},"status":{"replicas":3}}`), metav1.PatchOptions{}, "status")
	s.must(err)
	size, _, _ := unstructured.NestedInt64(status.Object, "spec", "size")
	if replicas, _, _ := unstructured.NestedInt64(status.Object, "status", "replicas"); replicas != 3 || size != 5 || status.GetGeneration() != 1 {
		s.Errorf("status: %v", status.Object)
	}
	scaled, err := widgets.Patch(s.ctx, "one", types.MergePatchType, []byte(`{"spec":{"replicas":8}}`), metav1.PatchOptions{}, "scale")
	s.must(err)
	if scaled.GetKind() != "Scale" {
		s.Errorf("scale is a %s", scaled.GetKind())
	}
	beta := s.dynamic.Resource(schema.GroupVersionResource{Group: group, Version: "v1beta1", Resource: "widgets"}).Namespace(s.namespace)
	other, err := beta.Get(s.ctx, "one", metav1.GetOptions{})
	s.must(err)
	if replicas, _, _ := unstructured.NestedInt64(other.Object, "spec", "replicas"); replicas != 8 || other.GetAPIVersion() != group+"/v1beta1" {
		s.Errorf("the other version is %v", other.Object)
	}
	list, err := beta.List(s.ctx, metav1.ListOptions{})
	s.must(err)
	if len(list.Items) != 1 || list.Items[0].GetAPIVersion() != group+"/v1beta1" {
		s.Errorf("the other version's list is %v", list.Object)
	}
	s.eventually("the kind in discovery", func() error {
		found, err := s.client.Discovery().ServerResourcesForGroupVersion(group + "/v1")
		if err != nil {
			return err
		}
		names := ""
		for _, r := range found.APIResources {
			names += r.Name + " "
		}
		if names != "widgets widgets/status widgets/scale " {
			return errors.New("it has " + names)
		}
		return nil
	})
	s.eventually("the kind's schema", func() error {
		r := s.raw("GET", "/openapi/v3/apis/"+group+"/v1", "", "Accept", "application/json")
		if r.code != 200 || !strings.Contains(r.body, `"colour"`) {
			return fmt.Errorf("OpenAPI: %d %.200s", r.code, r.body)
		}
		return nil
	})
}

func customDeletion(s *teller) {
	group, widgets := s.define()
	_, err := widgets.Create(s.ctx, widget(group, "one", map[string]any{"size": int64(5)}), metav1.CreateOptions{})
	s.must(err)
	crds := s.crds.ApiextensionsV1().CustomResourceDefinitions()
	name := "widgets." + group
	s.must(crds.Delete(s.ctx, name, metav1.DeleteOptions{}))
	s.eventually("the definition's end", func() error {
		if _, err := crds.Get(s.ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("still there"), err)
		}
		return nil
	})
	s.eventually("the kind's end", func() error {
		if _, err := widgets.List(s.ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("still served"), err)
		}
		return nil
	})
	_, again := s.define()
	list, err := again.List(s.ctx, metav1.ListOptions{})
	s.must(err)
	if len(list.Items) != 0 {
		s.Errorf("%d objects outlived their kind", len(list.Items))
	}
	bad := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "things." + group}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
		Group: group, Scope: "Everywhere", Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Kind: "Thing"}}}
	_, err = crds.Create(s.ctx, bad, metav1.CreateOptions{})
	s.refused(err, apierrors.IsInvalid, "a definition that defines nothing")
}
