package apiserver_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/engine/apiserver"
)

// lines is an audit log in memory.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// said lists who did what with which result.
func (l *lines) said(t *testing.T) (all []string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		var e auditv1.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if e.Kind != "Event" || e.APIVersion != "audit.k8s.io/v1" || e.RequestObject != nil || e.ResponseObject != nil || len(e.AuditID) == 0 {
			t.Errorf("a line says too much or too little: %s", line)
		}
		who := e.User.Username
		if e.ImpersonatedUser != nil {
			who += " as " + e.ImpersonatedUser.Username
		}
		all = append(all, fmt.Sprintf("%s: %s %s/%s %s %d", who, e.Verb, e.ObjectRef.Namespace, e.ObjectRef.Resource, e.ObjectRef.Name, e.ResponseStatus.Code))
	}
	return all
}

// TestAudit: who changes something, tries to, or reads a Secret is recorded; what everybody reads and what
// the platform's parts do in their own names is not; bodies never are.
func TestAudit(t *testing.T) {
	log := &lines{}
	in := start(t, t.TempDir(), func(c *apiserver.Config) { c.Audit = log })
	ctx := t.Context()
	admin := client(t, in.admin)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"password": "hunter2"}}
	must[*corev1.Secret](t)(admin.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}))
	must[*corev1.Secret](t)(admin.CoreV1().Secrets("default").Get(ctx, "s", metav1.GetOptions{}))
	must[*corev1.ConfigMapList](t)(admin.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}))
	jane := rest.CopyConfig(in.admin)
	jane.Impersonate.UserName = "jane"
	if err := client(t, jane).CoreV1().Secrets("default").Delete(ctx, "s", metav1.DeleteOptions{}); err == nil {
		t.Error("jane may delete a secret")
	}
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}
	part := client(t, in.ClientConfig("system:gantry:part", "system:masters"))
	must[*corev1.ConfigMap](t)(part.CoreV1().ConfigMaps("default").Create(ctx, settings, metav1.CreateOptions{}))
	controller := client(t, in.ClientConfig("system:serviceaccount:kube-system:part", "system:serviceaccounts", "system:masters"))
	settings = must[*corev1.ConfigMap](t)(controller.CoreV1().ConfigMaps("default").Update(ctx, settings, metav1.UpdateOptions{}))
	must[*rbacv1.ClusterRoleBinding](t)(part.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "deployer"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "deployer"}},
	}, metav1.CreateOptions{}))
	deployer := client(t, in.AccountConfig("default", "deployer"))
	if err := deployer.CoreV1().ConfigMaps("default").Delete(ctx, "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// While a request is answered, others are made for it, each with a record of its own.
	if err := in.Mount("/nested/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, c := range []kubernetes.Interface{part, deployer} {
			if _, err := c.RbacV1().ClusterRoles().Create(r.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{GenerateName: "r-"}}, metav1.CreateOptions{}); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		}
	})); err != nil {
		t.Fatal(err)
	}
	if err := admin.CoreV1().RESTClient().Get().AbsPath("/nested/").Do(ctx).Error(); err != nil {
		t.Errorf("requests within a request: %v", err)
	}
	want := []string{
		"admin: create default/secrets s 201",
		"admin: get default/secrets s 200",
		"admin as jane: delete default/secrets s 403",
		"system:serviceaccount:default:deployer: delete default/configmaps c 200",
		"system:serviceaccount:default:deployer: create /clusterroles  201",
	}
	var got []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && len(got) < len(want); time.Sleep(time.Millisecond) {
		got = log.said(t) // the last line is written as the client gets its answer
	}
	if !slices.Equal(got, want) {
		t.Errorf("recorded:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if strings.Contains(log.text.String(), "hunter2") {
		t.Error("the log holds a password")
	}
}
