package contract

import (
	"errors"
	"fmt"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// as answers a client that acts as another user.
func (s *teller) as(user string, groups ...string) kubernetes.Interface {
	s.Helper()
	cfg := rest.CopyConfig(s.cfg)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	c, err := kubernetes.NewForConfig(cfg)
	s.must(err)
	return c
}

// withToken answers a client that has a token only.
func (s *teller) withToken(token string) kubernetes.Interface {
	s.Helper()
	cfg := rest.AnonymousClientConfig(s.cfg)
	cfg.BearerToken = token
	c, err := kubernetes.NewForConfig(cfg)
	s.must(err)
	return c
}

func (s *teller) grant(namespace, user string, rules ...rbacv1.PolicyRule) {
	s.Helper()
	_, err := s.client.RbacV1().Roles(namespace).Create(s.ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules}, metav1.CreateOptions{})
	s.must(err)
	_, err = s.client.RbacV1().RoleBindings(namespace).Create(s.ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{})
	s.must(err)
}

func rights(s *teller) {
	alice := s.as("alice", "system:authenticated")
	maps := alice.CoreV1().ConfigMaps(s.namespace)
	_, err := maps.List(s.ctx, metav1.ListOptions{})
	s.refused(err, apierrors.IsForbidden, "a list without rights")
	if !strings.Contains(err.Error(), `User "alice" cannot list resource "configmaps" in API group "" in the namespace "`+s.namespace) {
		s.Errorf("the refusal does not say who may not do what: %v", err)
	}
	s.grant(s.namespace, "alice", rbacv1.PolicyRule{Verbs: []string{"list", "create"}, APIGroups: []string{""}, Resources: []string{"configmaps"}})
	s.eventually("alice's right", func() error { _, err := maps.List(s.ctx, metav1.ListOptions{}); return err })
	_, err = maps.Create(s.ctx, configMap("hers", nil), metav1.CreateOptions{})
	s.must(err)
	_, err = maps.Get(s.ctx, "hers", metav1.GetOptions{})
	s.refused(err, apierrors.IsForbidden, "a read without the right to read")

	review, err := alice.AuthorizationV1().SelfSubjectAccessReviews().Create(s.ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: s.namespace, Verb: "create", Resource: "configmaps"}}}, metav1.CreateOptions{})
	s.must(err)
	if !review.Status.Allowed {
		s.Error("alice may not ask what she may do")
	}
	who, err := alice.AuthenticationV1().SelfSubjectReviews().Create(s.ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	s.must(err)
	if who.Status.UserInfo.Username != "alice" {
		s.Errorf("alice is %v", who.Status.UserInfo)
	}
	cfg := rest.AnonymousClientConfig(s.cfg)
	nobody, err := kubernetes.NewForConfig(cfg)
	s.must(err)
	_, err = nobody.CoreV1().Secrets(s.namespace).List(s.ctx, metav1.ListOptions{})
	if !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) {
		s.Errorf("nobody's list: %v", err)
	}
	_, err = s.withToken("not.a.token").CoreV1().Secrets(s.namespace).List(s.ctx, metav1.ListOptions{})
	s.refused(err, apierrors.IsUnauthorized, "a token that is none")

	bob := rest.CopyConfig(s.cfg)
	bob.Impersonate = rest.ImpersonationConfig{UserName: "alice"}
	bob.WrapTransport = nil
	c, err := kubernetes.NewForConfig(bob)
	s.must(err)
	_, err = c.CoreV1().ConfigMaps(s.namespace).List(s.ctx, metav1.ListOptions{})
	s.must(err)
}

func escalation(s *teller) {
	s.grant(s.namespace, "carol",
		rbacv1.PolicyRule{Verbs: []string{"create"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles", "rolebindings"}},
		rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}})
	carol := s.as("carol").RbacV1().Roles(s.namespace)
	role := func(name, verb string) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{{Verbs: []string{verb}, APIGroups: []string{""}, Resources: []string{"configmaps"}}}}
	}
	s.eventually("carol's right", func() error {
		_, err := carol.Create(s.ctx, role("less", "get"), metav1.CreateOptions{})
		return err
	})
	_, err := carol.Create(s.ctx, role("more", "delete"), metav1.CreateOptions{})
	s.refused(err, apierrors.IsForbidden, "a role with rights that its author lacks")
	if !strings.Contains(err.Error(), "attempting to grant RBAC permissions not currently held") {
		s.Errorf("the refusal does not say why: %v", err)
	}
}

