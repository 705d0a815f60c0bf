package login

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/services/registry"
)

const goodToken = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjaSJ9.c2ln"

// cluster knows one token, and lets its user get and create shop/cart.
func cluster(t *testing.T, objects ...runtime.Object) *fake.Clientset {
	t.Helper()
	c := fake.NewClientset(objects...)
	c.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview)
		r.Status.Authenticated = r.Spec.Token == goodToken
		r.Status.User = authenticationv1.UserInfo{Username: "system:serviceaccount:shop:ci", Groups: []string{"system:authenticated"}}
		return true, r, nil
	})
	c.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		asked := r.Spec.ResourceAttributes
		r.Status.Allowed = r.Spec.User == "system:serviceaccount:shop:ci" && asked.Group == "gantry.dev" && asked.Resource == "repositories" &&
			asked.Namespace == "shop" && asked.Name == "cart" && (asked.Verb == "get" || asked.Verb == "create")
		return true, r, nil
	})
	return c
}

func request(change func(*http.Request)) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:5000/v2/", nil)
	change(r)
	return r
}

func TestWhoLogsInAndHow(t *testing.T) {
	secret, password, err := NewAccount("bot", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	expired := secret.DeepCopy()
	expired.Name = SecretPrefix + "old"
	expired.Data[ExpiresKey] = []byte("2020-01-01T00:00:00Z")
	other := secret.DeepCopy() // a Secret that is no account, although it has a hash
	other.Name, other.Type = SecretPrefix+"other", corev1.SecretTypeOpaque
	l := New(cluster(t, secret, expired, other))
	byRoot := func(r *http.Request) *http.Request {
		return r.WithContext(context.WithValue(r.Context(), peerKey{}, true))
	}
	for name, c := range map[string]struct {
		r    *http.Request
		want bool
	}{
		"nobody":                 {request(func(*http.Request) {}), false},
		"nobody, said so":        {request(func(r *http.Request) { r.SetBasicAuth("", "") }), false},
		"root over loopback":     {byRoot(request(func(*http.Request) {})), true},
		"root by another name":   {byRoot(request(func(r *http.Request) { r.Host = "evil.example" })), false},
		"root, wrong password":   {byRoot(request(func(r *http.Request) { r.SetBasicAuth("bot", "x") })), false},
		"token as password":      {request(func(r *http.Request) { r.SetBasicAuth("whoever", goodToken) }), true},
		"bearer token":           {request(func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+goodToken) }), true},
		"invalid token":          {request(func(r *http.Request) { r.SetBasicAuth("x", strings.Replace(goodToken, "sig", "sog", 1)+"x") }), false},
		"account":                {request(func(r *http.Request) { r.SetBasicAuth("bot", password) }), true},
		"account, wrong":         {request(func(r *http.Request) { r.SetBasicAuth("bot", password+"x") }), false},
		"account, no password":   {request(func(r *http.Request) { r.SetBasicAuth("bot", "") }), false},
		"account of nobody":      {request(func(r *http.Request) { r.SetBasicAuth("none", password) }), false},
		"account that expired":   {request(func(r *http.Request) { r.SetBasicAuth("old", password) }), false},
		"Secret of another type": {request(func(r *http.Request) { r.SetBasicAuth("other", password) }), false},
		"name with a path":       {request(func(r *http.Request) { r.SetBasicAuth("../bot", password) }), false},
	} {
		_, err := l.Login(c.r)
		if (err == nil) != c.want || err != nil && !errors.Is(err, registry.ErrUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && (strings.Contains(err.Error(), password) || strings.Contains(err.Error(), goodToken)) {
			t.Errorf("%s: the error tells the secret: %v", name, err)
		}
	}
}

func TestKubernetesDecidesWhatAUserMayDo(t *testing.T) {
	l := New(cluster(t))
	caller, err := l.Login(request(func(r *http.Request) { r.SetBasicAuth("x", goodToken) }))
	if err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]bool{
		"get shop/cart": true, "create shop/cart": true, "update shop/cart": false, "delete shop/cart": false,
		"get shop/cart/debug": false, "get other/cart": false, "get cart": false, "list ": false,
	} {
		verb, repository, _ := strings.Cut(what, " ")
		err := caller.May(t.Context(), registry.Action(verb), repository)
		if (err == nil) != want || err != nil && !errors.Is(err, registry.ErrDenied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	err = caller.May(t.Context(), registry.Delete, "shop/cart")
	if want := "system:serviceaccount:shop:ci may not delete from shop/cart: that needs a role with the verb delete on repositories.gantry.dev in namespace shop"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the refusal is %v", err)
	}
}

func TestAPasswordIsRememberedOnlyWhileItsAccountIsTheSame(t *testing.T) {
	secret, password, err := NewAccount("bot", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	secret.ResourceVersion = "1"
	c := cluster(t, secret)
	a := newAccounts(c)
	log := func() error { _, err := a.check(t.Context(), "bot", password); return err }
	for range 3 {
		if err := log(); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.right) != 1 {
		t.Errorf("%d passwords are remembered", len(a.right))
	}
	changed, _, err := NewAccount("bot", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	changed.ResourceVersion = "2"
	secrets := c.CoreV1().Secrets(platform.SystemNamespace)
	if _, err := secrets.Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := log(); !errors.Is(err, registry.ErrUnauthenticated) {
		t.Errorf("the former password: %v", err)
	}
	if err := secrets.Delete(t.Context(), changed.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := log(); !errors.Is(err, registry.ErrUnauthenticated) {
		t.Errorf("after the account was deleted: %v", err)
	}
	for i := range maxRemembered + 10 {
		a.right[[32]byte{byte(i), byte(i >> 8)}] = "x"
	}
	if secret.ResourceVersion = "3"; !a.matches(secret, "bot", password) || len(a.right) > maxRemembered {
		t.Errorf("%d passwords are remembered", len(a.right))
	}
}

func TestRightsOfAccountsAreRoles(t *testing.T) {
	c := fake.NewClientset()
	for pattern, ok := range map[string]bool{"shop/*": true, "shop/cart": true, "*": true, "shop": false, "shop/c*": false, "*/cart": false, "/": false, "": false} {
		if err := CheckPattern(pattern); (err == nil) != ok {
			t.Errorf("pattern %q: %v", pattern, err)
		}
	}
	err := Bind(t.Context(), c, "bot", []Grant{{"shop/*", PushVerbs}, {"team/app", PullVerbs}, {"*", PullVerbs}})
	if err != nil {
		t.Fatal(err)
	}
	role, err := c.RbacV1().Roles("team").Get(t.Context(), SecretPrefix+"bot", metav1.GetOptions{})
	if err != nil || fmt.Sprint(role.Rules[0].ResourceNames, role.Rules[0].Verbs) != "[app] [get list]" {
		t.Errorf("%+v %v", role, err)
	}
	if err := Unbind(t.Context(), c, "bot"); err != nil {
		t.Fatal(err)
	}
	left, err := c.RbacV1().RoleBindings("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) > 0 {
		t.Errorf("after all was taken away: %v %v", left.Items, err)
	}
	if _, err := c.RbacV1().ClusterRoleBindings().Get(t.Context(), SecretPrefix+"bot", metav1.GetOptions{}); err == nil {
		t.Error("a cluster role binding is left")
	}
}
