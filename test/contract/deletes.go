package contract

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func finalizers(s *teller) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	cm := configMap("guarded", nil)
	cm.Finalizers = []string{"example.com/guard"}
	_, err := maps.Create(s.ctx, cm, metav1.CreateOptions{})
	s.must(err)
	s.must(maps.Delete(s.ctx, "guarded", metav1.DeleteOptions{}))
	cm, err = maps.Get(s.ctx, "guarded", metav1.GetOptions{})
	s.must(err)
	if cm.DeletionTimestamp == nil {
		s.Fatal("no deletion timestamp")
	}
	cm.Finalizers = append(cm.Finalizers, "example.com/late")
	_, err = maps.Update(s.ctx, cm, metav1.UpdateOptions{})
	s.refused(err, func(err error) bool { return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) }, "a finalizer added during deletion")
	_, err = maps.Patch(s.ctx, "guarded", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	s.must(err)
	_, err = maps.Get(s.ctx, "guarded", metav1.GetOptions{})
	s.refused(err, apierrors.IsNotFound, "reading a deleted object")

	// Orphaning and foreground deletion leave their work to the garbage collector as finalizers.
	for policy, finalizer := range map[metav1.DeletionPropagation]string{
		metav1.DeletePropagationOrphan: metav1.FinalizerOrphanDependents, metav1.DeletePropagationForeground: metav1.FinalizerDeleteDependents,
	} {
		name := "owner-" + string([]rune{rune(policy[0]) + 32})
		guarded := deployment(name)
		guarded.Finalizers = []string{"example.com/guard"} // keeps it where a collector runs
		_, err := s.client.AppsV1().Deployments(s.namespace).Create(s.ctx, guarded, metav1.CreateOptions{})
		s.must(err)
		d, err := s.client.AppsV1().Deployments(s.namespace).Get(s.ctx, name, metav1.GetOptions{})
		s.must(err)
		s.must(s.client.AppsV1().Deployments(s.namespace).Delete(s.ctx, name, metav1.DeleteOptions{PropagationPolicy: &policy}))
		d, err = s.client.AppsV1().Deployments(s.namespace).Get(s.ctx, d.Name, metav1.GetOptions{})
		s.must(err)
		if d.DeletionTimestamp == nil {
			s.Errorf("%s: not being deleted", policy)
		}
		_ = finalizer // a collector may have removed it already
		_, err = s.client.AppsV1().Deployments(s.namespace).Patch(s.ctx, name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		s.must(err)
	}
}

func deletion(s *teller) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	cm, err := maps.Create(s.ctx, configMap("one", runner), metav1.CreateOptions{})
	s.must(err)
	wrong := types.UID("someone-else")
	err = maps.Delete(s.ctx, "one", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}})
	s.refused(err, apierrors.IsConflict, "deletion of another object of the same name")
	old := "1"
	err = maps.Delete(s.ctx, "one", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &old}})
	s.refused(err, apierrors.IsConflict, "deletion of another version")
	s.must(maps.Delete(s.ctx, "one", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &cm.UID, ResourceVersion: &cm.ResourceVersion}}))
	s.refused(maps.Delete(s.ctx, "one", metav1.DeleteOptions{}), apierrors.IsNotFound, "deletion of nothing")

	s.createConfigMaps(5, runner)
	_, err = maps.Create(s.ctx, configMap("kept", nil), metav1.CreateOptions{})
	s.must(err)
	s.must(maps.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: ofStory}))
	list, err := maps.List(s.ctx, metav1.ListOptions{LabelSelector: ofStory})
	s.must(err)
	if len(list.Items) != 0 {
		s.Errorf("%d objects survived the deletion of their collection", len(list.Items))
	}
	_, err = maps.Get(s.ctx, "kept", metav1.GetOptions{})
	s.must(err)
}

