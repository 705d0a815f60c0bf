package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ScalePolicy says how many replicas a workload has, by what is asked of it: of the requests
// that the gateway sends to its Services, of the CPU and memory that its pods use, of any
// Prometheus query, and of the calendar. The greatest of the wishes counts.
//
// Requests for a workload without a ready replica, or with too few, wait at the gateway.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=gantry,shortName=sp
// +kubebuilder:printcolumn:name=Target,type=string,JSONPath=`.spec.targetRef.name`
// +kubebuilder:printcolumn:name=Min,type=integer,JSONPath=`.spec.minReplicas`
// +kubebuilder:printcolumn:name=Max,type=integer,JSONPath=`.spec.maxReplicas`
// +kubebuilder:printcolumn:name=Current,type=integer,JSONPath=`.status.currentReplicas`
// +kubebuilder:printcolumn:name=Desired,type=integer,JSONPath=`.status.desiredReplicas`
// +kubebuilder:printcolumn:name=Accepted,type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name=Why,type=string,JSONPath=`.status.reason`
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=`.metadata.creationTimestamp`
type ScalePolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ScalePolicySpec   `json:"spec"`
	Status ScalePolicyStatus `json:"status,omitempty"`
}

// ScalePolicySpec is what the owner of the workload wants.
//
// +kubebuilder:validation:XValidation:rule="self.minReplicas <= self.maxReplicas",message="minReplicas must not be greater than maxReplicas"
// +kubebuilder:validation:XValidation:rule="!has(self.schedules) || self.schedules.all(s, s.replicas <= self.maxReplicas)",message="a schedule must not ask for more than maxReplicas"
// +kubebuilder:validation:XValidation:rule="self.minReplicas > 0 || (has(self.targets) && self.targets.exists(t, has(t.requestsInFlight) || has(t.requestsPerSecond) || has(t.query)))",message="minReplicas 0 needs a target that can tell without replicas whether some are needed: requestsInFlight, requestsPerSecond or query"
type ScalePolicySpec struct {
	// TargetRef names what is scaled.
	TargetRef ScaleTargetReference `json:"targetRef"`

	// Services of the namespace whose requests count, and whose requests wait. By default those
	// whose selector chooses the target's pods.
	//
	// +kubebuilder:validation:MaxItems=16
	// +listType=set
	Services []string `json:"services,omitempty"`

	// MinReplicas is how many there are without demand; 0 is none.
	//
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	MinReplicas int32 `json:"minReplicas"`

	// MaxReplicas is how many there are at most, whatever the demand.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	MaxReplicas int32 `json:"maxReplicas"`

	// Targets say what a replica is meant to carry. Without any, only schedules count.
	//
	// +kubebuilder:validation:MaxItems=8
	// +listType=atomic
	Targets []ScaleTarget `json:"targets,omitempty"`

	// Windows are the times over which the demand is averaged.
	//
	// +kubebuilder:default={stableSeconds: 60, panicSeconds: 6, panicPercent: 200}
	Windows ScaleWindows `json:"windows,omitempty"`

	// Schedules are times, such as an announced sale, for which more replicas are there before
	// the demand is.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	Schedules []ScaleSchedule `json:"schedules,omitempty"`

	// ScaleDown limits how fast replicas are taken away.
	//
	// +kubebuilder:default={}
	ScaleDown ScaleDown `json:"scaleDown,omitempty"`

	// Hold is how requests wait at the gateway for a replica.
	//
	// +kubebuilder:default={}
	Hold HoldRequests `json:"hold,omitempty"`
}

