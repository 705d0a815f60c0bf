// Package contract is what Gantry promises of its Kubernetes API, as stories that run against any
// server: Gantry's engine, to show that it keeps the promise, and a real kube-apiserver, to show
// that the promise is right.
//
// The stories use nothing but the API. They need an administrator, assume no controllers (they
// work with and without), and keep to namespaces and objects of their own. Anything may import
// the package in tests.
package contract

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	crdclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// patience is how long a story waits for what the server does on its own.
const patience = 20 * time.Second

// Run tells all stories to the server of cfg. It needs an administrator with a network address:
// some stories use kubectl.
func Run(t *testing.T, cfg *rest.Config) {
	for _, story := range stories {
		t.Run(story.name, func(t *testing.T) { story.tell(newTeller(t, cfg)) })
	}
}

var stories = []struct {
	name string
	tell func(*teller)
}{
	{"ObjectsAreDefaultedAndValidated", defaulting},
	{"AStaleUpdateIsAConflict", conflicts},
	{"SpecAndStatusAreApart", statusSubresource},
	{"EveryPatchTypeWorks", patches},
	{"ServerSideApplyKnowsOwners", serverSideApply},
	{"DryRunChangesNothing", dryRun},
	{"UnknownFieldsAreRefusedOrWarnedOf", fieldValidation},
	{"BigListsComeInConsistentChunks", chunkedLists},
	{"SelectorsSelect", selectors},
	{"AWatchResumesWhereItStopped", watchResume},
	{"AWatchCanBeginWithWhatIsThere", watchList},
	{"AWatchFollowsItsSelector", watchSelector},
	{"DeletionWaitsForFinalizers", finalizers},
	{"DeletionHonoursPreconditionsAndOptions", deletion},
	{"PodsAreBoundAndDeletedGracefully", podLifecycle},
	{"EvictionRespectsDisruptionBudgets", eviction},
	{"ScaleIsTheSameForAll", scale},
	{"ServicesGetAddressesAndPorts", services},
	{"RightsComeFromRoles", rights},
	{"NobodyGivesMoreThanTheyHave", escalation},
	{"TokensAreBoundToTheirPods", tokens},
	{"NamespacesGuardTheirObjects", namespaceLifecycle},
	{"LimitRangesFillIn", limitRanges},
	{"QuotasBound", quotas},
	{"PodSecurityRefuses", podSecurity},
	{"PodsRunAsTheirServiceAccount", serviceAccounts},
	{"TablesHaveUpstreamColumns", tables},
	{"DiscoveryTellsEverything", discoveryDocuments},
	{"OpenAPIDescribesEveryKind", openAPIDocuments},
	{"ClientsChooseTheEncoding", encodings},
	{"CustomResourcesAreValidatedAndDefaulted", customResources},
	{"CustomResourcesHaveSubresourcesAndVersions", customVersions},
	{"DefinitionsGoWithTheirObjects", customDeletion},
	{"PoliciesAdmit", admissionPolicies},
	{"KubectlWorks", kubectlStory},
}

// teller tells one story: its clients, and a namespace of its own.
type teller struct {
	*testing.T
	ctx       context.Context
	cfg       *rest.Config
	client    kubernetes.Interface
	dynamic   dynamic.Interface
	crds      crdclient.Interface
	namespace string
}

func newTeller(t *testing.T, cfg *rest.Config) *teller {
	t.Helper()
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1
	s := &teller{T: t, ctx: t.Context(), cfg: cfg}
	var err error
	if s.client, err = kubernetes.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	if s.dynamic, err = dynamic.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	if s.crds, err = crdclient.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	s.namespace = s.newNamespace(nil)
	return s
}

// newNamespace makes a namespace with a service account that pods can run as.
func (s *teller) newNamespace(labels map[string]string) string {
	s.Helper()
	ns, err := s.client.CoreV1().Namespaces().Create(s.ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "contract-", Labels: labels}}, metav1.CreateOptions{})
	s.must(err)
	s.Cleanup(func() {
		err := s.client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			s.Logf("delete namespace %s: %v", ns.Name, err)
		}
	})
	_, err = s.client.CoreV1().ServiceAccounts(ns.Name).Create(s.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "runner"}}, metav1.CreateOptions{})
	s.must(err)
	return ns.Name
}

func (s *teller) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// refused checks that err is the refusal expected.
func (s *teller) refused(err error, kind func(error) bool, what string) {
	s.Helper()
	if err == nil {
		s.Fatalf("%s was accepted", what)
	}
	if !kind(err) {
		s.Fatalf("%s was refused as %q: %v", what, apierrors.ReasonForError(err), err)
	}
}

// eventually waits until ok answers nil.
func (s *teller) eventually(what string, ok func() error) {
	s.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("%s did not happen within %s: %v", what, patience, err)
		}
		select {
		case <-s.ctx.Done():
			s.Fatal(s.ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func pointer[T any](v T) *T { return &v }

// pod is a pod that no scheduler takes, so that it stays as the story leaves it.
func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			ServiceAccountName: "runner",
			SchedulerName:      "nobody",
			Containers:         []corev1.Container{{Name: "main", Image: "example.com/app:1"}},
		},
	}
}

func configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: map[string]string{"key": name}}
}

func (s *teller) createConfigMaps(n int, labels map[string]string) {
	s.Helper()
	for i := range n {
		_, err := s.client.CoreV1().ConfigMaps(s.namespace).Create(s.ctx, configMap(fmt.Sprintf("cm-%03d", i), labels), metav1.CreateOptions{})
		s.must(err)
	}
}
