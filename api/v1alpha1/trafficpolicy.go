package v1alpha1

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
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

	// Override makes the fields of this policy hold against those of more specific ones,
	// which otherwise take their place. Of two that override, the less specific one wins.
	Override bool `json:"override,omitempty"`

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

	// RequestShape is what requests must look like.
	RequestShape *RequestShape `json:"requestShape,omitempty"`

	// SecurityHeaders are set in responses, and headers that name software removed.
	SecurityHeaders *SecurityHeaders `json:"securityHeaders,omitempty"`

	// Compression of responses for clients that accept it.
	Compression *Compression `json:"compression,omitempty"`

	// Cache keeps responses in memory as their Cache-Control allows (RFC 9111).
	Cache *Cache `json:"cache,omitempty"`

	// AccessLog says which requests the gateway's access log has.
	AccessLog *AccessLog `json:"accessLog,omitempty"`

	// AuditLog says which requests the gateway's audit log has.
	AuditLog *AuditLog `json:"auditLog,omitempty"`
}

// RequestShape is what requests must look like; others are refused with status 400.
type RequestShape struct {
	// RequiredHeaders that a request must have.
	//
	// +kubebuilder:validation:MaxItems=32
	RequiredHeaders []HeaderName `json:"requiredHeaders,omitempty"`

	// RequiredQuery are query parameters that a request must have.
	//
	// +kubebuilder:validation:MaxItems=32
	RequiredQuery []string `json:"requiredQuery,omitempty"`

	// BodySchema is a JSON Schema (2020-12 unless it names another draft) for bodies,
	// which must be JSON then.
	//
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	BodySchema *apiextensionsv1.JSON `json:"bodySchema,omitempty"`

	// MaxBody bounds bodies that are compared with the schema.
	//
	// +kubebuilder:default="1Mi"
	MaxBody *resource.Quantity `json:"maxBody,omitempty"`
}

// SecurityHeaders replace what backends say.
type SecurityHeaders struct {
	// HSTS has browsers use TLS only (RFC 6797). It is sent over TLS only.
	HSTS *HSTS `json:"hsts,omitempty"`

	// FrameOptions says whether pages may be shown inside others.
	//
	// +kubebuilder:validation:Enum=Deny;SameOrigin;Backend
	// +kubebuilder:default=SameOrigin
	FrameOptions string `json:"frameOptions,omitempty"`

	// ReferrerPolicy says what other sites learn; Backend leaves it to the backend.
	//
	// +kubebuilder:validation:Enum=no-referrer;no-referrer-when-downgrade;origin;origin-when-cross-origin;same-origin;strict-origin;strict-origin-when-cross-origin;unsafe-url;Backend
	// +kubebuilder:default=strict-origin-when-cross-origin
	ReferrerPolicy string `json:"referrerPolicy,omitempty"`

	// ContentTypeOptions has browsers believe Content-Type (nosniff).
	//
	// +kubebuilder:default=true
	ContentTypeOptions *bool `json:"contentTypeOptions,omitempty"`

	// RemoveServerHeaders removes Server, X-Powered-By and the like.
	//
	// +kubebuilder:default=true
	RemoveServerHeaders *bool `json:"removeServerHeaders,omitempty"`
}

// HSTS is HTTP Strict Transport Security.
type HSTS struct {
	// MaxAge in seconds; a year by default.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:default=31536000
	MaxAge *int64 `json:"maxAge,omitempty"`

	IncludeSubdomains bool `json:"includeSubdomains,omitempty"`
	Preload           bool `json:"preload,omitempty"`
}

// Compression compresses responses that have no Content-Encoding yet.
type Compression struct {
	// Algorithms by preference.
	//
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:items:Enum=zstd;br;gzip
	// +kubebuilder:default={zstd, br, gzip}
	Algorithms []string `json:"algorithms,omitempty"`

	// ContentTypes that are compressed; text/* is every type that begins so. By default
	// text, JSON, JavaScript, XML, SVG and WebAssembly.
	//
	// +kubebuilder:validation:MaxItems=64
	ContentTypes []string `json:"contentTypes,omitempty"`

	// MinSize below which it does not pay.
	//
	// +kubebuilder:default="1Ki"
	MinSize *resource.Quantity `json:"minSize,omitempty"`

	// Private also compresses the answers to requests with cookies or credentials. If
	// a body has both a secret and text that an attacker chooses, its length gives
	// the secret away then (BREACH).
	Private bool `json:"private,omitempty"`
}

// Cache keeps responses for everybody who may have them.
type Cache struct {
	// MaxObject bounds the body of a response that is kept.
	//
	// +kubebuilder:default="1Mi"
	MaxObject *resource.Quantity `json:"maxObject,omitempty"`
}

// AccessLog says which requests the gateway's access log has.
type AccessLog struct {
	// Percent of the requests that are in it.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	// +kubebuilder:default=100
	Percent *int32 `json:"percent,omitempty"`

	// Errors keeps all that were answered with status 400 or more.
	//
	// +kubebuilder:default=true
	Errors *bool `json:"errors,omitempty"`

	// Omit leaves fields empty.
	//
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:items:Enum=client;path;agent
	Omit []string `json:"omit,omitempty"`
}

// AuditLog says which requests the gateway's audit log has.
type AuditLog struct {
	// Record is All, Writes (methods that change something, and all that is refused),
	// Refusals (what the gateway refuses) or None.
	//
	// +kubebuilder:validation:Enum=All;Writes;Refusals;None
	// +kubebuilder:default=Writes
	Record string `json:"record,omitempty"`
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