func podLifecycle(s *teller) {
	pods := s.client.CoreV1().Pods(s.namespace)
	p, err := pods.Create(s.ctx, pod("main"), metav1.CreateOptions{})
	s.must(err)
	if p.Status.Phase != corev1.PodPending || p.Status.QOSClass != corev1.PodQOSBestEffort {
		s.Errorf("a new pod is %s, %s", p.Status.Phase, p.Status.QOSClass)
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "main"}, Target: corev1.ObjectReference{Kind: "Node", Name: "nowhere"}}
	s.must(pods.Bind(s.ctx, binding, metav1.CreateOptions{}))
	p, err = pods.Get(s.ctx, "main", metav1.GetOptions{})
	s.must(err)
	if p.Spec.NodeName != "nowhere" || len(p.Status.Conditions) == 0 || p.Status.Conditions[0].Type != corev1.PodScheduled {
		s.Errorf("a bound pod: node %q, conditions %v", p.Spec.NodeName, p.Status.Conditions)
	}
	s.refused(pods.Bind(s.ctx, binding, metav1.CreateOptions{}), apierrors.IsConflict, "a second binding")

	p.Spec.Containers[0].Name = "other"
	_, err = pods.Update(s.ctx, p, metav1.UpdateOptions{})
	s.refused(err, apierrors.IsInvalid, "a change of what a pod runs")

	p, err = pods.Get(s.ctx, "main", metav1.GetOptions{})
	s.must(err)
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "debug", Image: "example.com/tools:1", ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePolicy: corev1.TerminationMessageReadFile}}}
	p, err = pods.UpdateEphemeralContainers(s.ctx, "main", p, metav1.UpdateOptions{})
	s.must(err)
	if len(p.Spec.EphemeralContainers) != 1 {
		s.Error("the ephemeral container is missing")
	}
	// A pod on a node is deleted in two steps: the node confirms.
	s.must(pods.Delete(s.ctx, "main", metav1.DeleteOptions{GracePeriodSeconds: pointer(int64(17))}))
	p, err = pods.Get(s.ctx, "main", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) { // a pod collector may know that the node is none
		s.must(err)
		if p.DeletionTimestamp == nil || p.DeletionGracePeriodSeconds == nil || *p.DeletionGracePeriodSeconds != 17 {
			s.Errorf("deletion: %v, grace %v", p.DeletionTimestamp, p.DeletionGracePeriodSeconds)
		}
		if err := pods.Delete(s.ctx, "main", metav1.DeleteOptions{GracePeriodSeconds: pointer(int64(0))}); err != nil && !apierrors.IsNotFound(err) {
			s.Fatal(err)
		}
	}
	s.eventually("the end of the pod", func() error {
		_, err := pods.Get(s.ctx, "main", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.New("still there")
	})
	// One that no node has goes at once.
	_, err = pods.Create(s.ctx, pod("unscheduled"), metav1.CreateOptions{})
	s.must(err)
	s.must(pods.Delete(s.ctx, "unscheduled", metav1.DeleteOptions{}))
	_, err = pods.Get(s.ctx, "unscheduled", metav1.GetOptions{})
	s.refused(err, apierrors.IsNotFound, "reading a deleted pod")
}

func eviction(s *teller) {
	pods := s.client.CoreV1().Pods(s.namespace)
	budgets := s.client.PolicyV1().PodDisruptionBudgets(s.namespace)
	p := pod("guarded")
	_, err := pods.Create(s.ctx, p, metav1.CreateOptions{})
	s.must(err)
	p, err = pods.Patch(s.ctx, "guarded", types.MergePatchType, []byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`), metav1.PatchOptions{}, "status")
	s.must(err)
	one := intstr.FromInt32(1)
	b, err := budgets.Create(s.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "one"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: p.Labels}}}, metav1.CreateOptions{})
	s.must(err)
	evict := func(name string) error {
		return pods.EvictV1(s.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.namespace}})
	}
	s.eventually("the budget's status", func() error {
		b.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: b.Generation, CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 1}
		if _, err := budgets.UpdateStatus(s.ctx, b, metav1.UpdateOptions{}); apierrors.IsConflict(err) {
			b, err = budgets.Get(s.ctx, "one", metav1.GetOptions{})
			return errors.Join(err, errors.New("a controller was faster"))
		} else {
			return err
		}
	})
	s.refused(evict("guarded"), apierrors.IsTooManyRequests, "an eviction against the budget")
	s.must(budgets.Delete(s.ctx, "one", metav1.DeleteOptions{}))
	s.must(evict("guarded"))
	_, err = pods.Get(s.ctx, "guarded", metav1.GetOptions{})
	s.refused(err, apierrors.IsNotFound, "reading an evicted pod")
}
