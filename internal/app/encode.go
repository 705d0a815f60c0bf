package app

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// encoded is an Application as text: what Load read, or what was deployed, to be
// deployed by another process or again.
type encoded struct {
	Name, Namespace, Source string
	Images                  []Image         `json:",omitempty"`
	Objects                 []encodedObject `json:",omitempty"`
	ImageChanges            []ImageChange   `json:",omitempty"`
	Warnings                []string        `json:",omitempty"`
}

type encodedObject struct {
	Object map[string]any
	Origin string
	Wave   int   `json:",omitempty"`
	Await  await `json:",omitempty"`
}

// Encode writes the application as JSON. It holds the application's secrets.
func (a *Application) Encode() ([]byte, error) {
	e := encoded{Name: a.Name, Namespace: a.Namespace, Source: a.Source, Images: a.Images, ImageChanges: a.ImageChanges, Warnings: a.Warnings}
	for _, o := range a.Objects {
		e.Objects = append(e.Objects, encodedObject{Object: o.Object, Origin: o.Origin, Wave: o.Wave, Await: o.Await})
	}
	text, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode application %s: %w", a.Name, err)
	}
	return text, nil
}

// Decode reads what Encode wrote.
func Decode(text []byte) (*Application, error) {
	var e encoded
	if err := json.Unmarshal(text, &e); err != nil {
		return nil, fmt.Errorf("decode application: %w", err)
	}
	a := &Application{Name: e.Name, Namespace: e.Namespace, Source: e.Source, Images: e.Images, ImageChanges: e.ImageChanges, Warnings: e.Warnings}
	for _, o := range e.Objects {
		integers(o.Object)
		a.Objects = append(a.Objects, &Object{Unstructured: &unstructured.Unstructured{Object: o.Object}, Origin: o.Origin, Wave: o.Wave, Await: o.Await})
	}
	return a, nil
}

// integers makes whole numbers out of what JSON knows only as floating point: objects
// of Kubernetes hold int64.
func integers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = integers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = integers(e)
		}
	case float64:
		if n := int64(v); float64(n) == v {
			return n
		}
	}
	return v
}

// UseBuilt puts images that were built elsewhere, by the names that the objects use,
// in place of those to build: Deploy then builds nothing.
func (a *Application) UseBuilt(refs map[string]string) error {
	for _, i := range a.Images {
		if refs[i.Name] == "" {
			return fmt.Errorf("image %s of application %s was not built", i.Name, a.Name)
		}
	}
	a.Images = nil
	for i := range a.ImageChanges {
		name := a.ImageChanges[i].Image
		if a.ImageChanges[i].Image = cmp.Or(refs[name], refs[a.Namespace+"/"+name]); a.ImageChanges[i].Image == "" {
			return fmt.Errorf("image %s was not built", name)
		}
	}
	return a.pin(refs)
}

// InNamespace deploys into a namespace that exists already: its own object is not
// touched, so that whoever deploys needs no rights over namespaces.
func (a *Application) InNamespace() {
	a.Objects = slices.DeleteFunc(a.Objects, func(o *Object) bool {
		return o.GetKind() == "Namespace" && o.GetAPIVersion() == "v1" && o.GetName() == a.Namespace
	})
}
