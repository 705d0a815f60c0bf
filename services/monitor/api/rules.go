package api

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/util/annotations"
)

// The forms of https://prometheus.io/docs/prometheus/latest/querying/api/#rules.
type (
	ruleGroups struct {
		Groups []ruleGroup `json:"groups"`
		Next   string      `json:"groupNextToken,omitempty"`
	}
	ruleGroup struct {
		Name           string    `json:"name"`
		File           string    `json:"file"`
		Rules          []any     `json:"rules"` // in their order: alertingRule or recordingRule
		Interval       float64   `json:"interval"`
		Limit          int       `json:"limit"`
		EvaluationTime float64   `json:"evaluationTime"` // seconds
		LastEvaluation time.Time `json:"lastEvaluation"`
	}
	alertingRule struct {
		State          string           `json:"state"`
		Name           string           `json:"name"`
		Query          string           `json:"query"`
		Duration       float64          `json:"duration"`
		KeepFiringFor  float64          `json:"keepFiringFor"`
		Labels         labels.Labels    `json:"labels"`
		Annotations    labels.Labels    `json:"annotations"`
		Alerts         []activeAlert    `json:"alerts"`
		Health         rules.RuleHealth `json:"health"`
		LastError      string           `json:"lastError,omitempty"`
		EvaluationTime float64          `json:"evaluationTime"`
		LastEvaluation time.Time        `json:"lastEvaluation"`
		Type           string           `json:"type"`
	}
	recordingRule struct {
		Name           string           `json:"name"`
		Query          string           `json:"query"`
		Labels         labels.Labels    `json:"labels"`
		Health         rules.RuleHealth `json:"health"`
		LastError      string           `json:"lastError,omitempty"`
		EvaluationTime float64          `json:"evaluationTime"`
		LastEvaluation time.Time        `json:"lastEvaluation"`
		Type           string           `json:"type"`
	}
	activeAlert struct {
		Labels          labels.Labels `json:"labels"`
		Annotations     labels.Labels `json:"annotations"`
		State           string        `json:"state"`
		ActiveAt        *time.Time    `json:"activeAt,omitempty"`
		KeepFiringSince *time.Time    `json:"keepFiringSince,omitempty"`
		Value           string        `json:"value"`
	}
)

// ruleQuery is which rules are asked for.
type ruleQuery struct {
	kind          string // alert, record, or "" for both
	names         []string
	groups, files []string
	matching      [][]*labels.Matcher
	withoutAlerts bool
	limit         int // groups of a page; 0 is all
	next          string
}

func (a *API) ruleQuery(r *http.Request) (q ruleQuery, err error) {
	q = ruleQuery{kind: strings.ToLower(r.Form.Get("type")), next: r.Form.Get("group_next_token"),
		names: r.Form["rule_name[]"], groups: r.Form["rule_group[]"], files: r.Form["file[]"]}
	if q.kind != "" && q.kind != "alert" && q.kind != "record" {
		return q, bad("type", fmt.Errorf("not supported value %q", q.kind))
	}
	if q.matching, err = a.selectors(r); err != nil {
		return q, err
	}
	if s := r.Form.Get("exclude_alerts"); s != "" {
		if q.withoutAlerts, err = strconv.ParseBool(strings.ToLower(s)); err != nil {
			return q, bad("exclude_alerts", fmt.Errorf("error converting exclude_alerts: %w", err))
		}
	}
	limit := r.Form.Get("group_limit")
	switch {
	case limit == "" && q.next != "":
		return q, bad("group_next_token", errors.New("group_limit needs to be present in order to paginate over the groups"))
	case limit != "":
		if q.limit, err = strconv.Atoi(limit); err != nil {
			return q, bad("group_limit", fmt.Errorf("group_limit needs to be a valid number: %w", err))
		}
		if q.limit <= 0 {
			return q, bad("group_limit", errors.New("group_limit needs to be greater than 0"))
		}
	}
	return q, nil
}

