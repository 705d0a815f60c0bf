package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Labels of a Build, and annotations of a Pipeline.
const (
	// PipelineLabel on a Build is the name of its Pipeline.
	PipelineLabel = "gantry.dev/pipeline"
)

// Build is one run of a Pipeline, with a number. It is made by the pipeline service or by
// `gantry pipeline run`, and says what came out.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=gantry
// +kubebuilder:printcolumn:name=Pipeline,type=string,JSONPath=`.spec.pipeline`
// +kubebuilder:printcolumn:name=Number,type=integer,JSONPath=`.spec.number`
// +kubebuilder:printcolumn:name=Commit,type=string,JSONPath=`.status.commit.short`
// +kubebuilder:printcolumn:name=Phase,type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name=Seconds,type=integer,JSONPath=`.status.durationSeconds`
// +kubebuilder:printcolumn:name=Trigger,type=string,JSONPath=`.spec.trigger`
// +kubebuilder:printcolumn:name=Message,type=string,priority=1,JSONPath=`.status.message`
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=`.metadata.creationTimestamp`
type Build struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BuildSpec   `json:"spec"`
	Status BuildStatus `json:"status,omitempty"`
}

// BuildSpec says what is to be done. It does not change.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a Build does not change: start another one"
type BuildSpec struct {
	// Pipeline is the name of the Pipeline, in the same namespace.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=52
	Pipeline string `json:"pipeline"`

	// Number counts the Builds of a Pipeline, from 1. Images get it as tag.
	//
	// +kubebuilder:validation:Minimum=1
	Number int64 `json:"number"`

	// Trigger is why it is.
	//
	// +kubebuilder:validation:Enum=Manual;Poll;Webhook;Schedule;Rollback
	// +kubebuilder:default=Manual
	Trigger string `json:"trigger,omitempty"`

	// Commit to build; by default the newest of the branch.
	//
	// +kubebuilder:validation:Pattern=`^([0-9a-f]{40}|[0-9a-f]{64})?$`
	Commit string `json:"commit,omitempty"`

	// Redeploy is the number of an earlier Build whose application is deployed again, without
	// building anything.
	//
	// +kubebuilder:validation:Minimum=1
	Redeploy int64 `json:"redeploy,omitempty"`
}

// BuildPhase is how far a Build has come.
//
// +kubebuilder:validation:Enum=Pending;Fetching;Building;Testing;Deploying;Succeeded;Failed;Cancelled
type BuildPhase string

// The phases, in their order.
const (
	BuildPending   BuildPhase = "Pending"
	BuildFetching  BuildPhase = "Fetching"
	BuildBuilding  BuildPhase = "Building"
	BuildTesting   BuildPhase = "Testing"
	BuildDeploying BuildPhase = "Deploying"
	BuildSucceeded BuildPhase = "Succeeded"
	BuildFailed    BuildPhase = "Failed"
	BuildCancelled BuildPhase = "Cancelled"
)

// Ended says whether a Build in this phase is over.
func (p BuildPhase) Ended() bool {
	return p == BuildSucceeded || p == BuildFailed || p == BuildCancelled
}

// BuildStatus is what came out.
type BuildStatus struct {
	// Phase is how far it has come.
	Phase BuildPhase `json:"phase,omitempty"`

	// Reason is one word on the end: FetchFailed, BuildFailed, TestFailed, DeployFailed,
	// RolledBack, DiskFull, Superseded, TimedOut, Interrupted.
	Reason string `json:"reason,omitempty"`

	// Message says why it failed, for a person.
	//
	// +kubebuilder:validation:MaxLength=8192
	Message string `json:"message,omitempty"`

	// Commit that was built.
	Commit *BuildCommit `json:"commit,omitempty"`

	StartTime      *metav1.Time `json:"startTime,omitempty"`
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`
	// DurationSeconds is how long it took.
	DurationSeconds int64 `json:"durationSeconds,omitempty"`
	// Attempts counts how often it was tried because something of the machine failed.
	Attempts int32 `json:"attempts,omitempty"`

	// Images that were built.
	//
	// +listType=map
	// +listMapKey=name
	Images []BuiltImage `json:"images,omitempty"`

	// Test is how the test ended.
	Test *BuildTestResult `json:"test,omitempty"`

	// Deployment is what was deployed.
	Deployment *BuildDeployment `json:"deployment,omitempty"`
}

// BuildCommit is a commit of the repository.
type BuildCommit struct {
	ID      string       `json:"id"`
	Short   string       `json:"short,omitempty"`
	Author  string       `json:"author,omitempty"`
	Message string       `json:"message,omitempty"` // first line
	Time    *metav1.Time `json:"time,omitempty"`
}

// BuiltImage is an image of a Build.
type BuiltImage struct {
	// Name in the registry, without tag.
	Name string `json:"name"`
	// Reference is registry/name@digest.
	Reference string `json:"reference"`
	// Tag is the number of the Build.
	Tag string `json:"tag,omitempty"`
	// Signed says whether it has the installation's signature; SignMessage why not.
	Signed      bool   `json:"signed,omitempty"`
	SignMessage string `json:"signMessage,omitempty"`
	// Provenance and SBOM say what is attached to the image.
	Provenance bool `json:"provenance,omitempty"`
	SBOM       bool `json:"sbom,omitempty"`
	// Scan counts the vulnerabilities that were found, by severity, such as "0 critical, 2 high".
	Scan string `json:"scan,omitempty"`
}

// BuildTestResult is how a test ended.
type BuildTestResult struct {
	Passed          bool   `json:"passed"`
	Message         string `json:"message,omitempty"`
	DurationSeconds int64  `json:"durationSeconds,omitempty"`
}

// BuildDeployment is what a Build deployed.
type BuildDeployment struct {
	// Application and Namespace of what runs.
	Application string `json:"application,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
	// Ready says whether everything became ready.
	Ready bool `json:"ready"`
	// URLs where it is reached.
	URLs []string `json:"urls,omitempty"`
	// Redeployed is the number of the Build whose application this is, for a rollback.
	Redeployed int64 `json:"redeployed,omitempty"`
	// RolledBackTo is the number of the Build that runs instead, because this one did not
	// become ready.
	RolledBackTo int64 `json:"rolledBackTo,omitempty"`
}

// BuildList is a list of them.
//
// +kubebuilder:object:root=true
type BuildList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Build `json:"items"`
}
