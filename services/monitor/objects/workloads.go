package objects

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// named makes gauges of objects that have a namespace and, under a label of their kind, a name.
func named[T any, P interface {
	*T
	metav1.Object
}](kind string) func(name string, of func(o *T, add adder)) family {
	return func(name string, of func(o *T, add adder)) family {
		return each(name, "gauge", func(o *T, add adder) {
			at := P(o)
			of(o, func(v float64, labels ...string) {
				add(v, append([]string{"namespace", at.GetNamespace(), kind, at.GetName()}, labels...)...)
			})
		})
	}
}

// gauge tells one number of an object.
func gauge[T any](of func(o *T) float64) func(*T, adder) {
	return func(o *T, add adder) { add(of(o)) }
}

func replicas(n *int32) float64 {
	if n == nil {
		return 1
	}
	return float64(*n)
}

var (
	deployment  = named[appsv1.Deployment]("deployment")
	replicaSet  = named[appsv1.ReplicaSet]("replicaset")
	statefulSet = named[appsv1.StatefulSet]("statefulset")
	daemonSet   = named[appsv1.DaemonSet]("daemonset")
	job         = named[batchv1.Job]("job_name")
	cronJob     = named[batchv1.CronJob]("cronjob")
	autoscaler  = named[autoscalingv2.HorizontalPodAutoscaler]("horizontalpodautoscaler")
)

var deployments = []family{
	deployment("kube_deployment_created", gauge(func(d *appsv1.Deployment) float64 { return unix(d.CreationTimestamp.Time) })),
	deployment("kube_deployment_spec_replicas", gauge(func(d *appsv1.Deployment) float64 { return replicas(d.Spec.Replicas) })),
	deployment("kube_deployment_spec_paused", gauge(func(d *appsv1.Deployment) float64 { return number(d.Spec.Paused) })),
	deployment("kube_deployment_status_replicas", gauge(func(d *appsv1.Deployment) float64 { return float64(d.Status.Replicas) })),
	deployment("kube_deployment_status_replicas_ready", gauge(func(d *appsv1.Deployment) float64 { return float64(d.Status.ReadyReplicas) })),
	deployment("kube_deployment_status_replicas_available", gauge(func(d *appsv1.Deployment) float64 { return float64(d.Status.AvailableReplicas) })),
	deployment("kube_deployment_status_replicas_unavailable", gauge(func(d *appsv1.Deployment) float64 { return float64(d.Status.UnavailableReplicas) })),
	deployment("kube_deployment_status_replicas_updated", gauge(func(d *appsv1.Deployment) float64 { return float64(d.Status.UpdatedReplicas) })),
	deployment("kube_deployment_status_observed_generation", gauge(func(d *appsv1.Deployment) float64 { return float64(d.Status.ObservedGeneration) })),
	deployment("kube_deployment_metadata_generation", gauge(func(d *appsv1.Deployment) float64 { return float64(d.Generation) })),
	deployment("kube_deployment_status_condition", func(d *appsv1.Deployment, add adder) {
		for _, c := range d.Status.Conditions {
			conditions(c.Status, "status", func(v float64, labels ...string) {
				add(v, append([]string{"reason", c.Reason, "condition", string(c.Type)}, labels...)...)
			})
		}
	}),
}

var replicaSets = []family{
	replicaSet("kube_replicaset_owner", func(r *appsv1.ReplicaSet, add adder) {
		kind, name := owner(&r.ObjectMeta)
		add(1, "owner_kind", kind, "owner_name", name, "owner_is_controller", map[bool]string{true: "true", false: ""}[kind != ""])
	}),
	replicaSet("kube_replicaset_spec_replicas", gauge(func(r *appsv1.ReplicaSet) float64 { return replicas(r.Spec.Replicas) })),
	replicaSet("kube_replicaset_status_replicas", gauge(func(r *appsv1.ReplicaSet) float64 { return float64(r.Status.Replicas) })),
	replicaSet("kube_replicaset_status_ready_replicas", gauge(func(r *appsv1.ReplicaSet) float64 { return float64(r.Status.ReadyReplicas) })),
}

var statefulSets = []family{
	statefulSet("kube_statefulset_created", gauge(func(s *appsv1.StatefulSet) float64 { return unix(s.CreationTimestamp.Time) })),
	statefulSet("kube_statefulset_replicas", gauge(func(s *appsv1.StatefulSet) float64 { return replicas(s.Spec.Replicas) })),
	statefulSet("kube_statefulset_status_replicas", gauge(func(s *appsv1.StatefulSet) float64 { return float64(s.Status.Replicas) })),
	statefulSet("kube_statefulset_status_replicas_ready", gauge(func(s *appsv1.StatefulSet) float64 { return float64(s.Status.ReadyReplicas) })),
	statefulSet("kube_statefulset_status_replicas_available", gauge(func(s *appsv1.StatefulSet) float64 { return float64(s.Status.AvailableReplicas) })),
	statefulSet("kube_statefulset_status_replicas_current", gauge(func(s *appsv1.StatefulSet) float64 { return float64(s.Status.CurrentReplicas) })),
	statefulSet("kube_statefulset_status_replicas_updated", gauge(func(s *appsv1.StatefulSet) float64 { return float64(s.Status.UpdatedReplicas) })),
	statefulSet("kube_statefulset_status_observed_generation", gauge(func(s *appsv1.StatefulSet) float64 { return float64(s.Status.ObservedGeneration) })),
	statefulSet("kube_statefulset_metadata_generation", gauge(func(s *appsv1.StatefulSet) float64 { return float64(s.Generation) })),
}

