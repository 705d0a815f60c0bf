package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// BackendPolicy says how the gateway uses the endpoints of Services.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels="gateway.networking.k8s.io/policy=Direct"
// +kubebuilder:resource:categories=gantry
// +kubebuilder:printcolumn:name=Accepted,type=string,JSONPath=`.status.ancestors[0].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=`.metadata.creationTimestamp`
type BackendPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BackendPolicySpec      `json:"spec"`
	Status gatewayv1.PolicyStatus `json:"status,omitempty"`
}

// BackendPolicySpec says what applies to which targets. Everything left out has a default
// that suits most Services; where two policies target the same Service, the older one
// applies.
type BackendPolicySpec struct {
	// TargetRefs name what the policy applies to: Services. sectionName is the name of one port.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(r, r.kind == 'Service' && (r.group == '' || r.group == 'core'))",message="a BackendPolicy targets Services: group \"\" and kind Service"
	TargetRefs []gatewayv1.LocalPolicyTargetReferenceWithSectionName `json:"targetRefs"`

	// Balancing says how the endpoint for a request is chosen.
	Balancing *Balancing `json:"balancing,omitempty"`
	// SessionPersistence keeps the requests of one client at one endpoint. A route's own comes first.
	SessionPersistence *gatewayv1.SessionPersistence `json:"sessionPersistence,omitempty"`
	// SlowStart is the time in which a new endpoint comes to its full share of the requests.
	SlowStart *gatewayv1.Duration `json:"slowStart,omitempty"`
	// Connections limits what each endpoint gets at the same time.
	Connections *ConnectionLimits `json:"connections,omitempty"`
	// Timeouts limit the parts of an exchange with an endpoint. A route's own timeouts come first.
	Timeouts *BackendTimeouts `json:"timeouts,omitempty"`
	// Retry says which answers are tried for again. A route's own retry comes first.
	Retry *BackendRetry `json:"retry,omitempty"`
	// RetryBudget bounds all retries at the Service together.
	RetryBudget *RetryBudget `json:"retryBudget,omitempty"`
	// Ejection takes endpoints out for a while that fail several times in a row.
	Ejection *Ejection `json:"ejection,omitempty"`
	// HealthCheck asks each endpoint again and again whether it is well.
	HealthCheck *HealthCheck `json:"healthCheck,omitempty"`
}

// Balancing is how the endpoint for a request is chosen.
//
// +kubebuilder:validation:XValidation:rule="self.method == 'ConsistentHash' ? has(self.hashBy) : !has(self.hashBy) && !has(self.maxLoadPercent)",message="hashBy belongs to method ConsistentHash, which needs it"
type Balancing struct {
	// Method is LeastRequest (the fewest requests in flight), RoundRobin or ConsistentHash
	// (the same endpoint for the same key, as long as it has room).
	//
	// +kubebuilder:validation:Enum=LeastRequest;RoundRobin;ConsistentHash
	// +kubebuilder:default=LeastRequest
	Method BalancingMethod `json:"method,omitempty"`
	// HashBy are the parts of a request that make its key, all together.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	HashBy []HashKey `json:"hashBy,omitempty"`
	// MaxLoadPercent bounds the requests in flight of an endpoint, in percent of the average;
	// a key whose endpoint is full goes to the next one. The default is 125.
	//
	// +kubebuilder:validation:Minimum=100
	// +kubebuilder:validation:Maximum=10000
	MaxLoadPercent *int32 `json:"maxLoadPercent,omitempty"`
}

// BalancingMethod is a method of Balancing.
type BalancingMethod string

// The methods of balancing.
const (
	LeastRequest   BalancingMethod = "LeastRequest"
	RoundRobin     BalancingMethod = "RoundRobin"
	ConsistentHash BalancingMethod = "ConsistentHash"
)

// HashKey is a part of a request.
//
// +kubebuilder:validation:XValidation:rule="(self.type in ['Header', 'Cookie', 'QueryParam']) == has(self.name)",message="name belongs to types Header, Cookie and QueryParam, which need it"
type HashKey struct {
	// Type is Header, Cookie, QueryParam, ClientAddress, Host or Path.
	//
	// +kubebuilder:validation:Enum=Header;Cookie;QueryParam;ClientAddress;Host;Path
	Type string `json:"type"`
	// Name of the header, cookie or query parameter.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Name string `json:"name,omitempty"`
}

// ConnectionLimits are limits for each endpoint.
type ConnectionLimits struct {
	// MaxPerEndpoint is how many requests, each on a connection of its own, an endpoint gets
	// at the same time.
	//
	// +kubebuilder:validation:Minimum=1
	MaxPerEndpoint int32 `json:"maxPerEndpoint"`
	// MaxPending is how many requests may wait for room, of all endpoints together; more of
	// them are answered with status 503. The default is 100.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100000
	MaxPending *int32 `json:"maxPending,omitempty"`
	// PendingTimeout is how long a request may wait for room. The default is 5s.
	PendingTimeout *gatewayv1.Duration `json:"pendingTimeout,omitempty"`
}

