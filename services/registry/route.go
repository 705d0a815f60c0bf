package registry

import (
	"net/http"
	"strings"

	"github.com/gantryhq/gantry/services/registry/storage"
)

// kind is what a path of the distribution API names.
type kind int

const (
	nothing kind = iota
	version
	token
	catalog
	tags
	referrer
	manifest
	blob
	uploads // where uploads begin
	upload  // one of them
)

// route is a parsed path.
type route struct {
	kind      kind
	name      string // of the repository, checked
	reference string // tag, digest or upload, not checked
}

// parsePath reads a path. A repository's name may have several parts, so the path is
// read from its end.
func parsePath(path string) (route, error) {
	unknown := &refusal{status: http.StatusNotFound, code: "UNSUPPORTED", message: "the registry has nothing at this path"}
	rest, ok := strings.CutPrefix(path, "/v2/")
	switch {
	case path == "/v2" || path == "/v2/":
		return route{kind: version}, nil
	case path == tokenPath:
		return route{kind: token}, nil
	case !ok:
		return route{}, unknown
	case rest == "_catalog":
		return route{kind: catalog}, nil
	}
	parts := strings.Split(rest, "/")
	n := len(parts)
	at := func(i int) string { // from the end
		if i > n {
			return ""
		}
		return parts[n-i]
	}
	var r route
	var suffix int // how many parts follow the name
	switch {
	case at(2) == "tags" && at(1) == "list":
		r, suffix = route{kind: tags}, 2
	case at(3) == "blobs" && at(2) == "uploads" && at(1) == "":
		r, suffix = route{kind: uploads}, 3
	case at(2) == "blobs" && at(1) == "uploads":
		r, suffix = route{kind: uploads}, 2
	case at(3) == "blobs" && at(2) == "uploads":
		r, suffix = route{kind: upload, reference: at(1)}, 3
	case at(2) == "blobs":
		r, suffix = route{kind: blob, reference: at(1)}, 2
	case at(2) == "manifests":
		r, suffix = route{kind: manifest, reference: at(1)}, 2
	case at(2) == "referrers":
		r, suffix = route{kind: referrer, reference: at(1)}, 2
	default:
		return route{}, unknown
	}
	r.name = strings.Join(parts[:n-suffix], "/")
	return r, storage.CheckName(r.name)
}
