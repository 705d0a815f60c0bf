package api

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/util/annotations"
)

type activeTarget struct {
	DiscoveredLabels   labels.Labels       `json:"discoveredLabels"`
	Labels             labels.Labels       `json:"labels"`
	ScrapePool         string              `json:"scrapePool"`
	ScrapeURL          string              `json:"scrapeUrl"`
	GlobalURL          string              `json:"globalUrl"`
	LastError          string              `json:"lastError"`
	LastScrape         time.Time           `json:"lastScrape"`
	LastScrapeDuration float64             `json:"lastScrapeDuration"` // seconds
	Health             scrape.TargetHealth `json:"health"`
	ScrapeInterval     string              `json:"scrapeInterval"`
	ScrapeTimeout      string              `json:"scrapeTimeout"`
}

type droppedTarget struct {
	DiscoveredLabels labels.Labels `json:"discoveredLabels"`
	ScrapePool       string        `json:"scrapePool"`
}

func (a *API) targets(r *http.Request) (any, annotations.Annotations, error) {
	pool, state := r.Form.Get("scrapePool"), strings.ToLower(r.Form.Get("state"))
	answer := struct {
		Active  []activeTarget  `json:"activeTargets"`
		Dropped []droppedTarget `json:"droppedTargets"`
		Counts  map[string]int  `json:"droppedTargetCounts"`
	}{[]activeTarget{}, []droppedTarget{}, map[string]int{}}
	b := labels.NewBuilder(labels.EmptyLabels())
	for _, of := range a.cfg.Targets {
		for _, t := range inOrder(of.TargetsActive(), pool, state, "active") {
			answer.Active = append(answer.Active, describe(b, t))
		}
		for _, t := range inOrder(of.TargetsDropped(), pool, state, "dropped") {
			answer.Dropped = append(answer.Dropped, droppedTarget{t.DiscoveredLabels(b), t.pool})
		}
		if shown(state, "dropped") {
			for name, n := range of.TargetsDroppedCounts() {
				answer.Counts[name] = n
			}
		}
	}
	return answer, nil, nil
}

func shown(state, kind string) bool { return state == "" || state == "any" || state == kind }

type pooled struct {
	*scrape.Target
	pool string
}

// inOrder lists targets that are asked for, by pool.
func inOrder(by map[string][]*scrape.Target, pool, state, kind string) (list []pooled) {
	if !shown(state, kind) {
		return nil
	}
	for name, targets := range by {
		if pool == "" || pool == name {
			for _, t := range targets {
				list = append(list, pooled{t, name})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b pooled) int { return strings.Compare(a.pool, b.pool) })
	return list
}

func describe(b *labels.Builder, t pooled) activeTarget {
	problem := ""
	if err := t.LastError(); err != nil {
		problem = err.Error()
	}
	url := t.URL().String()
	return activeTarget{
		DiscoveredLabels: t.DiscoveredLabels(b), Labels: t.Labels(b), ScrapePool: t.pool, ScrapeURL: url, GlobalURL: url,
		LastError: problem, LastScrape: t.LastScrape(), LastScrapeDuration: t.LastScrapeDuration().Seconds(), Health: t.Health(),
		ScrapeInterval: t.GetValue(model.ScrapeIntervalLabel), ScrapeTimeout: t.GetValue(model.ScrapeTimeoutLabel),
	}
}

func (a *API) active() (all []*scrape.Target) {
	for _, of := range a.cfg.Targets {
		for _, t := range inOrder(of.TargetsActive(), "", "", "active") {
			all = append(all, t.Target)
		}
	}
	return all
}

func (a *API) scrapePools(*http.Request) (any, annotations.Annotations, error) {
	pools := []string{}
	for _, of := range a.cfg.Targets {
		pools = append(pools, of.ScrapePools()...)
	}
	slices.Sort(pools)
	return map[string][]string{"scrapePools": pools}, nil, nil
}

type targetMetadata struct {
	Target labels.Labels    `json:"target"`
	Metric string           `json:"metric,omitempty"`
	Type   model.MetricType `json:"type"`
	Help   string           `json:"help"`
	Unit   string           `json:"unit"`
}

// known lists what a target says about its metrics, or about one of them.
func known(t *scrape.Target, metric string) []scrape.MetricMetadata {
	if metric == "" {
		return t.ListMetadata()
	}
	if m, ok := t.GetMetadata(metric); ok {
		return []scrape.MetricMetadata{m}
	}
	return nil
}

func (a *API) targetMetadata(r *http.Request) (any, annotations.Annotations, error) {
	limit, err := number(r, "limit", -1)
	if err != nil {
		return nil, nil, err
	}
	var matchers []*labels.Matcher
	if s := r.Form.Get("match_target"); s != "" {
		if matchers, err = a.cfg.Parser.ParseMetricSelector(s); err != nil {
			return nil, nil, bad("match_target", err)
		}
	}
	metric, list := r.Form.Get("metric"), []targetMetadata{}
	b := labels.NewBuilder(labels.EmptyLabels())
	for _, t := range a.active() {
		of := t.Labels(b)
		if slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(of.Get(m.Name)) }) {
			continue
		}
		for _, m := range known(t, metric) {
			if limit >= 0 && len(list) >= limit {
				return list, nil, nil
			}
			entry := targetMetadata{of, m.MetricFamily, m.Type, m.Help, m.Unit}
			if metric != "" {
				entry.Metric = ""
			}
			list = append(list, entry)
		}
	}
	return list, nil, nil
}

type metadata struct {
	Type model.MetricType `json:"type"`
	Help string           `json:"help"`
	Unit string           `json:"unit"`
}

func (a *API) metadata(r *http.Request) (any, annotations.Annotations, error) {
	limit, err := number(r, "limit", -1)
	if err != nil {
		return nil, nil, err
	}
	perMetric, err := number(r, "limit_per_metric", 0)
	if err != nil {
		return nil, nil, err
	}
	found := map[string][]metadata{}
	for _, t := range a.active() {
		for _, m := range known(t, r.Form.Get("metric")) {
			of, seen := found[m.MetricFamily]
			if !seen && limit >= 0 && len(found) >= limit || perMetric > 0 && len(of) >= perMetric {
				continue
			}
			if entry := (metadata{m.Type, m.Help, m.Unit}); !slices.Contains(of, entry) {
				found[m.MetricFamily] = append(of, entry)
			}
		}
	}
	return found, nil, nil
}
