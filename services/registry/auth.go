package registry

import (
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
)

// Action is what a request wants to do with a repository.
type Action string

// The actions of the distribution API.
const (
	Pull   Action = "pull"
	Push   Action = "push"
	Delete Action = "delete"
	List   Action = "list" // all repositories; Repository is ""
)

// Access is one thing a request needs to be allowed.
type Access struct {
	Repository string
	Action     Action
}

// Authorizer decides whether a request may have what it asks for. No access at
// all is asked for by the API's version check, which tells clients to log in.
// It returns nil, [ErrUnauthenticated] (the client is asked to log in) or
// [ErrDenied], possibly wrapped with the reason.
type Authorizer interface {
	Authorize(r *http.Request, want []Access) error
}

// The refusals of an [Authorizer].
var (
	ErrUnauthenticated = errors.New("authentication required")
	ErrDenied          = errors.New("access denied")
)

// repositoryPath matches the API's paths below a repository; names may hold slashes.
var repositoryPath = regexp.MustCompile(`^/v2/(.+)/(?:manifests|blobs|tags|referrers)/`)

// accesses says what a request asks for.
func accesses(r *http.Request) []Access {
	if r.URL.Path == "/v2/_catalog" {
		return []Access{{Action: List}}
	}
	m := repositoryPath.FindStringSubmatch(r.URL.Path)
	if m == nil {
		return nil
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return []Access{{m[1], Pull}}
	case http.MethodDelete:
		return []Access{{m[1], Delete}}
	}
	want := []Access{{m[1], Push}}
	// Mounting a blob reads it from the other repository.
	if from := r.URL.Query().Get("from"); from != "" {
		want = append(want, Access{from, Pull})
	}
	return want
}

func refuse(w http.ResponseWriter, err error) {
	if errors.Is(err, ErrDenied) {
		writeError(w, http.StatusForbidden, "DENIED", err.Error())
		return
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="gantry registry"`)
	writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", err.Error())
}

// writeError answers in the error format of the distribution specification.
func writeError(w http.ResponseWriter, status int, code, message string) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that is gone needs no answer.
	_ = json.NewEncoder(w).Encode(map[string][]entry{"errors": {{code, message}}})
}