// asked says whether a name is among those asked for; none asked for is all.
func asked(list []string, name string) bool { return len(list) == 0 || slices.Contains(list, name) }

func (a *API) rules(r *http.Request) (any, annotations.Annotations, error) {
	q, err := a.ruleQuery(r)
	if err != nil {
		return nil, nil, err
	}
	answer := ruleGroups{Groups: []ruleGroup{}}
	skipping := q.next != ""
	for _, g := range a.groups() {
		if skipping = skipping && token(g) != q.next; skipping || !asked(q.groups, g.Name()) || !asked(q.files, g.File()) {
			continue
		}
		list := q.rulesOf(g)
		if len(list) == 0 {
			continue
		}
		if q.limit > 0 && len(answer.Groups) == q.limit {
			answer.Next = token(g)
			break
		}
		answer.Groups = append(answer.Groups, ruleGroup{
			Name: g.Name(), File: g.File(), Rules: list, Interval: g.Interval().Seconds(), Limit: g.Limit(),
			EvaluationTime: g.GetEvaluationTime().Seconds(), LastEvaluation: g.GetLastEvaluation(),
		})
	}
	if skipping {
		return nil, nil, bad("group_next_token", fmt.Errorf("invalid group_next_token '%v'. were rule groups changed?", q.next))
	}
	return answer, nil, nil
}

func (a *API) groups() []*rules.Group {
	if a.cfg.Rules == nil {
		return nil
	}
	return a.cfg.Rules()
}

// token names the group that a page begins with.
func token(g *rules.Group) string {
	sum := sha256.Sum256([]byte(g.File() + ";" + g.Name()))
	return hex.EncodeToString(sum[:])
}

func (q *ruleQuery) rulesOf(g *rules.Group) (list []any) {
	for _, r := range g.Rules(q.matching...) {
		if !asked(q.names, r.Name()) {
			continue
		}
		lastError := ""
		if err := r.LastError(); err != nil {
			lastError = err.Error()
		}
		switch r := r.(type) {
		case *rules.AlertingRule:
			if q.kind == "record" {
				continue
			}
			var alerts []activeAlert
			if !q.withoutAlerts {
				alerts = alertsOf(r)
			}
			list = append(list, alertingRule{
				State: r.State().String(), Name: r.Name(), Query: r.Query().String(), Duration: r.HoldDuration().Seconds(),
				KeepFiringFor: r.KeepFiringFor().Seconds(), Labels: r.Labels(), Annotations: r.Annotations(), Alerts: alerts,
				Health: r.Health(), LastError: lastError, EvaluationTime: r.GetEvaluationDuration().Seconds(),
				LastEvaluation: r.GetEvaluationTimestamp(), Type: "alerting",
			})
		case *rules.RecordingRule:
			if q.kind == "alert" {
				continue
			}
			list = append(list, recordingRule{
				Name: r.Name(), Query: r.Query().String(), Labels: r.Labels(), Health: r.Health(), LastError: lastError,
				EvaluationTime: r.GetEvaluationDuration().Seconds(), LastEvaluation: r.GetEvaluationTimestamp(), Type: "recording",
			})
		}
	}
	return list
}

func (a *API) alerts(*http.Request) (any, annotations.Annotations, error) {
	list := []activeAlert{}
	for _, g := range a.groups() {
		for _, r := range g.AlertingRules() {
			list = append(list, alertsOf(r)...)
		}
	}
	return map[string]any{"alerts": list}, nil, nil
}

func alertsOf(r *rules.AlertingRule) []activeAlert {
	list := []activeAlert{}
	for _, a := range r.ActiveAlerts() {
		to := activeAlert{Labels: a.Labels, Annotations: a.Annotations, State: a.State.String(), ActiveAt: &a.ActiveAt,
			Value: strconv.FormatFloat(a.Value, 'e', -1, 64)}
		if !a.KeepFiringSince.IsZero() {
			to.KeepFiringSince = &a.KeepFiringSince
		}
		list = append(list, to)
	}
	return list
}
