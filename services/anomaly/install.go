package anomaly

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/rights"
)

// User is whom the service is, where it is a part of `gantry serve`.
const User = "system:gantry:anomaly"

// Reader is the ClusterRole that lets its holder see all anomalies. Nobody has it until an administrator binds it.
const Reader = "gantry-anomalies-reader"

// EnsureRoles installs the role that the service needs, gives it to User, and installs Reader. It needs an
// administrator. The right to read logs is what the time line asks for; no log is read.
func EnsureRoles(ctx context.Context, cfg *rest.Config) error {
	err := rights.Grant(ctx, cfg, User, []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods/log"}},
		{Verbs: []string{"get", "post"}, NonResourceURLs: []string{"/prometheus/*"}},
		{Verbs: []string{"get"}, NonResourceURLs: []string{timelinePath}},
	})
	if err != nil {
		return err
	}
	return rights.LetAsk(ctx, cfg, Reader, []string{"get"}, Prefix+"*")
}
