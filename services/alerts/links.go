package alerts

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"

	"github.com/gantryhq/gantry/services/alerts/ruleset"
)

// kinds are the labels that name an object, the most precise ones first, and its kind.
var kinds = []struct {
	label    model.LabelName
	kind     string
	workload bool
}{
	{"pod", "pod", false}, {"job_name", "job", true}, {"cronjob", "cronjob", true}, {"deployment", "deployment", true},
	{"statefulset", "statefulset", true}, {"daemonset", "daemonset", true}, {"replicaset", "replicaset", true},
	{"horizontalpodautoscaler", "horizontalpodautoscaler", false}, {"persistentvolumeclaim", "persistentvolumeclaim", false},
	{"route", "route", false}, {"gateway", "gateway", false}, {"service", "service", false},
	{"node", "node", false}, {"instance", "target", false},
}

// links fills in what an alert means and where to look: the annotations object, graph, logs and change. Links are
// paths of the console. What a rule has written itself stays.
type links struct {
	query rules.QueryFunc

	mu    sync.Mutex // guards following
	known map[model.Fingerprint]handed
}

// handed is an alert that was handed over and has not ended, and what was filled in.
type handed struct {
	found model.LabelSet
	alert *alert.Alert
}

func (l *links) add(ctx context.Context, expr string, a *alert.Alert) {
	id := a.Labels.Fingerprint()
	l.mu.Lock()
	found := l.known[id].found
	l.mu.Unlock()
	if found == nil {
		found = l.find(ctx, expr, a.Labels)
	}
	own := a.Annotations
	a.Annotations = maps.Clone(found)
	maps.Copy(a.Annotations, own)
	l.mu.Lock()
	if l.known[id] = (handed{found, a}); a.Resolved() {
		delete(l.known, id)
	}
	l.mu.Unlock()
}

// orphans ends the alerts whose rule is no more: nobody else would, and they would fire until they time out.
func (l *links) orphans(groups []*rules.Group) (ended []*alert.Alert) {
	l.mu.Lock()
	defer l.mu.Unlock()
	active := map[model.Fingerprint]bool{}
	for _, g := range groups {
		for _, r := range g.AlertingRules() {
			for _, a := range r.ActiveAlerts() {
				active[set(a.Labels).Fingerprint()] = true
			}
		}
	}
	for id, h := range l.known {
		if !active[id] {
			a := *h.alert
			a.UpdatedAt, a.EndsAt = now(), now()
			ended = append(ended, &a)
			delete(l.known, id)
		}
	}
	return ended
}

func (l *links) find(ctx context.Context, expr string, of model.LabelSet) model.LabelSet {
	found := model.LabelSet{"graph": model.LabelValue(graphPath(l.graphed(ctx, expr, of)))}
	namespace := string(of["namespace"])
	for _, k := range kinds {
		name := string(of[k.label])
		if name == "" {
			continue
		}
		found["object"] = model.LabelValue(k.kind + " " + strings.TrimPrefix(namespace+"/"+name, "/"))
		if namespace == "" || k.kind == "target" {
			break
		}
		logs := url.Values{"namespace": {namespace}}
		kind, owner := k.kind, name
		if k.kind == "pod" {
			logs.Set("pod", name)
			kind, owner = l.workloadOf(ctx, namespace, name)
		}
		if k.workload || k.kind == "pod" {
			found["logs"] = model.LabelValue("/console/logs?" + logs.Encode())
			found["change"] = model.LabelValue("/console/workloads/" + url.PathEscape(namespace) + "/" + kind + "/" + url.PathEscape(owner))
		}
		break
	}
	return found
}

// graphed is an expression whose graph shows the trouble: what the rule compares, for the alert's object, if that
// can be told.
func (l *links) graphed(ctx context.Context, expr string, of model.LabelSet) string {
	tree, err := ruleset.ParseExpr(expr)
	if err != nil {
		return expr
	}
	narrow := model.LabelSet{}
	for _, name := range []model.LabelName{"namespace", "container", "pod", "deployment", "statefulset", "daemonset", "route", "node"} {
		if v := of[name]; v != "" {
			narrow[name] = v
		}
	}
	shown, err := ruleset.Narrow(compared(tree).String(), narrow)
	if err != nil {
		return expr
	}
	// A label that a rule has made up, or joined, selects nothing.
	if v, err := l.query(ctx, shown, time.Now()); err != nil || len(v) == 0 {
		return expr
	}
	return shown
}

// compared is the left side of conditions.
func compared(e parser.Expr) parser.Expr {
	switch e := e.(type) {
	case *parser.ParenExpr:
		return compared(e.Expr)
	case *parser.BinaryExpr:
		if e.Op.IsComparisonOperator() && !e.ReturnBool || e.Op == parser.LAND || e.Op == parser.LUNLESS {
			return compared(e.LHS)
		}
	}
	return e
}

func graphPath(expr string) string {
	return "/console/graph?" + url.Values{"expr": {strings.Join(strings.Fields(expr), " ")}}.Encode()
}

// workloadOf is what made a pod, as the metrics about objects tell; the pod itself if nothing did.
func (l *links) workloadOf(ctx context.Context, namespace, pod string) (kind, name string) {
	owner := func(metric, label, of string) (kind, name string) {
		v, err := l.query(ctx, fmt.Sprintf("last_over_time(%s{namespace=%q,%s=%q}[10m])", metric, namespace, label, of), time.Now())
		if err != nil || len(v) == 0 {
			return "", ""
		}
		return v[0].Metric.Get("owner_kind"), v[0].Metric.Get("owner_name")
	}
	kind, name = owner("kube_pod_owner", "pod", pod)
	if kind == "ReplicaSet" {
		if k, n := owner("kube_replicaset_owner", "replicaset", name); known(n) {
			kind, name = k, n
		}
	}
	if !known(name) {
		return "pod", pod
	}
	return strings.ToLower(kind), name
}

// known says whether an owner is one: objects without have it empty, or "<none>".
func known(owner string) bool { return owner != "" && owner != "<none>" }
