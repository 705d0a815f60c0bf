// Package v1alpha1 holds Gantry's own kinds, of the API group gantry.dev: their
// types and their CustomResourceDefinitions (CRDs). There is no I/O here.
//
// Defaults and validation are part of the definitions, as OpenAPI and CEL rules
// beside the fields, so that any API server keeps to them. What depends on other
// objects is checked by the service that serves a kind and said in the status.
//
// Policies attach to their targets as the Gateway API describes (GEP-713): by
// spec.targetRefs, in their own namespace, with status.ancestors.
//
// Everyone may import it; it imports nothing of ours.
//
// +kubebuilder:object:generate=true
// +groupName=gantry.dev
package v1alpha1

//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0 object paths=. crd:maxDescLen=200 output:crd:dir=crds
