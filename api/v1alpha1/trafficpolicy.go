package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TrafficPolicy says how much and in which form: limits, compression, caching, headers, logs.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels="gateway.networking.k8s.io/policy=Inherited"
// +kubebuilder:resource:categories=gantry
// +kubebuilder:printcolumn:name=Accepted,type=string,JSONPath=`.status.ancestors[0].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=`.metadata.creationTimestamp`
type TrafficPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   TrafficPolicySpec      `json:"spec"`
	Status gatewayv1.PolicyStatus `json:"status,omitempty"`
}

// TrafficPolicySpec says what applies to which targets.
type TrafficPolicySpec struct {
	// TargetRefs name what the policy applies to: a Gateway, a route, an Ingress, or the Namespace it is in.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	TargetRefs []gatewayv1.LocalPolicyTargetReferenceWithSectionName `json:"targetRefs"`

	// RateLimits bound how fast requests may come.
	//
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	RateLimits []RateLimit `json:"rateLimits,omitempty"`

	// Quotas bound how many requests may come in an hour, day or month, in UTC.
	//
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	Quotas []Quota `json:"quotas,omitempty"`

	// MaxRequestBody is how many bytes the body of a request may have, such as 1Mi.
	MaxRequestBody *resource.Quantity `json:"maxRequestBody,omitempty"`
}

// RateLimit gives requests back evenly over a period (token bucket).
type RateLimit struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`
	Name string `json:"name"`

	// Requests that may come in each period.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000000
	Requests int64 `json:"requests"`

	// Period is at most an hour; see quotas for more.
	//
	// +kubebuilder:default="1s"
	Period *gatewayv1.Duration `json:"period,omitempty"`

	// Burst is how many of them may come at once; 0 is all.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000000
	Burst int64 `json:"burst,omitempty"`

	// By says what is counted apart.
	//
	// +kubebuilder:default={type: Address}
	By *CountBy `json:"by,omitempty"`
}

// Quota is used up by requests and whole again when the next period begins.
type Quota struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`
	Name string `json:"name"`

	// Requests that may come in each period.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4000000000
	Requests int64 `json:"requests"`

	// +kubebuilder:validation:Enum=Hour;Day;Month
	Per string `json:"per"`

	// By says what is counted apart.
	//
	// +kubebuilder:default={type: Client}
	By *CountBy `json:"by,omitempty"`
}

// CountBy says what a limit counts apart.
//
// +kubebuilder:validation:XValidation:message="types Header and Claim need a name, the others have none",rule="has(self.name) == (self.type in ['Header', 'Claim'])"
type CountBy struct {
	// Type is Address (of the client; of IPv6 the /64 network), Client (who it has
	// proved to be), Claim (of its token), Header, Host (that is asked for), Tenant
	// (the namespace of the route) or Route (nothing: all requests together).
	//
	// +kubebuilder:validation:Enum=Address;Client;Claim;Header;Host;Tenant;Route
	Type string `json:"type"`

	// Name of the header or the claim.
	//
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name,omitempty"`
}

// TrafficPolicyList is a list of them.
//
// +kubebuilder:object:root=true
type TrafficPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []TrafficPolicy `json:"items"`
}
