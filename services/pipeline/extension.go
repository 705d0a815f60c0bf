package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// followTime is how long one request follows a log.
const followTime = 45 * time.Second

// ServeHTTP is the extension API server with the logs of Builds: GET [LogPath],
// from ?offset=BYTES on, with ?follow=true until the Build ends or a while has passed. The API server has authorized the request.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const group = "/apis/" + LogGroup
	version := metav1.GroupVersionForDiscovery{GroupVersion: LogGroup + "/" + LogVersion, Version: LogVersion}
	switch path := strings.TrimSuffix(r.URL.Path, "/"); path {
	case "/healthz", "/readyz", "/livez":
		_, _ = io.WriteString(w, "ok")
	case group:
		answer(w, http.StatusOK, metav1.APIGroup{
			TypeMeta: metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}, Name: LogGroup,
			Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version,
		})
	case group + "/" + LogVersion:
		answer(w, http.StatusOK, metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: version.GroupVersion,
			APIResources: []metav1.APIResource{{Name: "buildlogs", SingularName: "buildlog", Namespaced: true, Kind: "BuildLog", Verbs: metav1.Verbs{"get"}}},
		})
	default:
		parts := strings.Split(strings.TrimPrefix(path, group+"/"+LogVersion+"/"), "/")
		if len(parts) != 4 || parts[0] != "namespaces" || parts[2] != "buildlogs" || strings.Contains(parts[1]+"/"+parts[3], "..") || r.Method != http.MethodGet {
			fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, "there is no such thing here")
			return
		}
		s.serveLog(w, r, parts[1], parts[3])
	}
}

func (s *Service) serveLog(w http.ResponseWriter, r *http.Request, namespace, name string) {
	out := flusher{w, http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	// The API server ends requests after a minute: who follows for longer asks again
	// from where the answer ended.
	offset, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	if err != nil || offset < 0 {
		offset = 0
	}
	ctx, cancel := context.WithTimeout(r.Context(), followTime)
	defer cancel()
	err = s.logs.copy(ctx, out, namespace, name, offset, r.URL.Query().Get("follow") == "true")
	if errors.Is(err, errNoLog) {
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, err.Error())
	} else if err != nil && r.Context().Err() == nil {
		s.cfg.Log.Warn("cannot send the log of a build", "build", namespace+"/"+name, "err", err)
	}
}

// flusher sends at once what it is given.
type flusher struct {
	io.Writer
	controller *http.ResponseController
}

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err == nil {
		_ = f.controller.Flush() // who cannot flush sends at the end
	}
	return n, err
}

func answer(w http.ResponseWriter, code int, o any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(o) // the client has gone
}

func fail(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	answer(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: message,
	})
}