// BackendTimeouts limit the parts of an exchange.
type BackendTimeouts struct {
	// Connect limits the making of a connection. The default is 2s.
	Connect *gatewayv1.Duration `json:"connect,omitempty"`
	// FirstByte limits the time from sending a request to the head of its answer. There is no limit by default.
	FirstByte *gatewayv1.Duration `json:"firstByte,omitempty"`
	// Idle limits a pause in the body of an answer. There is no limit by default.
	Idle *gatewayv1.Duration `json:"idle,omitempty"`
}

// BackendRetry says which answers are tried for again. Only requests with an idempotent
// method or an Idempotency-Key are, unless nothing of them could be sent.
type BackendRetry struct {
	// Attempts is how many further ones there may be. The default is 2; 0 is none.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	Attempts *int32 `json:"attempts,omitempty"`
	// Codes are the status codes of answers that are tried for again.
	//
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:Minimum=400
	// +kubebuilder:validation:items:Maximum=599
	// +listType=set
	Codes []int32 `json:"codes,omitempty"`
	// Backoff is the least time before the second attempt; it doubles for each further one. The default is 25ms.
	Backoff *gatewayv1.Duration `json:"backoff,omitempty"`
}

// RetryBudget bounds retries, so that they cannot make an outage worse.
type RetryBudget struct {
	// Percent of the requests of the last 10 seconds. The default is 20.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Percent *int32 `json:"percent,omitempty"`
	// MinPerSecond is what is allowed anyhow. The default is 3.
	//
	// +kubebuilder:validation:Minimum=0
	MinPerSecond *int32 `json:"minPerSecond,omitempty"`
}

// Ejection says after how many failures in a row an endpoint gets no requests for a
// while; 0 is never.
type Ejection struct {
	// ConnectFailures counts connections that could not be made. The default is 3.
	//
	// +kubebuilder:validation:Minimum=0
	ConnectFailures *int32 `json:"connectFailures,omitempty"`
	// GatewayErrors counts answers 502, 503 and 504, broken connections, timeouts, and
	// failures to connect. The default is never.
	//
	// +kubebuilder:validation:Minimum=0
	GatewayErrors *int32 `json:"gatewayErrors,omitempty"`
	// ServerErrors counts all answers of 500 and above too. The default is never.
	//
	// +kubebuilder:validation:Minimum=0
	ServerErrors *int32 `json:"serverErrors,omitempty"`
	// BaseTime is for how long at first; it doubles each time the endpoint fails again. The default is 1s.
	BaseTime *gatewayv1.Duration `json:"baseTime,omitempty"`
	// MaxTime is for how long at most. The default is 30s.
	MaxTime *gatewayv1.Duration `json:"maxTime,omitempty"`
	// MaxPercent of the endpoints may be out at the same time. The default is 50.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxPercent *int32 `json:"maxPercent,omitempty"`
}

// HealthCheck says what an endpoint is asked, in one of three ways, and how often.
//
// +kubebuilder:validation:XValidation:rule="[has(self.http), has(self.grpc), has(self.tcp)].filter(x, x).size() == 1",message="exactly one of http, grpc and tcp"
type HealthCheck struct {
	// HTTP sends a GET request.
	HTTP *HTTPHealthCheck `json:"http,omitempty"`
	// GRPC calls grpc.health.v1.Health/Check. The Service port's appProtocol must be kubernetes.io/h2c.
	GRPC *GRPCHealthCheck `json:"grpc,omitempty"`
	// TCP makes a connection.
	TCP *TCPHealthCheck `json:"tcp,omitempty"`
	// Port of the endpoint; the default is the one that requests go to.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port *int32 `json:"port,omitempty"`
	// Interval between two checks. The default is 5s.
	Interval *gatewayv1.Duration `json:"interval,omitempty"`
	// Timeout of one check. The default is 2s.
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
	// HealthyThreshold is how many good results in a row make an endpoint healthy again. The default is 1.
	//
	// +kubebuilder:validation:Minimum=1
	HealthyThreshold *int32 `json:"healthyThreshold,omitempty"`
	// UnhealthyThreshold is how many bad results in a row make an endpoint unhealthy. The default is 3.
	//
	// +kubebuilder:validation:Minimum=1
	UnhealthyThreshold *int32 `json:"unhealthyThreshold,omitempty"`
	// PanicPercent of healthy endpoints is where the checks are no longer believed, and all
	// endpoints get requests again. The default is when there is no healthy one.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	PanicPercent *int32 `json:"panicPercent,omitempty"`
}

// HTTPHealthCheck is a GET request.
type HTTPHealthCheck struct {
	// Path to ask for.
	//
	// +kubebuilder:validation:Pattern=`^/`
	// +kubebuilder:default="/"
	Path string `json:"path,omitempty"`
	// Host to ask for; the default is the endpoint's address.
	Host string `json:"host,omitempty"`
	// Statuses are the good answers; the default is 200 to 399.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=set
	Statuses []int32 `json:"statuses,omitempty"`
}

// GRPCHealthCheck is a call of grpc.health.v1.Health/Check.
type GRPCHealthCheck struct {
	// Service to ask for; empty is the server as a whole.
	Service string `json:"service,omitempty"`
}

// TCPHealthCheck is a connection.
type TCPHealthCheck struct{}

// BackendPolicyList is a list of them.
//
// +kubebuilder:object:root=true
type BackendPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []BackendPolicy `json:"items"`
}
