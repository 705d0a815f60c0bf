package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pipeline builds, tests and deploys what is in a Git repository: at every commit, at night, or
// when told to. Each run is a Build with a number.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=gantry,shortName=pl
// +kubebuilder:printcolumn:name=Repository,type=string,JSONPath=`.spec.source.url`
// +kubebuilder:printcolumn:name=Branch,type=string,JSONPath=`.spec.source.branch`
// +kubebuilder:printcolumn:name=Last,type=integer,JSONPath=`.status.lastBuild.number`
// +kubebuilder:printcolumn:name=Phase,type=string,JSONPath=`.status.lastBuild.phase`
// +kubebuilder:printcolumn:name=Deployed,type=integer,JSONPath=`.status.deployedBuild`
// +kubebuilder:printcolumn:name=Ready,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 52",message="the name must be at most 52 characters long: Builds have it, and a number"
type Pipeline struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   PipelineSpec   `json:"spec"`
	Status PipelineStatus `json:"status,omitempty"`
}

// PipelineSpec is what the owner of the repository wants.
//
// +kubebuilder:validation:XValidation:rule="has(self.images) || has(self.deploy)",message="there is nothing to do: say images or deploy"
type PipelineSpec struct {
	// Source is the repository.
	Source PipelineSource `json:"source"`

	// Triggers say when it runs by itself. Without any it runs only when told to.
	//
	// +kubebuilder:default={}
	Triggers PipelineTriggers `json:"triggers,omitempty"`

	// Images are built in addition to those that the application to deploy builds itself.
	//
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=name
	Images []PipelineImage `json:"images,omitempty"`

	// Test runs in a container after the images are built; a failure ends the Build.
	Test *PipelineTest `json:"test,omitempty"`

	// Deploy says what runs then.
	Deploy *PipelineDeploy `json:"deploy,omitempty"`

	// Network is what build steps reach: the outside, or nothing.
	//
	// +kubebuilder:validation:Enum=Outside;None
	// +kubebuilder:default=Outside
	Network string `json:"network,omitempty"`

	// ServiceAccountName is the account of the namespace with whose rights tests run and
	// applications are deployed.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:default=default
	ServiceAccountName string `json:"serviceAccountName,omitempty"`

	// Suspend stops triggers; Builds can still be started by hand.
	Suspend bool `json:"suspend,omitempty"`

	// TimeoutSeconds is how long a whole Build may take.
	//
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=86400
	// +kubebuilder:default=3600
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`

	// HistoryLimit is how many ended Builds are kept, with log and what they deployed. What
	// is deployed now is kept in any case.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	// +kubebuilder:default=20
	HistoryLimit int32 `json:"historyLimit,omitempty"`
}

// PipelineSource is a branch of a Git repository.
type PipelineSource struct {
	// URL of the repository: https://, http://, or ssh:// and git@host:path with a key.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.matches('^(https?|ssh)://[^@/]*@?[^/]+/.+$') || self.matches('^[a-z0-9._-]+@[^:/]+:.+$')",message="the URL must begin with https://, http:// or ssh://, or be of the form git@host:path"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^https?://[^/]*:[^/]*@')",message="the URL must not contain a password: name a Secret with secretName"
	URL string `json:"url"`

	// Branch that is built.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9][A-Za-z0-9._/-]*$`
	// +kubebuilder:default=main
	Branch string `json:"branch,omitempty"`

	// SecretName names a Secret of the namespace with username and password (which may be a
	// token), or ssh-privatekey and known_hosts.
	//
	// +kubebuilder:validation:MaxLength=253
	SecretName string `json:"secretName,omitempty"`
}

// PipelineTriggers say when a Pipeline runs by itself.
type PipelineTriggers struct {
	// PollSeconds is how often the repository is asked for a new commit; 0 is never.
	//
	// +kubebuilder:validation:Maximum=86400
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 5",message="poll at most every 5 seconds"
	PollSeconds int32 `json:"pollSeconds,omitempty"`

	// Schedule is when it runs even without a new commit, as for cron(8): "0 2 * * *".
	//
	// +kubebuilder:validation:MaxLength=128
	Schedule string `json:"schedule,omitempty"`

	// TimeZone of the schedule, such as Europe/Berlin; by default UTC.
	//
	// +kubebuilder:validation:MaxLength=64
	TimeZone string `json:"timeZone,omitempty"`

	// Webhook lets the repository's server tell of commits.
	Webhook *PipelineWebhook `json:"webhook,omitempty"`
}

