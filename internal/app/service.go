package app

import (
	"fmt"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/gantryhq/gantry/internal/hint"
)

// service translates one Compose service: its image, its workload, its names.
func (c *compose) service(s types.ServiceConfig, wave int) error {
	field := "services." + s.Name
	if err := c.refuse(s); err != nil {
		return err
	}
	if err := c.image(s); err != nil {
		return err
	}
	pod, err := c.podTemplate(s)
	if err != nil {
		return err
	}
	if err := c.add(wave, field, c.workload(s, pod)); err != nil {
		return err
	}
	workload := c.last()
	workload.Await = c.awaited(s.Name)
	if workload.GetKind() == "Job" {
		return nil // nobody connects to a job
	}
	return c.services(s)
}

// refuse names what the service cannot work without and nothing here provides.
func (c *compose) refuse(s types.ServiceConfig) error {
	at := func(field, why, remedy string) error {
		return hint.Wrap(fmt.Errorf("%s: services.%s.%s: %s", c.file, s.Name, field, why), "%s", remedy)
	}
	switch {
	case s.Provider != nil:
		return at("provider", "providers run programs of Docker Compose", "replace it by a service with an image")
	case len(s.VolumesFrom) > 0:
		return at("volumes_from", "sharing the volumes of a container is not possible", "mount the same named volume in both services")
	case len(s.PreStart) > 0:
		return at("pre_start", "hooks before the start are not supported", "make it a service of its own and depend on it with service_completed_successfully")
	case len(s.Models) > 0:
		return at("models", "there is no model runner", "run the model as a service")
	case strings.HasPrefix(s.NetworkMode, "service:"), strings.HasPrefix(s.NetworkMode, "container:"):
		return at("network_mode", "sharing the network of another service is not possible", "reach it by its name instead, or use Kubernetes manifests with both containers in one pod")
	case s.NetworkMode == "none":
		return at("network_mode", `"none" is not possible`, "use a NetworkPolicy that denies everything")
	case strings.Contains(s.Pid, ":"), strings.Contains(s.Ipc, ":") && s.Ipc != "shareable":
		return at("pid", "sharing namespaces with another service is not possible", "use Kubernetes manifests with both containers in one pod")
	}
	return nil
}

// isJob tells the services that run once from those that stay. One rule: a
// service is a Job when another waits for its successful completion, or when its
// restart policy says that it may end and nothing connects to it.
func (c *compose) isJob(s types.ServiceConfig) bool {
	if s.Deploy != nil && s.Deploy.Mode == "replicated-job" {
		return true
	}
	if c.awaited(s.Name) == awaitComplete {
		return true
	}
	ends := s.Restart == types.RestartPolicyNo || strings.HasPrefix(s.Restart, types.RestartPolicyOnFailure)
	if s.Deploy != nil && s.Deploy.RestartPolicy != nil {
		ends = s.Deploy.RestartPolicy.Condition == "none" || s.Deploy.RestartPolicy.Condition == "on-failure"
	}
	return ends && len(s.Ports) == 0 && len(s.Expose) == 0 && s.HealthCheck == nil
}

// workload wraps the pod template into the kind that behaves as Compose does.
// One rule for storage: a service that writes to a named volume is a StatefulSet,
// because its old container must have stopped before the new one opens the files.
func (c *compose) workload(s types.ServiceConfig, pod corev1.PodTemplateSpec) runtime.Object {
	meta := metav1.ObjectMeta{Name: c.names[s.Name], Labels: c.selector(s.Name)}
	if s.Deploy != nil && len(s.Deploy.Labels) > 0 {
		meta.Annotations = map[string]string(s.Deploy.Labels)
	}
	replicas := int32(s.GetScale())
	selector := &metav1.LabelSelector{MatchLabels: c.selector(s.Name)}
	switch {
	case c.isJob(s):
		return c.job(s, meta, pod)
	case s.Deploy != nil && s.Deploy.Mode == "global":
		return &appsv1.DaemonSet{
			TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"}, ObjectMeta: meta,
			Spec: appsv1.DaemonSetSpec{Selector: selector, Template: pod},
		}
	case c.writesVolume(s):
		return &appsv1.StatefulSet{
			TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"}, ObjectMeta: meta,
			Spec: appsv1.StatefulSetSpec{
				Replicas: &replicas, Selector: selector, Template: pod, ServiceName: c.names[s.Name],
				PodManagementPolicy: appsv1.ParallelPodManagement,
			},
		}
	}
	strategy, ready := c.strategy(s)
	return &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: meta,
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: selector, Template: pod,
			Strategy: strategy, MinReadySeconds: ready,
		},
	}
}

