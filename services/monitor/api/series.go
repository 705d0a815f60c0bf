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

// lookup is what requests for series and their labels have in common.
type lookup struct {
	limit      int   // of the answer; 0 is none
	start, end int64 // milliseconds
	selectors  [][]*labels.Matcher
	querier    storage.Querier // to be closed
}

func (a *API) lookup(r *http.Request) (*lookup, error) {
	limit, err := number(r, "limit", 0)
	if err != nil {
		return nil, err
	}
	start, end, err := span(r)
	if err != nil {
		return nil, err
	}
	l := &lookup{limit: limit, start: timestamp.FromTime(start), end: timestamp.FromTime(end)}
	if l.selectors, err = a.selectors(r); err != nil {
		return nil, err
	}
	l.querier, err = a.cfg.Storage.Querier(l.start, l.end)
	return l, err
}

// names asks a querier for strings, once for each selector, or once without.
func (a *API) names(r *http.Request, ask func(storage.Querier, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error)) (any, annotations.Annotations, error) {
	l, err := a.lookup(r)
	if err != nil {
		return nil, nil, err
	}
	defer l.querier.Close()
	sets := l.selectors
	if len(sets) == 0 {
		sets = [][]*labels.Matcher{nil}
	}
	var warnings annotations.Annotations
	found := map[string]bool{}
	for _, set := range sets {
		list, some, err := ask(l.querier, &storage.LabelHints{Limit: oneMore(l.limit)}, set...)
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
	if l.limit > 0 && len(all) > l.limit {
		all, warnings = all[:l.limit], warnings.Add(errTruncated)
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
	l, err := a.lookup(r)
	if err != nil {
		return nil, nil, err
	}
	defer l.querier.Close()
	// Without a function that needs them, no samples are loaded.
	hints := &storage.SelectHints{Start: l.start, End: l.end, Func: "series", Limit: oneMore(l.limit)}
	set := a.choose(r, l.querier, hints, l.selectors)
	warnings, found := set.Warnings(), []map[string]string{}
	for set.Next() {
		if l.limit > 0 && len(found) == l.limit {
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
