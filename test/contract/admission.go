package contract

import (
	"errors"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func namespaceLifecycle(s *teller) {
	_, err := s.client.CoreV1().ConfigMaps("contract-nowhere").Create(s.ctx, configMap("lost", nil), metav1.CreateOptions{})
	s.refused(err, apierrors.IsNotFound, "an object in no namespace")
	for _, name := range []string{"default", "kube-system", "kube-public"} {
		s.refused(s.client.CoreV1().Namespaces().Delete(s.ctx, name, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}), apierrors.IsForbidden, "deletion of "+name)
	}
	doomed := s.newNamespace(nil)
	guard := configMap("guard", nil)
	guard.Finalizers = []string{"example.com/guard"} // so that the namespace stays, where a controller works on it
	_, err = s.client.CoreV1().ConfigMaps(doomed).Create(s.ctx, guard, metav1.CreateOptions{})
	s.must(err)
	s.must(s.client.CoreV1().Namespaces().Delete(s.ctx, doomed, metav1.DeleteOptions{}))
	ns, err := s.client.CoreV1().Namespaces().Get(s.ctx, doomed, metav1.GetOptions{})
	s.must(err)
	if ns.Status.Phase != corev1.NamespaceTerminating {
		s.Errorf("a deleted namespace is %s", ns.Status.Phase)
	}
	s.eventually("the namespace's refusal of new objects", func() error {
		_, err := s.client.CoreV1().ConfigMaps(doomed).Create(s.ctx, configMap("late", nil), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "being terminated") {
			return nil
		}
		return errors.Join(errors.New("accepted"), err)
	})
	guard, err = s.client.CoreV1().ConfigMaps(doomed).Get(s.ctx, "guard", metav1.GetOptions{})
	s.must(err)
	guard.Finalizers = nil
	_, err = s.client.CoreV1().ConfigMaps(doomed).Update(s.ctx, guard, metav1.UpdateOptions{})
	s.must(err)
}

func limitRanges(s *teller) {
	_, err := s.client.CoreV1().LimitRanges(s.namespace).Create(s.ctx, &corev1.LimitRange{
		ObjectMeta: metav1.ObjectMeta{Name: "limits"},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type:           corev1.LimitTypeContainer,
			DefaultRequest: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")},
			Default:        corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m")},
			Max:            corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
		}}},
	}, metav1.CreateOptions{})
	s.must(err)
	pods := s.client.CoreV1().Pods(s.namespace)
	s.eventually("the limit range's effect", func() error {
		p, err := pods.Create(s.ctx, pod("small"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return err
		}
		if cpu := p.Spec.Containers[0].Resources.Requests.Cpu(); cpu.String() != "100m" {
			return errors.New("the request is " + cpu.String())
		}
		return nil
	})
	big := pod("big")
	big.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
	_, err = pods.Create(s.ctx, big, metav1.CreateOptions{})
	s.refused(err, apierrors.IsForbidden, "a pod beyond the limit")
}

func quotas(s *teller) {
	quotas := s.client.CoreV1().ResourceQuotas(s.namespace)
	hard := corev1.ResourceList{"count/secrets": resource.MustParse("1")}
	q, err := quotas.Create(s.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "few"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
	s.must(err)
	s.eventually("the quota's status", func() error {
		q, err = quotas.Get(s.ctx, "few", metav1.GetOptions{})
		if err != nil || len(q.Status.Hard) > 0 {
			return err
		}
		q.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: corev1.ResourceList{"count/secrets": resource.MustParse("0")}}
		_, err = quotas.UpdateStatus(s.ctx, q, metav1.UpdateOptions{}) // the controller's work, where there is none
		return err
	})
	secrets := s.client.CoreV1().Secrets(s.namespace)
	s.eventually("the first secret's charge", func() error {
		_, err := secrets.Create(s.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "one-"}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		q, err := quotas.Get(s.ctx, "few", metav1.GetOptions{})
		if used := q.Status.Used["count/secrets"]; err != nil || used.IsZero() {
			return errors.Join(errors.New("it was not charged: the quota is not known yet"), err)
		}
		return nil
	})
	_, err = secrets.Create(s.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "two"}}, metav1.CreateOptions{})
	s.refused(err, apierrors.IsForbidden, "a secret beyond the quota")
	if !strings.Contains(err.Error(), "exceeded quota: few") {
		s.Errorf("the refusal does not name the quota: %v", err)
	}
}

