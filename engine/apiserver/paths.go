package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/component-base/metrics/legacyregistry"
)

// KubernetesVersion is the version of the API that is served.
const KubernetesVersion = "v1.36.4"

func kubernetesVersion() version.Info {
	return version.Info{
		Major: "1", Minor: "36",
		GitVersion: KubernetesVersion + "+gantry", GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler,
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// installPaths serves what lies outside the API groups.
func (s *Server) installPaths() {
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		s.mux.HandleFunc(path, s.health)
		s.mux.HandlePrefix(path+"/", http.HandlerFunc(s.health))
	}
	s.mux.HandleFunc("/", s.root)
	s.mux.HandleFunc("/version", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(kubernetesVersion())
	})
	s.mux.Handle("/metrics", legacyregistry.Handler()) // of upstream's packages; requests are not counted
	s.mux.Handle("/api", s.groups.legacyRoot)
	s.mux.Handle("/apis", s.groups.groupsRoot)
	s.mux.HandlePrefix("/apis/", s.crdPaths)
	newOpenAPI(s.groups, s.crds, s.extensions).install(s.mux)
}

// Mount answers with h under a path prefix from now on, behind authentication and authorization of
// the path as a non-resource URL. The prefix begins and ends with a slash and lies outside /api and /apis.
func (s *Server) Mount(prefix string, h http.Handler) error {
	if !strings.HasPrefix(prefix, "/") || !strings.HasSuffix(prefix, "/") || strings.HasPrefix(prefix, "/api") {
		return fmt.Errorf("serve %q: the path must begin and end with a slash and lie outside /api and /apis", prefix)
	}
	s.mux.HandlePrefix(prefix, h)
	return nil
}

// MountStreaming is Mount for a handler whose answers may take any time, as watches do: neither
// the deadline of ordinary requests nor their number limits it.
func (s *Server) MountStreaming(prefix string, h http.Handler) error {
	if err := s.Mount(prefix, h); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	prefixes := append(slices.Clone(*s.streaming.Load()), prefix)
	s.streaming.Store(&prefixes)
	return nil
}

// longRunning tells which requests take any time.
func (s *Server) longRunning(r *http.Request, info *request.RequestInfo) bool {
	return longRunningVerbs(r, info) ||
		slices.ContainsFunc(*s.streaming.Load(), func(prefix string) bool { return strings.HasPrefix(info.Path, prefix) })
}

// root leads browsers to the page for people.
func (s *Server) root(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Home == "" || !strings.Contains(r.Header.Get("Accept"), "text/html") {
		http.NotFound(w, r)
		return
	}
	http.Redirect(w, r, s.cfg.Home, http.StatusFound)
}

// health answers that the API works: it does when it can answer at all, because its state is in
// memory.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprint(w, "ok")
}
