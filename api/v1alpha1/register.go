package v1alpha1

import (
	"embed"
	"io/fs"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of all kinds here.
var GroupVersion = schema.GroupVersion{Group: "gantry.dev", Version: "v1alpha1"}

// AddToScheme makes the kinds known to a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&AccessPolicy{}, &AccessPolicyList{},
		&BackendPolicy{}, &BackendPolicyList{},
		&Build{}, &BuildList{},
		&Pipeline{}, &PipelineList{},
		&RegistryPolicy{}, &RegistryPolicyList{},
		&ScalePolicy{}, &ScalePolicyList{},
		&TrafficPolicy{}, &TrafficPolicyList{},
		&TrustPolicy{}, &TrustPolicyList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

//go:embed crds/*.yaml
var definitions embed.FS

// CRDs are the definitions of the kinds, one file each.
func CRDs() fs.FS {
	sub, err := fs.Sub(definitions, "crds")
	if err != nil {
		panic(err) // embedded above
	}
	return sub
}
