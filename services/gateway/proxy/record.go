package proxy

import (
	"net/netip"
	"time"

	"github.com/gantryhq/gantry/services/gateway/audit"
)

// logs tells whether the access log has a request, and leaves out of its line what
// the policy wants to be left out.
func (a *admission) logs(line *logLine) bool {
	if a == nil || a.rules.AccessLog == nil {
		return true
	}
	log := a.rules.AccessLog
	if log.OmitClient {
		line.peer, line.client = netip.AddrPort{}, ""
	}
	if log.OmitPath {
		line.path = ""
	}
	if log.OmitAgent {
		line.agent = ""
	}
	return log.Has(line.status)
}

// audit records a request that was answered, if a policy wants it.
func (a *admission) audit(log *audit.Log, route string, status int, start time.Time, took time.Duration) {
	if a == nil || !a.rules.Audit.Has(a.request.Method, a.pass.Refusal != nil) {
		return
	}
	e := audit.Entry{
		Time: start, Client: a.request.Client.String(), Method: a.request.Method, Host: a.request.Host, Path: a.request.Path,
		Route: route, Status: status, Seconds: took.Seconds(),
	}
	if id := a.pass.Identity; id != nil {
		e.Who = &audit.Who{Name: id.Client, Method: id.Method}
	}
	if r := a.pass.Refusal; r != nil {
		e.Refused, e.Policy = r.Kind, r.Policy
	}
	log.Record(&e)
}