func (c *compose) job(s types.ServiceConfig, meta metav1.ObjectMeta, pod corev1.PodTemplateSpec) *batchv1.Job {
	var retries int32 // "no" means: once
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	if policy := restartPolicy(s); policy.condition == types.RestartPolicyOnFailure {
		pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		retries = policy.attempts
	}
	completions := int32(s.GetScale())
	meta.Annotations = merge(meta.Annotations, map[string]string{annotationRerun: "true"})
	return &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}, ObjectMeta: meta,
		Spec: batchv1.JobSpec{BackoffLimit: &retries, Completions: &completions, Parallelism: &completions, Template: pod},
	}
}

type restart struct {
	condition string
	attempts  int32
}

// restartPolicy reads both spellings: restart and deploy.restart_policy.
func restartPolicy(s types.ServiceConfig) restart {
	const unlimited = 1000
	r := restart{condition: s.Restart, attempts: unlimited}
	if policy, n, ok := strings.Cut(s.Restart, ":"); ok {
		r.condition = policy
		fmt.Sscan(n, &r.attempts)
	}
	if s.Deploy != nil && s.Deploy.RestartPolicy != nil {
		r.condition = s.Deploy.RestartPolicy.Condition
		if m := s.Deploy.RestartPolicy.MaxAttempts; m != nil {
			r.attempts = int32(*m)
		}
	}
	return r
}

// strategy never goes below the wanted number of ready containers unless the
// file asks for stop-first, which is what lets a rolling update lose no request.
func (c *compose) strategy(s types.ServiceConfig) (appsv1.DeploymentStrategy, int32) {
	step, none := intstr.FromInt32(1), intstr.FromInt32(0)
	rolling := &appsv1.RollingUpdateDeployment{MaxSurge: &step, MaxUnavailable: &none}
	var ready int32
	if s.Deploy != nil && s.Deploy.UpdateConfig != nil {
		u := s.Deploy.UpdateConfig
		if u.Parallelism != nil && *u.Parallelism > 0 {
			step = intstr.FromInt32(int32(*u.Parallelism))
		}
		if u.Order == "stop-first" {
			rolling.MaxSurge, rolling.MaxUnavailable = &none, &step
		}
		ready = seconds(time.Duration(u.Delay))
	}
	return appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: rolling}, ready
}

func (c *compose) selector(service string) map[string]string {
	return map[string]string{labelName: c.names[service], labelPartOf: c.app.Namespace}
}

// image records what is to be built for the service.
func (c *compose) image(s types.ServiceConfig) error {
	if s.Build == nil {
		return nil // the loader has checked that it names an image
	}
	b := s.Build
	if strings.Contains(b.Context, "://") || strings.HasPrefix(b.Context, "git@") {
		return hint.Wrap(fmt.Errorf("%s: services.%s.build.context: %q is not a folder", c.file, s.Name, b.Context), "clone the repository first")
	}
	request := BuildRequest{
		Repository: c.app.Namespace + "/" + c.names[s.Name], Context: b.Context, Dockerfile: absIn(b.Context, b.Dockerfile),
		DockerfileInline: b.DockerfileInline, Target: b.Target, Args: map[string]string{}, Labels: b.Labels,
		Contexts: b.AdditionalContexts, NoCache: b.NoCache,
	}
	for name, value := range b.Args {
		if value != nil {
			request.Args[name] = *value
		}
	}
	for _, secret := range b.Secrets {
		content, err := c.fileContent(types.FileObjectConfig(c.project.Secrets[secret.Source]), "secrets."+secret.Source)
		if err != nil {
			return err
		}
		if request.Secrets == nil {
			request.Secrets = map[string][]byte{}
		}
		request.Secrets[orDefault(secret.Target, secret.Source)] = content
	}
	if err := request.check(); err != nil {
		return fmt.Errorf("%s: services.%s.build: %w", c.file, s.Name, err)
	}
	c.app.Images = append(c.app.Images, Image{Name: c.imageName(s), Build: request})
	return nil
}

// imageName is the placeholder in the pod template of a service that is built
// here; deploying replaces it by the pinned reference.
func (c *compose) imageName(s types.ServiceConfig) string {
	if s.Build == nil {
		return s.Image
	}
	return c.app.Namespace + "/" + c.names[s.Name]
}
