package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TrustPolicy says which images may run in which namespaces: who must have signed them, what
// they may be built on, how their last scan must have ended, and what else must be attested.
//
// An image must satisfy every policy that covers it. It is checked when a pod is created, where
// its tag is replaced by the digest that was checked, and again before a container starts.
// Namespaces of the system (kube-system, gantry-system) are never covered.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=gantry,shortName=trust
// +kubebuilder:printcolumn:name=Mode,type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name=Images,type=string,JSONPath=`.spec.images`
// +kubebuilder:printcolumn:name=Ready,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name=Why,type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="the name must have at most 63 characters"
type TrustPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   TrustPolicySpec   `json:"spec"`
	Status TrustPolicyStatus `json:"status,omitempty"`
}

// TrustPolicySpec is what is covered and what is demanded of it.
//
// +kubebuilder:validation:XValidation:rule="has(self.signatures) || has(self.baseImages) || has(self.scan) || has(self.attestations)",message="demand something: signatures, baseImages, scan or attestations"
type TrustPolicySpec struct {
	// NamespaceSelector chooses the namespaces by their labels; empty is all. A namespace has its
	// name as label kubernetes.io/metadata.name.
	//
	// +kubebuilder:default={}
	NamespaceSelector metav1.LabelSelector `json:"namespaceSelector,omitempty"`

	// Images chooses images by patterns of their names, with registry and without tag or digest:
	// * stands for any characters but slashes, ** for any. Names of Docker Hub begin with docker.io/.
	//
	// +kubebuilder:default={"**"}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +kubebuilder:validation:items:Pattern=`^[^\s@]+$`
	// +listType=set
	Images []string `json:"images,omitempty"`

	// ExceptImages are patterns of images that Images has and that are not covered.
	//
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +kubebuilder:validation:items:Pattern=`^[^\s@]+$`
	// +listType=set
	ExceptImages []string `json:"exceptImages,omitempty"`

	// Mode Enforce refuses what does not satisfy the policy; Warn lets it run, with a warning and an event.
	//
	// +kubebuilder:default=Enforce
	// +kubebuilder:validation:Enum=Enforce;Warn
	Mode TrustMode `json:"mode,omitempty"`

	// Signatures says who must have signed the image.
	Signatures *TrustSignatures `json:"signatures,omitempty"`

	// BaseImages says what the image may be built on.
	BaseImages *TrustBaseImages `json:"baseImages,omitempty"`

	// Scan says how the last scan for vulnerabilities must have ended.
	Scan *TrustScan `json:"scan,omitempty"`

	// Attestations are further statements that must be attached to the image, signed.
	//
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=predicateType
	Attestations []TrustAttestation `json:"attestations,omitempty"`
}

// TrustMode is what happens to an image that does not satisfy a policy.
type TrustMode string

const (
	// TrustEnforce refuses it.
	TrustEnforce TrustMode = "Enforce"
	// TrustWarn lets it run.
	TrustWarn TrustMode = "Warn"
)

// TrustSignatures are signatures of an image.
type TrustSignatures struct {
	// Keys that count.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	Keys []TrustKey `json:"keys"`

	// Require Any one of the keys, or All of them.
	//
	// +kubebuilder:default=Any
	// +kubebuilder:validation:Enum=Any;All
	Require TrustRequirement `json:"require,omitempty"`
}

// TrustRequirement is how many keys must have signed.
type TrustRequirement string

const (
	// TrustAny is one of them.
	TrustAny TrustRequirement = "Any"
	// TrustAll is each of them.
	TrustAll TrustRequirement = "All"
)

// TrustKey is a public key, from exactly one source.
//
// +kubebuilder:validation:XValidation:rule="(has(self.instance) && self.instance ? 1 : 0) + (has(self.pem) ? 1 : 0) + (has(self.secretRef) ? 1 : 0) == 1",message="give a key by exactly one of instance: true, pem and secretRef"
type TrustKey struct {
	// Name of the key in messages.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9][a-zA-Z0-9._-]*$`
	Name string `json:"name"`

	// Instance is the key of this installation, with which `gantry up` and `gantry sign` sign.
	Instance bool `json:"instance,omitempty"`

	// PEM is the key itself, as in cosign.pub or as `gantry keys show` prints it: ECDSA, RSA or Ed25519.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16384
	// +kubebuilder:validation:Pattern=`^\s*-----BEGIN (RSA )?PUBLIC KEY-----`
	PEM string `json:"pem,omitempty"`

	// SecretRef is a Secret of gantry-system whose entry cosign.pub is the key, as `cosign
	// generate-key-pair k8s://gantry-system/NAME` makes it.
	SecretRef *TrustSecretReference `json:"secretRef,omitempty"`
}

// TrustSecretReference names a Secret of gantry-system.
type TrustSecretReference struct {
	// Name of the Secret.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// TrustBaseImages is what images may be built on: an image is built on another one when its first
// layers are that image's layers.
type TrustBaseImages struct {
	// Allowed base images, by name with tag or digest. What a tag stands for is looked up again
	// after some minutes; images that were built on what it stood for before need a rebuild, or
	// that digest here.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +listType=set
	Allowed []string `json:"allowed"`

	// Keys one of which must have signed the base image; empty demands no signature.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	Keys []TrustKey `json:"keys,omitempty"`
}

// TrustScan is a demand on the scan result that is attached to an image.
type TrustScan struct {
	// MaxSeverity is the worst finding that is accepted; None accepts no finding. A credential
	// in a layer counts as High.
	//
	// +kubebuilder:default=High
	// +kubebuilder:validation:Enum=None;Low;Medium;High;Critical
	MaxSeverity TrustSeverity `json:"maxSeverity,omitempty"`

	// MaxAge is how old the result may be when a container starts, such as 168h; none is any age.
	MaxAge *metav1.Duration `json:"maxAge,omitempty"`

	// Keys one of which must have signed the result; by default the installation's own.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	Keys []TrustKey `json:"keys,omitempty"`
}

// TrustSeverity is how bad a finding is.
type TrustSeverity string

// Severities, from none to the worst.
const (
	TrustNone     TrustSeverity = "None"
	TrustLow      TrustSeverity = "Low"
	TrustMedium   TrustSeverity = "Medium"
	TrustHigh     TrustSeverity = "High"
	TrustCritical TrustSeverity = "Critical"
)

// TrustAttestation is a statement that must be attached to an image.
type TrustAttestation struct {
	// PredicateType is what it is about, such as https://slsa.dev/provenance/v1, https://spdx.dev/Document
	// or https://cyclonedx.org/bom.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	PredicateType string `json:"predicateType"`

	// Builders are the builder IDs of which a provenance must name one; empty accepts any.
	//
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +listType=set
	Builders []string `json:"builders,omitempty"`

	// Keys one of which must have signed it; by default the installation's own.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	Keys []TrustKey `json:"keys,omitempty"`
}

// TrustPolicyStatus says whether the policy can be kept. While it cannot, it refuses what it covers.
type TrustPolicyStatus struct {
	// ObservedGeneration is the generation of the spec that the conditions are about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Ready says whether all keys were found and the policy is enforced.
	//
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// TrustPolicyList is a list of policies.
//
// +kubebuilder:object:root=true
type TrustPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []TrustPolicy `json:"items"`
}
