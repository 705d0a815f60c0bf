package route

import (
	"maps"
	"slices"
)

// fewPaths is up to how many paths looking through a list is not slower than a map,
// which takes ten times the memory for one path: most hosts have one or two.
const fewPaths = 6

// paths are rules by path. The zero value has none.
type paths struct {
	few  []atPath
	many map[string][]entry // instead of few
}

type atPath struct {
	path    string
	entries []entry
}

func (p *paths) get(path string) []entry {
	if p.many != nil {
		return p.many[path]
	}
	for i := range p.few {
		if p.few[i].path == path {
			return p.few[i].entries
		}
	}
	return nil
}

// set replaces the rules of a path, which is gone without any.
func (p *paths) set(path string, entries []entry) {
	if p.many != nil {
		if len(entries) == 0 {
			delete(p.many, path)
		} else {
			p.many[path] = entries
		}
		return
	}
	i := slices.IndexFunc(p.few, func(a atPath) bool { return a.path == path })
	switch {
	case i >= 0 && len(entries) == 0:
		p.few = slices.Delete(p.few, i, i+1)
	case i >= 0:
		p.few[i].entries = entries
	case len(entries) == 0:
	case len(p.few) < fewPaths:
		p.few = append(p.few, atPath{path, entries})
	default:
		p.many = make(map[string][]entry, fewPaths+1)
		for _, a := range p.few {
			p.many[a.path] = a.entries
		}
		p.few, p.many[path] = nil, entries
	}
}

func (p *paths) len() int { return len(p.few) + len(p.many) }

// clone returns a copy that can be changed without the original.
func (p *paths) clone() paths { return paths{slices.Clone(p.few), maps.Clone(p.many)} }

func (p *paths) each(visit func(path string, entries []entry)) {
	for _, a := range p.few {
		visit(a.path, a.entries)
	}
	for path, entries := range p.many {
		visit(path, entries)
	}
}

// names are the paths, in the order of compare.
func (p *paths) names(compare func(a, b string) int) []string {
	list := make([]string, 0, p.len())
	p.each(func(path string, _ []entry) { list = append(list, path) })
	slices.SortFunc(list, compare)
	return list
}
