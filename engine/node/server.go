package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/engine/node/logs"
)

// Handler serves the kubelet's HTTP API: logs, exec, attach, port-forward, pods,
// statistics. It does not authenticate: whoever reaches it may do all of this.
func (n *Node) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("GET /pods", n.servePods)
	mux.HandleFunc("GET /stats/summary", n.serveSummary)
	mux.HandleFunc("GET /metrics/resource", n.serveResourceMetrics)
	mux.HandleFunc("GET /metrics", n.serveKubeletMetrics)
	mux.HandleFunc("GET /metrics/cadvisor", n.serveContainerMetrics)
	mux.HandleFunc("GET "+HostMetricsPath, n.serveHostMetrics)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", n.serveLogs)
	for _, at := range []string{"/{namespace}/{pod}/{container}", "/{namespace}/{pod}/{uid}/{container}"} {
		mux.HandleFunc("/exec"+at, n.serveExec)
		mux.HandleFunc("/attach"+at, n.serveAttach)
	}
	mux.HandleFunc("/portForward/{namespace}/{pod}", n.servePortForward)
	mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", n.servePortForward)
	return mux
}

// httpError is an answer other than success.
type httpError struct {
	code int
	text string
}

func (e *httpError) Error() string { return e.text }

func refuse(code int, format string, args ...any) error {
	return &httpError{code, fmt.Sprintf(format, args...)}
}

func answerError(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	var he *httpError
	if errors.As(err, &he) {
		code = he.code
	}
	http.Error(w, err.Error(), code)
}

// find returns the worker of the pod that the request names.
func (n *Node) find(r *http.Request) (*worker, error) {
	ns, name, uid := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid")
	var found *worker
	for _, w := range n.allWorkers() {
		w.mu.Lock()
		pod, removed := w.pod, w.v.Removed
		w.mu.Unlock()
		if pod.Namespace == ns && pod.Name == name && (uid == "" || string(pod.UID) == uid) && (found == nil || !removed) {
			found = w
		}
	}
	if found == nil {
		return nil, refuse(http.StatusNotFound, "pod %q does not exist on this node", name)
	}
	return found, nil
}

// findRunning returns the id of the running container that the request names.
func (n *Node) findRunning(r *http.Request) (string, error) {
	w, err := n.find(r)
	if err != nil {
		return "", err
	}
	name := r.PathValue("container")
	w.mu.Lock()
	defer w.mu.Unlock()
	cv := w.v.Containers[name]
	switch {
	case cv == nil:
		return "", refuse(http.StatusNotFound, "container not found (%q)", name)
	case !cv.running():
		return "", refuse(http.StatusInternalServerError, "container %q of pod %q is not running", name, w.pod.Name)
	}
	return cv.Last.ID, nil
}

func (n *Node) servePods(w http.ResponseWriter, _ *http.Request) {
	list := v1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	for _, wk := range n.allWorkers() {
		wk.mu.Lock()
		list.Items = append(list.Items, *wk.pod)
		wk.mu.Unlock()
	}
	writeJSON(w, &list)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client is gone when this fails
}

func (n *Node) serveLogs(w http.ResponseWriter, r *http.Request) {
	opt, err := logOptions(r.URL.Query())
	if err != nil {
		answerError(w, err)
		return
	}
	wk, err := n.find(r)
	if err != nil {
		answerError(w, err)
		return
	}
	path, running, err := wk.logFile(r.PathValue("container"), opt.Previous)
	if err != nil {
		answerError(w, err)
		return
	}
	out := &flushWriter{w: w}
	var stdout, stderr io.Writer = out, out
	switch {
	case opt.Stream != nil && *opt.Stream == v1.LogStreamStdout:
		stderr = nil
	case opt.Stream != nil && *opt.Stream == v1.LogStreamStderr:
		stdout = nil
	}
	w.Header().Set("Content-Type", "text/plain")
	err = logs.Read(r.Context(), path, opt, running, stdout, stderr)
	if err != nil && !out.written && r.Context().Err() == nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = refuse(http.StatusBadRequest, "no log of container %q is left", r.PathValue("container"))
		}
		answerError(w, err)
	}
}

// logFile returns the log of the latest run, or of the one before it, and a
// function that tells whether it still grows.
func (w *worker) logFile(container string, previous bool) (string, func() bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	cv, c := w.v.Containers[container], w.container(container)
	if cv == nil || c == nil {
		return "", nil, refuse(http.StatusNotFound, "container %q not found in pod %q", container, w.pod.Name)
	}
	run := cv.Last
	if previous {
		// While it waits to be restarted, the ended run already is the previous one.
		run = cv.Previous
		if p := (planner{pod: w.pod, v: &w.v}); cv.Last != nil && !cv.Last.Running && p.willStart(c, cv) {
			run = cv.Last
		}
		if run == nil {
			return "", nil, refuse(http.StatusBadRequest, "previous terminated container %q in pod %q not found", container, w.pod.Name)
		}
	}
	attempt := 0
	switch old, ok := statusOf(w.pod, container); {
	case run != nil:
		attempt = run.Attempt
	case ok && old.ContainerID != "": // it ended before this process came
		attempt = int(old.RestartCount)
	default:
		why := statuses{pod: w.pod, v: &w.v}.waiting(c, cv)
		return "", nil, refuse(http.StatusBadRequest, "container %q in pod %q is waiting to start: %s", container, w.pod.Name, reasonAndMessage(why))
	}
	running := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return run != nil && run.Running && w.n.ctx.Err() == nil
	}
	return w.n.paths.log(w.pod, container, attempt), running, nil
}

func reasonAndMessage(s *v1.ContainerStateWaiting) string {
	if s.Message != "" {
		return s.Reason + ": " + s.Message
	}
	return s.Reason
}

// logOptions reads the query that the API server sends.
func logOptions(q url.Values) (*v1.PodLogOptions, error) {
	opt := &v1.PodLogOptions{
		Follow: q.Get("follow") == "true", Previous: q.Get("previous") == "true", Timestamps: q.Get("timestamps") == "true",
	}
	for name, to := range map[string]**int64{"tailLines": &opt.TailLines, "sinceSeconds": &opt.SinceSeconds, "limitBytes": &opt.LimitBytes} {
		s := q.Get(name)
		if s == "" {
			continue
		}
		i, err := strconv.ParseInt(s, 10, 64)
		if err != nil || i < 0 {
			return nil, refuse(http.StatusBadRequest, "%s must be a number that is not negative, not %q", name, s)
		}
		*to = &i
	}
	if s := q.Get("sinceTime"); s != "" {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "sinceTime must be a time as in RFC 3339, not %q", s)
		}
		opt.SinceTime = &metav1.Time{Time: t}
	}
	if s := q.Get("stream"); s != "" {
		opt.Stream = &s
	}
	return opt, nil
}

// flushWriter sends each line as soon as it is written.
type flushWriter struct {
	w       http.ResponseWriter
	written bool
}

func (f *flushWriter) Write(p []byte) (int, error) {
	f.written = true
	n, err := f.w.Write(p)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}