// ScaleTargetReference names an object of the policy's namespace that has the scale subresource.
type ScaleTargetReference struct {
	// APIVersion of the object, such as apps/v1.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	APIVersion string `json:"apiVersion"`
	// Kind of the object, such as Deployment.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`
	// Name of the object.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// ScaleTarget is what one replica is meant to carry, in one respect.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:MaxProperties=1
type ScaleTarget struct {
	// RequestsInFlight are those that the gateway has sent on and that are not answered, and
	// those that wait.
	RequestsInFlight *RequestsTarget `json:"requestsInFlight,omitempty"`
	// RequestsPerSecond are those that come to the gateway.
	RequestsPerSecond *RequestsTarget `json:"requestsPerSecond,omitempty"`
	// CPU that the pods use.
	CPU *ResourceTarget `json:"cpu,omitempty"`
	// Memory that the pods use: their working set.
	Memory *ResourceTarget `json:"memory,omitempty"`
	// Query is any number that Prometheus knows.
	Query *QueryTarget `json:"query,omitempty"`
}

// RequestsTarget is a number of requests.
type RequestsTarget struct {
	// PerReplica is how many one replica is meant to have on average.
	//
	// +kubebuilder:validation:Minimum=1
	PerReplica int32 `json:"perReplica"`
}

// ResourceTarget is an amount of CPU or memory.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:MaxProperties=1
type ResourceTarget struct {
	// UtilizationPercent is the share of what the pods request.
	//
	// +kubebuilder:validation:Minimum=1
	UtilizationPercent *int32 `json:"utilizationPercent,omitempty"`
	// PerReplica is an amount, such as 500m or 256Mi.
	PerReplica *resource.Quantity `json:"perReplica,omitempty"`
}

// QueryTarget is the result of a PromQL query.
type QueryTarget struct {
	// URL of a server with the Prometheus HTTP API, such as http://prometheus.monitoring:9090. Without it
	// the installation's own metrics are asked.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^https?://`
	// +kubebuilder:validation:MaxLength=1024
	URL string `json:"url,omitempty"`
	// Query whose result is one number, or whose results are added up.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Query string `json:"query"`
	// PerReplica is how much of the result one replica is meant to carry.
	PerReplica resource.Quantity `json:"perReplica"`
	// PeriodSeconds is how often the server is asked.
	//
	// +kubebuilder:default=15
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600
	PeriodSeconds int32 `json:"periodSeconds,omitempty"`
}

// ScaleWindows are the times over which requests are averaged. In a burst, when the demand over
// the panic window is a multiple of what the ready replicas are meant to carry, the panic window
// counts, and no replica is taken away until a stable window without a burst has passed.
//
// +kubebuilder:validation:XValidation:rule="self.panicSeconds <= self.stableSeconds",message="the panic window must not be longer than the stable one"
type ScaleWindows struct {
	// StableSeconds is the ordinary window.
	//
	// +kubebuilder:default=60
	// +kubebuilder:validation:Minimum=5
	// +kubebuilder:validation:Maximum=3600
	StableSeconds int32 `json:"stableSeconds,omitempty"`
	// PanicSeconds is the window of bursts.
	//
	// +kubebuilder:default=6
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=600
	PanicSeconds int32 `json:"panicSeconds,omitempty"`
	// PanicPercent of what the ready replicas are meant to carry is a burst.
	//
	// +kubebuilder:default=200
	// +kubebuilder:validation:Minimum=110
	// +kubebuilder:validation:Maximum=1000
	PanicPercent int32 `json:"panicPercent,omitempty"`
}

// ScaleSchedule is a time during which there are at least some number of replicas: either each
// time that cron says, for a duration, or once, from start to end.
//
// +kubebuilder:validation:XValidation:rule="has(self.cron) == has(self.durationSeconds) && has(self.start) == has(self.end) && has(self.cron) != has(self.start)",message="a schedule has either cron and durationSeconds, or start and end"
// +kubebuilder:validation:XValidation:rule="!has(self.start) || timestamp(self.start) < timestamp(self.end)",message="a schedule must start before it ends"
type ScaleSchedule struct {
	// Name of the schedule, shown in the status.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Cron is when it starts, as five fields: minute, hour, day of the month, month, day of the week.
	//
	// +kubebuilder:validation:MaxLength=100
	Cron *string `json:"cron,omitempty"`
	// TimeZone of cron, such as Europe/Berlin; UTC by default.
	//
	// +kubebuilder:validation:MaxLength=100
	TimeZone *string `json:"timeZone,omitempty"`
	// DurationSeconds is how long it lasts each time.
	//
	// +kubebuilder:validation:Minimum=60
	// +kubebuilder:validation:Maximum=604800
	DurationSeconds *int32 `json:"durationSeconds,omitempty"`
	// Start is when it starts, once.
	//
	// +kubebuilder:validation:Format=date-time
	Start *metav1.Time `json:"start,omitempty"`
	// End is when it ends.
	//
	// +kubebuilder:validation:Format=date-time
	End *metav1.Time `json:"end,omitempty"`
	// Replicas is how many there are at least.
	//
	// +kubebuilder:validation:Minimum=1
	Replicas int32 `json:"replicas"`
}

// ScaleDown limits how fast replicas are taken away.
type ScaleDown struct {
	// StabilizationSeconds is how long fewer replicas must have been enough before some are taken
	// away, beyond the window over which the demand is averaged.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=3600
	StabilizationSeconds int32 `json:"stabilizationSeconds,omitempty"`
	// MaxReplicas is how many are taken away in a period; with MaxPercent, the greater counts.
	//
	// +kubebuilder:validation:Minimum=1
	MaxReplicas *int32 `json:"maxReplicas,omitempty"`
	// MaxPercent is the share that is taken away in a period, of those that there were.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxPercent *int32 `json:"maxPercent,omitempty"`
	// PeriodSeconds is the period of MaxReplicas and MaxPercent.
	//
	// +kubebuilder:default=60
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1800
	PeriodSeconds int32 `json:"periodSeconds,omitempty"`
}

// HoldRequests is how requests wait at each gateway. Those that may not wait are answered with
// status 503, those that have waited in vain with 504.
type HoldRequests struct {
	// Requests is how many may wait at the same time for each port of a Service; 0 is none.
	//
	// +kubebuilder:default=1000
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100000
	Requests *int32 `json:"requests,omitempty"`
	// Bytes is how much memory they may take together.
	//
	// +kubebuilder:default="64Mi"
	Bytes *resource.Quantity `json:"bytes,omitempty"`
	// TimeoutSeconds is how long each may wait.
	//
	// +kubebuilder:default=30
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=600
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`
	// InFlightPerReplica is how many requests a replica gets at the same time; more of them wait
	// until it has answered one, or another replica is ready. By default any number.
	//
	// +kubebuilder:validation:Minimum=1
	InFlightPerReplica *int32 `json:"inFlightPerReplica,omitempty"`
}

// ScalePolicyStatus is what became of it.
type ScalePolicyStatus struct {
	// ObservedGeneration is the generation of the spec that the status is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// CurrentReplicas is how many the target says it has.
	CurrentReplicas int32 `json:"currentReplicas"`
	// DesiredReplicas is how many it is meant to have.
	DesiredReplicas int32 `json:"desiredReplicas"`
	// Reason says in words why it is that number.
	Reason string `json:"reason,omitempty"`
	// Services whose requests count, and whose requests wait.
	//
	// +listType=atomic
	Services []string `json:"services,omitempty"`
	// LastScaleTime is when the number was last changed.
	LastScaleTime *metav1.Time `json:"lastScaleTime,omitempty"`
	// Conditions are Accepted, SignalsAvailable, Bursting and Limited.
	//
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// The conditions of a ScalePolicy and their reasons.
const (
	// ScaleAccepted is true when the policy scales its target.
	ScaleAccepted = "Accepted"
	// ScaleSignals is true when all that the targets ask for is known.
	ScaleSignals = "SignalsAvailable"
	// ScaleBursting is true in a burst.
	ScaleBursting = "Bursting"
	// ScaleLimited is true when more or fewer replicas are needed than the policy allows.
	ScaleLimited = "Limited"

	ScaleReasonAccepted       = "Accepted"
	ScaleReasonConflicted     = "Conflicted"
	ScaleReasonInvalid        = "Invalid"
	ScaleReasonTargetNotFound = "TargetNotFound"
)

// ScalePolicyList is a list of them.
//
// +kubebuilder:object:root=true
type ScalePolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ScalePolicy `json:"items"`
}
