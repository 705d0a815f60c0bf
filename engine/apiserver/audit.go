package apiserver

import (
	"io"
	"net/http"

	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	apifilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"

	"github.com/gantryhq/gantry/engine/apiserver/inproc"
)

// auditLog records who asked for what, when, from where and with what result, as lines of JSON of the
// kind audit.k8s.io/v1 Event, which is what a kube-apiserver writes to --audit-log-path. A line is written
// before the answer is complete. Bodies are never in it, so no secrets.
type auditLog struct {
	sink  audit.Backend
	rules audit.PolicyRuleEvaluator
}

// newAuditLog returns a log that writes to w; nil records nothing.
func newAuditLog(w io.Writer) *auditLog {
	if w == nil {
		return nil
	}
	return &auditLog{
		sink:  auditlog.NewBackend(w, auditlog.FormatJson, auditv1.SchemeGroupVersion),
		rules: policy.NewPolicyRuleEvaluator(auditPolicy),
	}
}

// auditPolicy is what is recorded: changes by anybody but the platform's own parts, what opens a container or
// a node, and readings of Secrets. The first rule that fits decides.
var auditPolicy = &auditinternal.Policy{
	OmitStages: []auditinternal.Stage{auditinternal.StageRequestReceived, auditinternal.StageResponseStarted},
	Rules: []auditinternal.PolicyRule{
		unrecorded(auditinternal.PolicyRule{Users: []string{"system:gantry:gateway", user.APIServerUser}}),
		unrecorded(auditinternal.PolicyRule{Resources: []auditinternal.GroupResources{
			{Resources: []string{"events"}}, {Group: "events.k8s.io"}, {Group: "coordination.k8s.io"},
			{Group: "authentication.k8s.io"}, {Group: "authorization.k8s.io"},
		}}),
		recorded(auditinternal.PolicyRule{Resources: []auditinternal.GroupResources{{Resources: []string{
			"secrets", "serviceaccounts/token", "pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy", "nodes/proxy"}}}}),
		unrecorded(auditinternal.PolicyRule{Verbs: []string{"get", "list", "watch", "head", "options"}}),
		// Questions are asked with POST too.
		unrecorded(auditinternal.PolicyRule{NonResourceURLs: []string{"/prometheus*", "/loki*", "/console*"}}),
		recorded(auditinternal.PolicyRule{}),
	},
}

func recorded(r auditinternal.PolicyRule) auditinternal.PolicyRule {
	r.Level = auditinternal.LevelMetadata
	return r
}

func unrecorded(r auditinternal.PolicyRule) auditinternal.PolicyRule {
	r.Level = auditinternal.LevelNone
	return r
}

// inside records requests from inside: the platform's parts, controllers too, do in their own names what was
// asked of them before, but what they do as somebody's service account (AccountConfig) is that account's, also
// while another request is answered.
func (l *auditLog) inside(h http.Handler, longRunning request.LongRunningRequestCheck) http.Handler {
	recorded := apifilters.WithAudit(h, l.sink, l.rules, longRunning)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if who, _ := inproc.UserFrom(r.Context()); isSomebodys(who) {
			recorded.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// account is a user's service account in whose name a part of the platform acts.
type account struct{ *user.DefaultInfo }

func isSomebodys(who user.Info) bool {
	_, is := who.(account)
	return is
}
