package api

import (
	"net/http"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/prometheus/prometheus/util/annotations"
)

// speaks is the release of Prometheus whose engine and API this is: Grafana chooses by it what to ask.
const speaks = "3.14.0"

func noAlertmanagers(*http.Request) (any, annotations.Annotations, error) {
	return map[string][]any{"activeAlertmanagers": {}, "droppedAlertmanagers": {}}, nil, nil
}

func (a *API) statusConfig(*http.Request) (any, annotations.Annotations, error) {
	return map[string]string{"yaml": a.cfg.Scraping()}, nil, nil
}

func (a *API) statusFlags(*http.Request) (any, annotations.Annotations, error) {
	return a.cfg.Settings, nil, nil
}

func (a *API) statusBuild(*http.Request) (any, annotations.Annotations, error) {
	return map[string]string{
		"version": speaks, "revision": a.cfg.Version, "branch": "gantry", "buildUser": "", "buildDate": "", "goVersion": runtime.Version(),
	}, nil, nil
}

func (a *API) statusRuntime(*http.Request) (any, annotations.Annotations, error) {
	host, _ := os.Hostname()
	var series uint64
	if a.cfg.Stats != nil {
		series = a.cfg.Stats(0).NumSeries
	}
	return map[string]any{
		"startTime": a.cfg.Started.UTC(), "serverTime": time.Now().UTC(), "CWD": "/", "hostname": host,
		"reloadConfigSuccess": true, "lastConfigTime": a.cfg.Started.UTC(), "corruptionCount": 0, "timeSeriesCount": series,
		"goroutineCount": runtime.NumGoroutine(), "GOMAXPROCS": runtime.GOMAXPROCS(0),
		"GOMEMLIMIT": 0, "GOGC": os.Getenv("GOGC"), "GODEBUG": os.Getenv("GODEBUG"), "storageRetention": a.cfg.Retention,
	}, nil, nil
}

type count struct {
	Name  string `json:"name"`
	Value uint64 `json:"value"`
}

func counts(list []index.Stat) []count {
	all := make([]count, 0, len(list))
	for _, s := range list {
		all = append(all, count{s.Name, s.Count})
	}
	return all
}

func (a *API) statusTSDB(r *http.Request) (any, annotations.Annotations, error) {
	limit, err := number(r, "limit", 10)
	if err != nil {
		return nil, nil, err
	}
	s := a.cfg.Stats(min(limit, 10_000))
	return map[string]any{
		"headStats": map[string]any{
			"numSeries": s.NumSeries, "numLabelPairs": s.IndexPostingStats.NumLabelPairs, "chunkCount": a.cfg.Chunks(),
			"minTime": s.MinTime, "maxTime": s.MaxTime,
		},
		"seriesCountByMetricName":     counts(s.IndexPostingStats.CardinalityMetricsStats),
		"labelValueCountByLabelName":  counts(s.IndexPostingStats.CardinalityLabelStats),
		"memoryInBytesByLabelName":    counts(s.IndexPostingStats.LabelValueStats),
		"seriesCountByLabelValuePair": counts(s.IndexPostingStats.LabelValuePairsStats),
	}, nil, nil
}

// Retention writes a bound of age and size as Prometheus does.
func Retention(age time.Duration, bytes int64) string {
	return age.String() + " or " + strconv.FormatInt(bytes>>20, 10) + "MiB"
}