func tokens(s *teller) {
	accounts := s.client.CoreV1().ServiceAccounts(s.namespace)
	p, err := s.client.CoreV1().Pods(s.namespace).Create(s.ctx, pod("holder"), metav1.CreateOptions{})
	s.must(err)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: pointer(int64(3600)),
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "holder", UID: p.UID},
	}}
	token, err := accounts.CreateToken(s.ctx, "runner", request, metav1.CreateOptions{})
	s.must(err)
	who := func() (*authenticationv1.SelfSubjectReview, error) {
		return s.withToken(token.Status.Token).AuthenticationV1().SelfSubjectReviews().Create(s.ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	}
	me, err := who()
	s.must(err)
	info := me.Status.UserInfo
	if want := "system:serviceaccount:" + s.namespace + ":runner"; info.Username != want || info.Extra["authentication.kubernetes.io/pod-name"][0] != "holder" {
		s.Errorf("the token's holder is %+v, want %s", info, want)
	}
	review, err := s.client.AuthenticationV1().TokenReviews().Create(s.ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token}}, metav1.CreateOptions{})
	s.must(err)
	if !review.Status.Authenticated || review.Status.User.Username != info.Username {
		s.Errorf("review: %+v", review.Status)
	}
	s.must(s.client.CoreV1().Pods(s.namespace).Delete(s.ctx, "holder", metav1.DeleteOptions{GracePeriodSeconds: pointer(int64(0))}))
	s.eventually("the token's end with its pod", func() error {
		if _, err := who(); !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("it is still accepted: %v", err)
		}
		return nil
	})
	request.Spec.BoundObjectRef.UID = "someone-else"
	_, err = accounts.CreateToken(s.ctx, "runner", request, metav1.CreateOptions{})
	if err == nil {
		s.Error("a token was bound to a pod that is not there")
	}
	_, err = accounts.CreateToken(s.ctx, "nobody", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	s.refused(err, apierrors.IsNotFound, "a token of no account")
}

func services(s *teller) {
	services := s.client.CoreV1().Services(s.namespace)
	create := func(svc *corev1.Service) (*corev1.Service, error) {
		return services.Create(s.ctx, svc, metav1.CreateOptions{})
	}
	service := func(name string, kind corev1.ServiceType) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: kind, Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}}}}
	}
	plain, err := create(service("plain", ""))
	s.must(err)
	if plain.Spec.Type != corev1.ServiceTypeClusterIP || plain.Spec.ClusterIP == "" || plain.Spec.Ports[0].TargetPort.IntValue() != 80 || plain.Spec.Ports[0].Protocol != corev1.ProtocolTCP {
		s.Errorf("service: %+v", plain.Spec)
	}
	thief := service("thief", "")
	thief.Spec.ClusterIP = plain.Spec.ClusterIP
	_, err = create(thief)
	s.refused(err, apierrors.IsInvalid, "an address that is taken")
	node, err := create(service("node", corev1.ServiceTypeNodePort))
	s.must(err)
	port := node.Spec.Ports[0].NodePort
	if port < 1024 {
		s.Errorf("node port %d", port)
	}
	thief = service("thief", corev1.ServiceTypeNodePort)
	thief.Spec.Ports[0].NodePort = port
	_, err = create(thief)
	s.refused(err, apierrors.IsInvalid, "a node port that is taken")
	s.must(services.Delete(s.ctx, "node", metav1.DeleteOptions{}))
	_, err = create(thief)
	s.must(err) // the port came back
	s.must(services.Delete(s.ctx, "plain", metav1.DeleteOptions{}))
	again := service("again", "")
	again.Spec.ClusterIP = plain.Spec.ClusterIP
	again, err = create(again)
	s.must(err) // and the address

	headless := service("headless", "")
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	headless, err = create(headless)
	s.must(err)
	if headless.Spec.ClusterIP != corev1.ClusterIPNone {
		s.Errorf("headless service has %q", headless.Spec.ClusterIP)
	}
	again.Spec.Type = corev1.ServiceTypeLoadBalancer
	again, err = services.Update(s.ctx, again, metav1.UpdateOptions{})
	s.must(err)
	if again.Spec.Ports[0].NodePort == 0 {
		s.Error("a load balancer got no node port")
	}
	again.Spec.ClusterIP = "10.96.0.99"
	_, err = services.Update(s.ctx, again, metav1.UpdateOptions{})
	s.refused(err, apierrors.IsInvalid, "a change of address")
	if _, err := s.client.CoreV1().Services("default").Get(s.ctx, "kubernetes", metav1.GetOptions{}); err != nil {
		s.Error(errors.Join(errors.New("the API is no service"), err))
	}
}
