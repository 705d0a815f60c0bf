package api

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// names asks a querier for strings, once for each selector, or once without.
func (a *API) names(r *http.Request, ask func(storage.Querier, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error)) (any, annotations.Annotations, error) {
	limit, err := number(r, "limit", 0)
	if err != nil {
		return nil, nil, err
	}
	start, end, err := span(r)
	if err != nil {
		return nil, nil, err
	}
	sets, err := a.selectors(r)
	if err != nil {
		return nil, nil, err
	}
	querier, err := a.cfg.Storage.Querier(timestamp.FromTime(start), timestamp.FromTime(end))
	if err != nil {
		return nil, nil, err
	}
	defer querier.Close()
	if len(sets) == 0 {
		sets = [][]*labels.Matcher{nil}
	}
	var warnings annotations.Annotations
	found := map[string]bool{}
	for _, set := range sets {
		list, some, err := ask(querier, &storage.LabelHints{Limit: oneMore(limit)}, set...)
		if err != nil {
			return nil, nil, err
		}
		warnings.Merge(some)
		for _, name := range list {
			found[strings.Clone(name)] = true // its memory belongs to the querier
		}
	}
	all := slices.Sorted(maps.Keys(found))
	if all == nil {
		all = []string{}
	}
	if limit > 0 && len(all) > limit {
		all, warnings = all[:limit], warnings.Add(errTruncated)
	}
	return all, warnings, nil
}

// oneMore asks for one more than is answered, to see whether there are more.
func oneMore(limit int) int {
	if limit == 0 {
		return 0
	}
	return limit + 1
}

func (a *API) labelNames(r *http.Request) (any, annotations.Annotations, error) {
	return a.names(r, func(q storage.Querier, h *storage.LabelHints, m ...*labels.Matcher) ([]string, annotations.Annotations, error) {
		return q.LabelNames(r.Context(), h, m...)
	})
}

func (a *API) labelValues(r *http.Request) (any, annotations.Annotations, error) {
	name := r.PathValue("name")
	if strings.HasPrefix(name, "U__") {
		name = model.UnescapeName(name, model.ValueEncodingEscaping)
	}
	if !model.UTF8Validation.IsValidLabelName(name) {
		return nil, nil, &refusal{"bad_data", http.StatusBadRequest, fmt.Errorf("invalid label name: %q", name)}
	}
	return a.names(r, func(q storage.Querier, h *storage.LabelHints, m ...*labels.Matcher) ([]string, annotations.Annotations, error) {
		return q.LabelValues(r.Context(), name, h, m...)
	})
}

func (a *API) series(r *http.Request) (any, annotations.Annotations, error) {
	if len(r.Form["match[]"]) == 0 {
		return nil, nil, &refusal{"bad_data", http.StatusBadRequest, errors.New("no match[] parameter provided")}
	}
	limit, err := number(r, "limit", 0)
	if err != nil {
		return nil, nil, err
	}
	start, end, err := span(r)
	if err != nil {
		return nil, nil, err
	}
	sets, err := a.selectors(r)
	if err != nil {
		return nil, nil, err
	}
	querier, err := a.cfg.Storage.Querier(timestamp.FromTime(start), timestamp.FromTime(end))
	if err != nil {
		return nil, nil, err
	}
	defer querier.Close()
	// Without a function that needs them, no samples are loaded.
	hints := &storage.SelectHints{Start: timestamp.FromTime(start), End: timestamp.FromTime(end), Func: "series", Limit: oneMore(limit)}
	set := a.choose(r, querier, hints, sets)
	warnings, found := set.Warnings(), []map[string]string{}
	for set.Next() {
		if limit > 0 && len(found) == limit {
			return found, warnings.Add(errTruncated), nil
		}
		if err := r.Context().Err(); err != nil {
			return nil, nil, err
		}
		found = append(found, copied(set.At().Labels()))
	}
	return found, warnings, set.Err()
}

// choose selects the series of any of the selectors, each once.
func (a *API) choose(r *http.Request, q storage.Querier, hints *storage.SelectHints, sets [][]*labels.Matcher) storage.SeriesSet {
	if len(sets) == 1 {
		return q.Select(r.Context(), true, hints, sets[0]...)
	}
	var all []storage.SeriesSet
	for _, set := range sets {
		all = append(all, q.Select(r.Context(), true, hints, set...))
	}
	return storage.NewMergeSeriesSet(all, 0, storage.ChainedSeriesMerge)
}

// copied copies labels out of the querier's memory.
func copied(set labels.Labels) map[string]string {
	m := make(map[string]string, set.Len())
	set.Range(func(l labels.Label) { m[strings.Clone(l.Name)] = strings.Clone(l.Value) })
	return m
}
