package loki

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/gantryhq/gantry/services/logs/logql"
	"github.com/gantryhq/gantry/services/logs/search"
)

// usualLabels is which time is looked at for labels when nothing is said.
const usualLabels = 6 * time.Hour

// selections are the stream selectors of parameters that may come several times.
func (a *asked) selections(names ...string) (list [][]*labels.Matcher, err error) {
	var texts []string
	for _, name := range names {
		texts = append(texts, a.form[name]...)
	}
	for _, text := range texts {
		if text == "" || text == "{}" {
			continue
		}
		m, err := logql.Selector(text)
		if err != nil {
			return nil, failure{400, err}
		}
		if err := a.permitted(m); err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

// selected are the logs that the parameter query selects.
func (s *Server) selected(a *asked) ([]*logs, error) {
	selections, err := a.selections("query")
	if err != nil {
		return nil, err
	}
	return s.selectLogs(a, selections, usualLabels)
}

func (s *Server) labels(a *asked) (any, error) {
	found, err := s.selected(a)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, l := range found {
		l.labels.Range(func(l labels.Label) { names[l.Name] = true })
		names[search.StreamLabel] = true
	}
	return success{"success", sortedKeys(names)}, nil
}

func sortedKeys(m map[string]bool) []string {
	return append([]string{}, slices.Sorted(maps.Keys(m))...)
}

func (s *Server) values(a *asked) (any, error) {
	found, err := s.selected(a)
	if err != nil {
		return nil, err
	}
	values := map[string]bool{}
	for _, l := range found {
		if name := a.path("name"); name == search.StreamLabel {
			values["stdout"], values["stderr"] = true, true
		} else if v := l.labels.Get(name); v != "" {
			values[v] = true
		}
	}
	return success{"success", sortedKeys(values)}, nil
}

func (s *Server) series(a *asked) (any, error) {
	selections, err := a.selections("match[]", "match") // logcli sends the latter
	if err != nil {
		return nil, err
	}
	found, err := s.selectLogs(a, selections, usualLabels)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(x, y *logs) int { return labels.Compare(x.labels, y.labels) })
	list := []map[string]string{}
	for _, l := range found {
		list = append(list, l.labels.Map())
	}
	return success{"success", list}, nil
}

// stats tells how much a selection would read.
func (s *Server) stats(a *asked) (any, error) {
	found, err := s.selected(a)
	if err != nil {
		return nil, err
	}
	total := map[string]int{"streams": len(found), "chunks": 0, "entries": 0, "bytes": 0}
	for _, l := range found {
		total["chunks"] += l.chunks
		total["entries"] += l.lines
		total["bytes"] += l.bytes
	}
	return total, nil
}

// volumes are the bytes of a selection by its labels, or by targetLabels, the most first.
func (s *Server) volumes(a *asked) ([]numbers, error) {
	found, err := s.selected(a)
	if err != nil {
		return nil, err
	}
	limit, err := a.limit()
	if err != nil {
		return nil, err
	}
	by := []string{"namespace", "app"}
	if m, err := logql.Selector(a.form.Get("query")); err == nil {
		by = nil
		for _, one := range m {
			by = append(by, one.Name)
		}
	}
	if t := a.form.Get("targetLabels"); t != "" {
		by = slices.DeleteFunc(strings.Split(t, ","), func(s string) bool { return s == "" })
	}
	sums := map[string]*numbers{}
	_, end, err := a.span(defaultRange)
	for _, l := range found {
		kept := map[string]string{}
		for _, name := range by {
			if v := l.labels.Get(name); v != "" {
				kept[name] = v
			}
		}
		key := string(labels.FromMap(kept).Bytes(nil))
		if sums[key] == nil {
			sums[key] = &numbers{Metric: kept, Value: &sample{end.UnixNano(), 0}}
		}
		sums[key].Value.value += float64(l.bytes)
	}
	list := []numbers{}
	for _, n := range sums {
		list = append(list, *n)
	}
	slices.SortFunc(list, func(x, y numbers) int { return cmp.Compare(y.Value.value, x.Value.value) })
	return list[:min(limit, len(list))], err
}

func (s *Server) volume(a *asked) (any, error) {
	v, err := s.volumes(a)
	if err != nil {
		return nil, err
	}
	return a.success("vector", v, len(v)), nil
}

// volumeRange answers with bytes_over_time, which says the same by time.
func (s *Server) volumeRange(a *asked) (any, error) {
	start, end, err := a.span(defaultRange)
	if err != nil {
		return nil, err
	}
	step, err := a.step(start, end)
	if err != nil {
		return nil, err
	}
	selector := a.form.Get("query")
	if selector == "" || selector == "{}" {
		selector = `{namespace=~".+"}`
	}
	by := cmp.Or(a.form.Get("targetLabels"), "namespace,app")
	a.form.Set("query", "sum by ("+by+") (bytes_over_time("+selector+"["+strconv.Itoa(int(max(1, step.Seconds())))+"s]))")
	return s.queryRange(a)
}