var daemonSets = []family{
	daemonSet("kube_daemonset_created", gauge(func(d *appsv1.DaemonSet) float64 { return unix(d.CreationTimestamp.Time) })),
	daemonSet("kube_daemonset_status_desired_number_scheduled", gauge(func(d *appsv1.DaemonSet) float64 { return float64(d.Status.DesiredNumberScheduled) })),
	daemonSet("kube_daemonset_status_current_number_scheduled", gauge(func(d *appsv1.DaemonSet) float64 { return float64(d.Status.CurrentNumberScheduled) })),
	daemonSet("kube_daemonset_status_number_misscheduled", gauge(func(d *appsv1.DaemonSet) float64 { return float64(d.Status.NumberMisscheduled) })),
	daemonSet("kube_daemonset_status_number_ready", gauge(func(d *appsv1.DaemonSet) float64 { return float64(d.Status.NumberReady) })),
	daemonSet("kube_daemonset_status_number_available", gauge(func(d *appsv1.DaemonSet) float64 { return float64(d.Status.NumberAvailable) })),
	daemonSet("kube_daemonset_status_number_unavailable", gauge(func(d *appsv1.DaemonSet) float64 { return float64(d.Status.NumberUnavailable) })),
	daemonSet("kube_daemonset_status_updated_number_scheduled", gauge(func(d *appsv1.DaemonSet) float64 { return float64(d.Status.UpdatedNumberScheduled) })),
}

var jobs = []family{
	job("kube_job_created", gauge(func(j *batchv1.Job) float64 { return unix(j.CreationTimestamp.Time) })),
	job("kube_job_owner", func(j *batchv1.Job, add adder) {
		kind, name := owner(&j.ObjectMeta)
		add(1, "owner_kind", kind, "owner_name", name, "owner_is_controller", map[bool]string{true: "true", false: ""}[kind != ""])
	}),
	job("kube_job_spec_completions", gauge(func(j *batchv1.Job) float64 { return replicas(j.Spec.Completions) })),
	job("kube_job_status_active", gauge(func(j *batchv1.Job) float64 { return float64(j.Status.Active) })),
	job("kube_job_status_succeeded", gauge(func(j *batchv1.Job) float64 { return float64(j.Status.Succeeded) })),
	job("kube_job_status_failed", gauge(func(j *batchv1.Job) float64 { return float64(j.Status.Failed) })),
	job("kube_job_status_start_time", func(j *batchv1.Job, add adder) {
		if j.Status.StartTime != nil {
			add(unix(j.Status.StartTime.Time))
		}
	}),
	job("kube_job_status_completion_time", func(j *batchv1.Job, add adder) {
		if j.Status.CompletionTime != nil {
			add(unix(j.Status.CompletionTime.Time))
		}
	}),
	job("kube_job_complete", jobCondition(batchv1.JobComplete)),
	job("kube_job_failed", jobCondition(batchv1.JobFailed)),
}

func jobCondition(kind batchv1.JobConditionType) func(*batchv1.Job, adder) {
	return func(j *batchv1.Job, add adder) {
		for _, c := range j.Status.Conditions {
			if c.Type == kind {
				conditions(c.Status, "condition", add)
			}
		}
	}
}

var cronJobs = []family{
	cronJob("kube_cronjob_spec_suspend", gauge(func(c *batchv1.CronJob) float64 { return number(c.Spec.Suspend != nil && *c.Spec.Suspend) })),
	cronJob("kube_cronjob_status_active", gauge(func(c *batchv1.CronJob) float64 { return float64(len(c.Status.Active)) })),
	cronJob("kube_cronjob_status_last_schedule_time", func(c *batchv1.CronJob, add adder) {
		if c.Status.LastScheduleTime != nil {
			add(unix(c.Status.LastScheduleTime.Time))
		}
	}),
	cronJob("kube_cronjob_status_last_successful_time", func(c *batchv1.CronJob, add adder) {
		if c.Status.LastSuccessfulTime != nil {
			add(unix(c.Status.LastSuccessfulTime.Time))
		}
	}),
}

var autoscalers = []family{
	autoscaler("kube_horizontalpodautoscaler_spec_min_replicas", gauge(func(a *autoscalingv2.HorizontalPodAutoscaler) float64 { return replicas(a.Spec.MinReplicas) })),
	autoscaler("kube_horizontalpodautoscaler_spec_max_replicas", gauge(func(a *autoscalingv2.HorizontalPodAutoscaler) float64 { return float64(a.Spec.MaxReplicas) })),
	autoscaler("kube_horizontalpodautoscaler_status_current_replicas", gauge(func(a *autoscalingv2.HorizontalPodAutoscaler) float64 { return float64(a.Status.CurrentReplicas) })),
	autoscaler("kube_horizontalpodautoscaler_status_desired_replicas", gauge(func(a *autoscalingv2.HorizontalPodAutoscaler) float64 { return float64(a.Status.DesiredReplicas) })),
	autoscaler("kube_horizontalpodautoscaler_status_condition", func(a *autoscalingv2.HorizontalPodAutoscaler, add adder) {
		for _, c := range a.Status.Conditions {
			conditions(corev1.ConditionStatus(c.Status), "status", func(v float64, labels ...string) {
				add(v, append([]string{"condition", string(c.Type)}, labels...)...)
			})
		}
	}),
}
