package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RegistryPolicy says what holds for the repositories of its namespace in the built-in
// registry: repository shop/cart is "cart" of namespace shop. It is the administrator's; all
// policies of a namespace hold together.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=gantry,shortName=regpol
// +kubebuilder:printcolumn:name=Quota,type=string,JSONPath=`.spec.quota`
// +kubebuilder:printcolumn:name=Used,type=string,JSONPath=`.status.used`
// +kubebuilder:printcolumn:name=Repositories,type=integer,JSONPath=`.status.repositories`
// +kubebuilder:printcolumn:name=Tags,type=integer,JSONPath=`.status.tags`
// +kubebuilder:printcolumn:name=Removed,type=integer,priority=1,JSONPath=`.status.removedTags`
// +kubebuilder:printcolumn:name=Ready,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name=Why,type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=`.metadata.creationTimestamp`
type RegistryPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   RegistryPolicySpec   `json:"spec"`
	Status RegistryPolicyStatus `json:"status,omitempty"`
}

// RegistryPolicySpec is what the administrator wants.
//
// +kubebuilder:validation:MinProperties=1
type RegistryPolicySpec struct {
	// ImmutableTags are patterns of tags that, once pushed, are neither moved to another image
	// nor deleted by clients: * stands for any characters.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:Pattern=`^[a-zA-Z0-9._*-]+$`
	// +listType=set
	ImmutableTags []string `json:"immutableTags,omitempty"`

	// Quota is how many bytes the content of the namespace's repositories may have, each blob
	// counted once. What would exceed it is refused.
	Quota *resource.Quantity `json:"quota,omitempty"`

	// Retention says which tags are removed, every few hours: those of a repository for which
	// there are rules, unless one of the rules keeps them. Images without tags are collected.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	Retention []RetentionRule `json:"retention,omitempty"`

	// Upstreams are other registries whose images are pulled through this one and kept here:
	// repository NAMESPACE/NAME/library/nginx is library/nginx of the upstream NAME. Clients
	// cannot push to such repositories.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	Upstreams []RegistryUpstream `json:"upstreams,omitempty"`
}

// RetentionRule keeps tags.
//
// +kubebuilder:validation:XValidation:rule="has(self.keepLast) || has(self.keepYoungerThan) || has(self.keepTags)",message="keep something: keepLast, keepYoungerThan or keepTags"
type RetentionRule struct {
	// Repositories are patterns of names within the namespace; without any the rule is for all.
	//
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=255
	// +listType=set
	Repositories []string `json:"repositories,omitempty"`

	// KeepLast is how many of the tags pushed last are kept.
	//
	// +kubebuilder:validation:Minimum=0
	KeepLast *int32 `json:"keepLast,omitempty"`

	// KeepYoungerThan keeps tags that were pushed within that time, such as 720h.
	KeepYoungerThan *metav1.Duration `json:"keepYoungerThan,omitempty"`

	// KeepTags are patterns of tags that are kept.
	//
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	// +listType=set
	KeepTags []string `json:"keepTags,omitempty"`
}

// RegistryUpstream is another registry.
type RegistryUpstream struct {
	// Name is what the upstream is called in names of repositories.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]+([._-][a-z0-9]+)*$`
	Name string `json:"name"`

	// Server is its address, such as https://registry-1.docker.io.
	//
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^https?://[^/]+$`
	Server string `json:"server"`

	// CABundle are the PEM certificates of the authorities that it may have its certificate
	// from; without them the host's.
	CABundle []byte `json:"caBundle,omitempty"`

	// SecretName is a Secret of type kubernetes.io/basic-auth in namespace gantry-system with
	// the login for it.
	//
	// +kubebuilder:validation:MaxLength=253
	SecretName string `json:"secretName,omitempty"`

	// RefreshSeconds is for how long a tag is answered without asking the upstream whether it
	// has moved. When the upstream does not answer, what is here is.
	//
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=0
	RefreshSeconds int32 `json:"refreshSeconds,omitempty"`
}

// RegistryPolicyStatus is what the registry has found and done.
type RegistryPolicyStatus struct {
	// Used are the bytes of all content of the namespace's repositories.
	Used *resource.Quantity `json:"used,omitempty"`
	// Repositories and Tags are how many there are.
	Repositories int32 `json:"repositories,omitempty"`
	Tags         int32 `json:"tags,omitempty"`
	// RemovedTags is how many tags the retention rules have removed so far.
	RemovedTags int64 `json:"removedTags,omitempty"`
	// Checked is when this was found.
	Checked *metav1.Time `json:"checked,omitempty"`

	// Conditions: Ready is true while the policy is kept.
	//
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// RegistryPolicyList is a list of RegistryPolicies.
//
// +kubebuilder:object:root=true
type RegistryPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []RegistryPolicy `json:"items"`
}
