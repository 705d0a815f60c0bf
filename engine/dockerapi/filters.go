package dockerapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// filters are the values of each filter of a request.
type filters map[string][]string

// filtersOf reads the filters parameter, in its present form ({"label":{"a=b":true}})
// and in the one before it ({"label":["a=b"]}).
func filtersOf(r *http.Request) (filters, error) {
	text := r.FormValue("filters")
	if text == "" {
		return filters{}, nil
	}
	var now map[string]map[string]bool
	if err := json.Unmarshal([]byte(text), &now); err == nil {
		f := filters{}
		for name, values := range now {
			for v, on := range values {
				if on {
					f[name] = append(f[name], v)
				}
			}
		}
		return f, nil
	}
	var before filters
	if err := json.Unmarshal([]byte(text), &before); err != nil {
		return nil, invalid("invalid filter: %v", err)
	}
	return before, nil
}

// known refuses filters that would be silently ignored.
func (f filters) known(names ...string) error {
	for name := range f {
		if !slices.Contains(names, name) {
			return invalid("invalid filter '%s'", name)
		}
	}
	return nil
}

// any is whether a filter is absent or one of its values matches.
func (f filters) any(name string, match func(string) bool) bool {
	values, there := f[name]
	return !there || len(values) == 0 || slices.ContainsFunc(values, match)
}

// labels is whether all values of a label filter match.
func (f filters) labels(name string, labels map[string]string) bool {
	for _, want := range f[name] {
		key, value, hasValue := strings.Cut(want, "=")
		have, there := labels[key]
		if !there || hasValue && have != value {
			return false
		}
	}
	return true
}

// withoutLabels is whether no value of a "label!" filter matches.
func (f filters) withoutLabels(labels map[string]string) bool {
	for _, v := range f["label!"] {
		if (filters{"label": {v}}).labels("label", labels) {
			return false
		}
	}
	return true
}

// flag reads a filter that is true or false.
func (f filters) flag(name string) (value, there bool) {
	for _, v := range f[name] {
		return v == "1" || strings.EqualFold(v, "true"), true
	}
	return false, false
}