// PipelineWebhook is how the repository's server proves who it is. The address to enter there
// is in status.webhookPath.
type PipelineWebhook struct {
	// Provider says what the server is.
	//
	// +kubebuilder:validation:Enum=GitHub;GitLab;Gitea
	Provider string `json:"provider"`

	// SecretName names a Secret of the namespace whose key "secret" is the webhook's secret,
	// or the secret token of GitLab.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	SecretName string `json:"secretName"`
}

// PipelineImage is an image to build.
type PipelineImage struct {
	// Name is where it goes in the registry, without tag: "shop/cart". The tag is the Build's number.
	//
	// +kubebuilder:validation:MaxLength=200
	// +kubebuilder:validation:Pattern=`^[a-z0-9]+([._-][a-z0-9]+)*(/[a-z0-9]+([._-][a-z0-9]+)*)*$`
	Name string `json:"name"`

	// Context is the directory in the repository.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:default=.
	Context string `json:"context,omitempty"`

	// Dockerfile is its path in the context.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:default=Dockerfile
	Dockerfile string `json:"dockerfile,omitempty"`

	// Target is the stage to build; by default the last.
	//
	// +kubebuilder:validation:MaxLength=128
	Target string `json:"target,omitempty"`

	// Args are build arguments.
	//
	// +kubebuilder:validation:MaxProperties=64
	Args map[string]string `json:"args,omitempty"`
}

// PipelineTest is a container that ends with status 0 when all is well.
type PipelineTest struct {
	// Image is one of the images that were built, by name, or any other.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image"`

	// Command instead of the image's entrypoint.
	//
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Command []string `json:"command,omitempty"`

	// Env are variables for it. GANTRY_BUILD and GANTRY_COMMIT are always there.
	//
	// +kubebuilder:validation:MaxProperties=64
	Env map[string]string `json:"env,omitempty"`

	// TimeoutSeconds is how long it may take.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +kubebuilder:default=600
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`
}

// PipelineDeploy is what runs after a Build.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.path) && has(self.setImages))",message="say path or setImages, not both"
type PipelineDeploy struct {
	// Path in the repository: a Compose file, or a folder with one or with Kubernetes
	// manifests. By default the repository itself.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Path string `json:"path,omitempty"`

	// SetImages gives workloads that are there already what was built, instead of applying
	// what is at a path.
	//
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	SetImages []PipelineSetImage `json:"setImages,omitempty"`

	// Namespace where it runs; by default the Pipeline's own. The service account needs the
	// rights there.
	//
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`

	// TimeoutSeconds is how long it may take until everything is ready.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +kubebuilder:default=300
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`

	// Rollback deploys the last good Build again when this one does not become ready.
	//
	// +kubebuilder:default=true
	Rollback *bool `json:"rollback,omitempty"`
}

// PipelineSetImage gives a container of a workload an image that was built.
type PipelineSetImage struct {
	// Kind of the workload.
	//
	// +kubebuilder:validation:Enum=Deployment;StatefulSet;DaemonSet
	// +kubebuilder:default=Deployment
	Kind string `json:"kind,omitempty"`

	// Name of the workload.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// Container that gets the image; may be left out when there is only one.
	//
	// +kubebuilder:validation:MaxLength=63
	Container string `json:"container,omitempty"`

	// Image is one of spec.images, by name.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=200
	Image string `json:"image"`
}

// PipelineStatus is what is known of a Pipeline.
type PipelineStatus struct {
	// LastBuild is the newest one.
	LastBuild *PipelineLastBuild `json:"lastBuild,omitempty"`

	// DeployedBuild is the number of the Build that runs, 0 when none does.
	DeployedBuild int64 `json:"deployedBuild,omitempty"`

	// LastCommit is the newest commit of the branch for which there is a Build.
	LastCommit string `json:"lastCommit,omitempty"`

	// WebhookPath is the path of the webhook's address, at the gateway's host.
	WebhookPath string `json:"webhookPath,omitempty"`

	// NextRun is when the schedule starts the next Build.
	NextRun *metav1.Time `json:"nextRun,omitempty"`

	// Conditions has Ready: whether triggers work, and else why not.
	//
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PipelineLastBuild is the newest Build of a Pipeline.
type PipelineLastBuild struct {
	Number int64      `json:"number"`
	Phase  BuildPhase `json:"phase"`
}

// PipelineList is a list of them.
//
// +kubebuilder:object:root=true
type PipelineList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Pipeline `json:"items"`
}
