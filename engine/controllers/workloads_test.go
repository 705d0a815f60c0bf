package controllers_test

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func (c *cluster) deployment(t testing.TB, ns, name string, replicas int32) {
	t.Helper()
	labels := map[string]string{"app": name}
	_, err := c.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels)},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) deploymentReady(t testing.TB, ns, name string, replicas int32) {
	t.Helper()
	eventually(t, "deployment "+name, func() string {
		d, err := c.AppsV1().Deployments(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		s := d.Status
		if s.ObservedGeneration == d.Generation && s.Replicas == replicas && s.UpdatedReplicas == replicas && s.ReadyReplicas == replicas {
			return ""
		}
		return fmt.Sprintf("status %+v", s)
	})
}

func (c *cluster) pods(t testing.TB, ns, selector string) []corev1.Pod {
	t.Helper()
	l, err := c.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	return l.Items
}

// TestCluster runs the stories on one cluster, each in a namespace of its own.
func TestCluster(t *testing.T) {
	c := startCluster(t, loaded)
	for name, story := range map[string]func(*testing.T, *cluster){
		"a namespace gets its account and the certificate": namespaceStory,
		"a deployment rolls and cascades":                  deploymentStory,
		"a statefulset starts in order and orphans":        statefulSetStory,
		"a job completes and goes with its pods":           jobStory,
		"a cron job makes jobs":                            cronJobStory,
		"a daemon set runs on every node":                  daemonSetStory,
		"a replication controller":                         replicationStory,
		"a pod that fits nowhere says so":                  unschedulableStory,
		"endpoints follow pods":                            endpointsStory,
		"a budget limits evictions":                        budgetStory,
		"a quota limits and counts":                        quotaStory,
		"a namespace goes with its content":                namespaceDeletionStory,
		"a claim gets a directory":                         volumeStory,
		"a retained volume keeps its data":                 retainStory,
		"a claim that a directory cannot satisfy":          refusedClaimStory,
		"a finished job expires":                           jobExpiryStory,
		"an autoscaler follows the load":                   autoscalerStory,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			story(t, c)
		})
	}
}

func namespaceStory(t *testing.T, c *cluster) {
	ns := c.namespace(t, "fresh")
	eventually(t, "certificate", func() string {
		cm, err := c.CoreV1().ConfigMaps(ns).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		if err == nil && cm.Data["ca.crt"] != string(c.api.CABundle()) {
			return "another certificate"
		}
		return problem(err)
	})
}

func deploymentStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "deployment"), t.Context()
	c.deployment(t, ns, "web", 3)
	c.deploymentReady(t, ns, "web", 3)
	if _, err := c.AppsV1().Deployments(ns).Patch(ctx, "web", types.StrategicMergePatchType,
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"example/app:2"}]}}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.deploymentReady(t, ns, "web", 3)
	eventually(t, "rolled out", func() string {
		for _, p := range c.pods(t, ns, "app=web") {
			if p.Spec.Containers[0].Image != "example/app:2" {
				return "a pod of the old version is left"
			}
		}
		return ""
	})
	eventually(t, "events", func() string {
		old, err := c.CoreV1().Events(ns).List(ctx, metav1.ListOptions{})
		if err != nil || len(old.Items) == 0 {
			return fmt.Sprint("no events: ", err)
		}
		if n, err := c.EventsV1().Events(ns).List(ctx, metav1.ListOptions{}); err != nil || len(n.Items) == 0 {
			return fmt.Sprint("no events in events.k8s.io: ", err)
		}
		return ""
	})
	if err := c.AppsV1().Deployments(ns).Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "background deletion", func() string {
		sets, err := c.AppsV1().ReplicaSets(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		if n := len(sets.Items) + len(c.pods(t, ns, "app=web")); n > 0 {
			return fmt.Sprintf("%d objects left", n)
		}
		return ""
	})
}

func statefulSetStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "statefulset"), t.Context()
	labels := map[string]string{"app": "db"}
	if _, err := c.AppsV1().StatefulSets(ns).Create(ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{ServiceName: "db", Replicas: ptr(int32(3)), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels),
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{claim("data")}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "statefulset", func() string {
		s, err := c.AppsV1().StatefulSets(ns).Get(ctx, "db", metav1.GetOptions{})
		if err == nil && s.Status.ReadyReplicas != 3 {
			return fmt.Sprintf("status %+v", s.Status)
		}
		return problem(err)
	})
	pods := c.pods(t, ns, "app=db")
	for i := range pods[1:] {
		if pods[i+1].CreationTimestamp.Before(&pods[i].CreationTimestamp) {
			t.Errorf("%s was made before %s", pods[i+1].Name, pods[i].Name)
		}
	}
	if err := c.AppsV1().StatefulSets(ns).Delete(ctx, "db", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationOrphan)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "orphaning", func() string {
		if _, err := c.AppsV1().StatefulSets(ns).Get(ctx, "db", metav1.GetOptions{}); gone(err) != "" {
			return gone(err)
		}
		p, err := c.CoreV1().Pods(ns).Get(ctx, "db-0", metav1.GetOptions{})
		if err == nil && len(p.OwnerReferences) > 0 {
			return "the pod still has an owner"
		}
		return problem(err)
	})
}

func (c *cluster) job(t testing.TB, ns, name string, ttl *int32) {
	t.Helper()
	tmpl := template(map[string]string{"app": name})
	tmpl.Spec.RestartPolicy = corev1.RestartPolicyNever
	if _, err := c.BatchV1().Jobs(ns).Create(t.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       batchv1.JobSpec{Completions: ptr(int32(3)), Parallelism: ptr(int32(2)), Template: tmpl, TTLSecondsAfterFinished: ttl},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func jobStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "job"), t.Context()
	c.job(t, ns, "work", nil)
	eventually(t, "job", func() string {
		j, err := c.BatchV1().Jobs(ns).Get(ctx, "work", metav1.GetOptions{})
		if err == nil && (j.Status.Succeeded != 3 || j.Status.CompletionTime == nil) {
			return fmt.Sprintf("status %+v", j.Status)
		}
		return problem(err)
	})
	if err := c.BatchV1().Jobs(ns).Delete(ctx, "work", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationForeground)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "foreground deletion", func() string {
		_, err := c.BatchV1().Jobs(ns).Get(ctx, "work", metav1.GetOptions{})
		return gone(err)
	})
	if n := len(c.pods(t, ns, "app=work")); n > 0 {
		t.Errorf("the job went before %d of its pods", n)
	}
}

func jobExpiryStory(t *testing.T, c *cluster) {
	ns := c.namespace(t, "expiry")
	c.job(t, ns, "brief", ptr(int32(0)))
	eventually(t, "expiry", func() string {
		_, err := c.BatchV1().Jobs(ns).Get(t.Context(), "brief", metav1.GetOptions{})
		return gone(err)
	})
}

func cronJobStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "cron"), t.Context()
	tmpl := template(nil)
	tmpl.Spec.RestartPolicy = corev1.RestartPolicyNever
	cron := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "tick"},
		Spec:       batchv1.CronJobSpec{Schedule: "* * * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: tmpl}}},
	}
	if _, err := c.BatchV1().CronJobs(ns).Create(ctx, cron, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if testing.Short() {
		t.Skip("the next minute is too far away for -short")
	}
	eventuallyWithin(t, "a job of the cron job", minuteAndMore, func() string {
		jobs, err := c.BatchV1().Jobs(ns).List(ctx, metav1.ListOptions{})
		if err == nil && (len(jobs.Items) == 0 || jobs.Items[0].Status.Succeeded == 0) {
			return "none has succeeded"
		}
		return problem(err)
	})
}

func daemonSetStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "daemon"), t.Context()
	labels := map[string]string{"app": "agent"}
	if _, err := c.AppsV1().DaemonSets(ns).Create(ctx, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agent"},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels)},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "daemon set", func() string {
		d, err := c.AppsV1().DaemonSets(ns).Get(ctx, "agent", metav1.GetOptions{})
		if err == nil && (d.Status.NumberReady != 1 || d.Status.DesiredNumberScheduled != 1) {
			return fmt.Sprintf("status %+v", d.Status)
		}
		return problem(err)
	})
}

func replicationStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "replication"), t.Context()
	labels := map[string]string{"app": "old"}
	tmpl := template(labels)
	if _, err := c.CoreV1().ReplicationControllers(ns).Create(ctx, &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "old"},
		Spec:       corev1.ReplicationControllerSpec{Replicas: ptr(int32(2)), Selector: labels, Template: &tmpl},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "replication controller", func() string {
		rc, err := c.CoreV1().ReplicationControllers(ns).Get(ctx, "old", metav1.GetOptions{})
		if err == nil && rc.Status.ReadyReplicas != 2 {
			return fmt.Sprintf("status %+v", rc.Status)
		}
		return problem(err)
	})
}

func unschedulableStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "unschedulable"), t.Context()
	tmpl := template(nil)
	tmpl.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("5000")
	if _, err := c.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "big"}, Spec: tmpl.Spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "unschedulable", func() string {
		p, err := c.CoreV1().Pods(ns).Get(ctx, "big", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodScheduled && cond.Reason == corev1.PodReasonUnschedulable {
				return ""
			}
		}
		return fmt.Sprintf("conditions %+v", p.Status.Conditions)
	})
}

func endpointsStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "endpoints"), t.Context()
	c.deployment(t, ns, "web", 2)
	if _, err := c.CoreV1().Services(ns).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{2, 4, 1} {
		c.scale(t, ns, "web", want)
		eventually(t, "slices", func() string {
			if n := c.readyEndpoints(t, ns, "web"); n != want {
				return fmt.Sprintf("%d endpoints, want %d", n, want)
			}
			e, err := c.CoreV1().Endpoints(ns).Get(ctx, "web", metav1.GetOptions{})
			if err == nil && (len(e.Subsets) != 1 || len(e.Subsets[0].Addresses) != want) {
				return fmt.Sprintf("old-style endpoints %+v, want %d", e.Subsets, want)
			}
			return problem(err)
		})
	}
}

func (c *cluster) readyEndpoints(t testing.TB, ns, service string) int {
	t.Helper()
	slices, err := c.DiscoveryV1().EndpointSlices(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + service})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && *e.Conditions.Ready {
				n++
			}
		}
	}
	return n
}

func (c *cluster) scale(t testing.TB, ns, name string, replicas int) {
	t.Helper()
	if _, err := c.AppsV1().Deployments(ns).Patch(t.Context(), name, types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas), metav1.PatchOptions{}, "scale"); err != nil {
		t.Fatal(err)
	}
}

func budgetStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "budget"), t.Context()
	c.deployment(t, ns, "web", 3)
	c.deploymentReady(t, ns, "web", 3)
	if _, err := c.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr(intstr.FromInt32(3)),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "budget", func() string {
		b, err := c.PolicyV1().PodDisruptionBudgets(ns).Get(ctx, "web", metav1.GetOptions{})
		if err == nil && (b.Status.CurrentHealthy != 3 || b.Status.DesiredHealthy != 3 || b.Status.DisruptionsAllowed != 0) {
			return fmt.Sprintf("status %+v", b.Status)
		}
		return problem(err)
	})
	pod := c.pods(t, ns, "app=web")[0].Name
	err := c.PolicyV1().Evictions(ns).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: ns}})
	if err == nil {
		t.Error("the eviction went through against the budget")
	}
}

func quotaStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "quota"), t.Context()
	if _, err := c.CoreV1().ResourceQuotas(ns).Create(ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "small"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"pods": resource.MustParse("2"), "count/configmaps": resource.MustParse("9")}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	used := func(pods, configMaps int64) {
		t.Helper()
		eventually(t, "quota", func() string {
			q, err := c.CoreV1().ResourceQuotas(ns).Get(ctx, "small", metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			p, m := q.Status.Used["pods"], q.Status.Used["count/configmaps"]
			if p.Value() != pods || m.Value() != configMaps {
				return fmt.Sprintf("used %v pods and %v config maps", p.Value(), m.Value())
			}
			return ""
		})
	}
	used(0, 1) // the certificate
	c.deployment(t, ns, "web", 1)
	used(1, 1)
	c.scale(t, ns, "web", 5)
	used(2, 1)
	if err := c.AppsV1().Deployments(ns).Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	used(0, 1)
}

func namespaceDeletionStory(t *testing.T, c *cluster) {
	ns, ctx := c.namespace(t, "doomed"), t.Context()
	c.deployment(t, ns, "web", 2)
	c.deploymentReady(t, ns, "web", 2)
	if err := c.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "namespace", func() string {
		_, err := c.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		return gone(err)
	})
	if n := len(c.pods(t, ns, "")); n > 0 {
		t.Errorf("the namespace went before %d pods in it", n)
	}
}