func podSecurity(s *teller) {
	strict := s.newNamespace(map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	_, err := s.client.CoreV1().Pods(strict).Create(s.ctx, pod("loose"), metav1.CreateOptions{})
	s.refused(err, apierrors.IsForbidden, "an unrestricted pod in a restricted namespace")
	if !strings.Contains(err.Error(), "violates PodSecurity") {
		s.Errorf("the refusal does not say why: %v", err)
	}
	good := pod("strict")
	good.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: pointer(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	good.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: pointer(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	_, err = s.client.CoreV1().Pods(strict).Create(s.ctx, good, metav1.CreateOptions{})
	s.must(err)
}

func serviceAccounts(s *teller) {
	p, err := s.client.CoreV1().Pods(s.namespace).Create(s.ctx, pod("main"), metav1.CreateOptions{})
	s.must(err)
	var token bool
	for _, v := range p.Spec.Volumes {
		if v.Projected != nil && v.Projected.Sources[0].ServiceAccountToken != nil {
			token = true
		}
	}
	if mounts := p.Spec.Containers[0].VolumeMounts; !token || len(mounts) != 1 || mounts[0].MountPath != "/var/run/secrets/kubernetes.io/serviceaccount" {
		s.Errorf("volumes %v, mounts %v", p.Spec.Volumes, p.Spec.Containers[0].VolumeMounts)
	}
	if len(p.Spec.Tolerations) != 2 || p.Spec.Priority == nil || *p.Spec.Priority != 0 {
		s.Errorf("tolerations %v, priority %v", p.Spec.Tolerations, p.Spec.Priority)
	}
	lost := pod("lost")
	lost.Spec.ServiceAccountName = "nobody"
	_, err = s.client.CoreV1().Pods(s.namespace).Create(s.ctx, lost, metav1.CreateOptions{})
	s.refused(err, apierrors.IsForbidden, "a pod of an account that does not exist")
	urgent := pod("urgent")
	urgent.Spec.PriorityClassName = "no-such-class"
	_, err = s.client.CoreV1().Pods(s.namespace).Create(s.ctx, urgent, metav1.CreateOptions{})
	s.refused(err, apierrors.IsForbidden, "a pod of a priority that does not exist")
}

func admissionPolicies(s *teller) {
	policies, bindings := s.client.AdmissionregistrationV1().ValidatingAdmissionPolicies(), s.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	name := s.namespace + ".example.com"
	fail := admissionv1.Fail
	_, err := policies.Create(s.ctx, &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: &fail,
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}}}},
			Validations: []admissionv1.Validation{{Expression: "object.metadata.name.startsWith('good-')", Message: "names begin with good-"}},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	s.Cleanup(func() { _ = policies.Delete(s.background(), name, metav1.DeleteOptions{}) })
	_, err = bindings.Create(s.ctx, &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
			MatchResources: &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": s.namespace}}}},
	}, metav1.CreateOptions{})
	s.must(err)
	s.Cleanup(func() { _ = bindings.Delete(s.background(), name, metav1.DeleteOptions{}) })
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	s.eventually("the policy's effect", func() error {
		_, err := maps.Create(s.ctx, configMap("bad", nil), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil && strings.Contains(err.Error(), "names begin with good-") {
			return nil
		}
		return errors.Join(errors.New("accepted"), err)
	})
	_, err = maps.Create(s.ctx, configMap("good-one", nil), metav1.CreateOptions{})
	s.must(err)
}
