package trust

import (
	"context"
	"errors"
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// configurationName is that of both webhook configurations.
const configurationName = "gantry-trust"

// configureWebhooks makes the webhook configurations be those of the policies, and removes them
// with the last one. Each policy has its own webhook with its own namespaces, so that only what
// it covers depends on this service.
func (s *Service) configureWebhooks(ctx context.Context, policies map[string]*policy) error {
	mutating := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: configurationName}}
	validating := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: configurationName}}
	for _, name := range sortedNames(policies) {
		p := policies[name]
		mutating.Webhooks = append(mutating.Webhooks, s.podWebhook(p))
		validating.Webhooks = append(validating.Webhooks, s.workloadWebhook(p))
	}
	api := s.kube.AdmissionregistrationV1()
	return errors.Join(
		ensure(ctx, api.MutatingWebhookConfigurations(), mutating,
			func(c *admissionv1.MutatingWebhookConfiguration) *[]admissionv1.MutatingWebhook { return &c.Webhooks }),
		ensure(ctx, api.ValidatingWebhookConfigurations(), validating,
			func(c *admissionv1.ValidatingWebhookConfiguration) *[]admissionv1.ValidatingWebhook {
				return &c.Webhooks
			}))
}

func (s *Service) clientConfig(path string) admissionv1.WebhookClientConfig {
	port := int32(443)
	return admissionv1.WebhookClientConfig{
		Service:  &admissionv1.ServiceReference{Namespace: Namespace, Name: Name, Path: &path, Port: &port},
		CABundle: s.cfg.CABundle,
	}
}

// namespaces is the policy's selector without the system's namespaces.
func (p *policy) namespaces() *metav1.LabelSelector {
	selector := p.object.Spec.NamespaceSelector.DeepCopy()
	selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{
		Key: "kubernetes.io/metadata.name", Operator: metav1.LabelSelectorOpNotIn, Values: systemNamespaces,
	})
	return selector
}

func rule(operations []admissionv1.OperationType, group string, resources ...string) admissionv1.RuleWithOperations {
	scope := admissionv1.NamespacedScope
	return admissionv1.RuleWithOperations{Operations: operations, Rule: admissionv1.Rule{
		APIGroups: []string{group}, APIVersions: []string{"v1"}, Resources: resources, Scope: &scope}}
}

var written = []admissionv1.OperationType{admissionv1.Create, admissionv1.Update}

// podWebhook refuses and pins. Without an answer nothing of what the policy covers is created.
func (s *Service) podWebhook(p *policy) admissionv1.MutatingWebhook {
	fail, equivalent, again := admissionv1.Fail, admissionv1.Equivalent, admissionv1.IfNeededReinvocationPolicy
	effects, seconds := admissionv1.SideEffectClassNoneOnDryRun, int32(webhookPatience.Seconds())
	return admissionv1.MutatingWebhook{
		Name: p.name() + ".pods.trust.gantry.dev", ClientConfig: s.clientConfig("/admit/" + p.name()),
		Rules:             []admissionv1.RuleWithOperations{rule(written, "", "pods", "pods/ephemeralcontainers")},
		NamespaceSelector: p.namespaces(), ObjectSelector: &metav1.LabelSelector{},
		FailurePolicy: &fail, MatchPolicy: &equivalent, ReinvocationPolicy: &again,
		SideEffects: &effects, TimeoutSeconds: &seconds, AdmissionReviewVersions: []string{"v1"},
	}
}

// workloadWebhook only warns: what a workload's pods will meet is said to whoever writes it.
func (s *Service) workloadWebhook(p *policy) admissionv1.ValidatingWebhook {
	ignore, equivalent := admissionv1.Ignore, admissionv1.Equivalent
	effects, seconds := admissionv1.SideEffectClassNone, int32(webhookPatience.Seconds())
	return admissionv1.ValidatingWebhook{
		Name: p.name() + ".workloads.trust.gantry.dev", ClientConfig: s.clientConfig("/warn/" + p.name()),
		Rules: []admissionv1.RuleWithOperations{
			rule(written, "apps", "deployments", "statefulsets", "daemonsets"),
			rule(written, "batch", "jobs", "cronjobs"),
		},
		NamespaceSelector: p.namespaces(), ObjectSelector: &metav1.LabelSelector{},
		FailurePolicy: &ignore, MatchPolicy: &equivalent,
		SideEffects: &effects, TimeoutSeconds: &seconds, AdmissionReviewVersions: []string{"v1"},
	}
}

// configurations is the client of one kind of webhook configurations.
type configurations[T any] interface {
	Get(context.Context, string, metav1.GetOptions) (T, error)
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Update(context.Context, T, metav1.UpdateOptions) (T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
}

// ensure makes a configuration what is wanted. One without webhooks is not to exist.
func ensure[T metav1.Object, H any](ctx context.Context, client configurations[T], wanted T, webhooks func(T) *[]H) error {
	name, hooks := wanted.GetName(), *webhooks(wanted)
	present, err := client.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && len(hooks) == 0:
		return nil
	case apierrors.IsNotFound(err):
		_, err = client.Create(ctx, wanted, metav1.CreateOptions{})
	case err == nil && len(hooks) == 0:
		err = client.Delete(ctx, name, metav1.DeleteOptions{})
	case err == nil && !equality.Semantic.DeepEqual(*webhooks(present), hooks):
		*webhooks(present) = hooks
		_, err = client.Update(ctx, present, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write webhook configuration %s: %w", name, err)
	}
	return nil
}
