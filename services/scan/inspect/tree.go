package inspect

import (
	"strings"

	"github.com/gantryhq/gantry/services/scan/report"
)

// tree is the image as its layers so far make it, of the files that matter.
type tree map[string]*file

// file is what is remembered of a file.
type file struct {
	layer    int
	setuid   string
	packages []report.Package
	content  []byte // only of what detectors look up: os-release
}

// replace forgets the file that one of this name in a higher layer hides. The
// packages that it recorded are kept aside: if the new file records them too, they
// belong to the layer that brought them.
func (s *scan) replace(name string) {
	if old := s.tree[name]; old != nil {
		if len(old.packages) > 0 {
			s.before[name] = old.packages
		}
		delete(s.tree, name)
	}
}

// remember returns the entry of a file of this layer.
func (s *scan) remember(name string) *file {
	f := s.tree[name]
	if f == nil {
		f = &file{layer: s.index}
		s.tree[name] = f
	}
	return f
}

// applyWhiteouts removes the files of lower layers that this one deletes. A
// directory that is deleted takes with it what is below.
func (s *scan) applyWhiteouts() {
	if len(s.gone) == 0 && len(s.emptied) == 0 {
		return
	}
	for name, f := range s.tree {
		if f.layer < s.index && s.deleted(name) {
			delete(s.tree, name)
		}
	}
}

func (s *scan) deleted(name string) bool {
	if s.gone[name] || s.emptied[""] {
		return true
	}
	for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
		if s.gone[name[:i]] || s.emptied[name[:i]] {
			return true
		}
	}
	return false
}
