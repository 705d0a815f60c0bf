package dockerapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	types "github.com/moby/moby/api/types/container"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A container's log is, in this order: the archive of its former pods, the run before the
// last one of its pod, and the last run. The node keeps the latter two.

// maxArchive bounds the archive; of more the end is kept.
const maxArchive = 50 << 20

func (s *Server) containerDir(id string) string { return filepath.Join(s.dir, "containers", id) }
func (s *Server) archivePath(id string) string  { return filepath.Join(s.containerDir(id), "log") }

// entry is one piece of output. Text ends with a newline unless it is part of a line.
type entry struct {
	at     time.Time
	stream byte // 1 or 2
	text   []byte
}

// entryWriter takes what the node writes, one entry a call, with its time in front.
type entryWriter struct {
	stream byte
	emit   func(entry) error
}

func (w entryWriter) Write(p []byte) (int, error) {
	stamp, text, found := bytes.Cut(p, []byte{' '})
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if !found || err != nil {
		at, text = time.Now(), p
	}
	if err := w.emit(entry{at, w.stream, text}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// nodeLog reads a run's log from the node.
func (s *Server) nodeLog(ctx context.Context, pod string, o *v1.PodLogOptions, emit func(entry) error) error {
	o.Timestamps = true
	err := s.cfg.Machine.Log(ctx, Namespace, pod, o, entryWriter{1, emit}, entryWriter{2, emit})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// archiveLog appends the log of a container's pod to the archive, before the pod goes.
func (s *Server) archiveLog(ctx context.Context, r *record) error {
	if err := os.MkdirAll(s.containerDir(r.ID), 0o700); err != nil {
		return fmt.Errorf("keep the log of container %s: %w", r.Name, err)
	}
	f, err := os.OpenFile(s.archivePath(r.ID), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep the log of container %s: %w", r.Name, err)
	}
	defer f.Close()
	out := bufio.NewWriter(f)
	write := func(e entry) error {
		_, err := fmt.Fprintf(out, "%s %d %d\n%s\n", e.at.Format(time.RFC3339Nano), e.stream, len(e.text), e.text)
		return err
	}
	for _, previous := range []bool{true, false} {
		// What the node has no more of, or never had, is no reason not to start again.
		if err := s.nodeLog(ctx, r.Pod, &v1.PodLogOptions{Previous: previous}, write); err != nil && ctx.Err() != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("keep the log of container %s: %w", r.Name, err)
	}
	if size, err := f.Seek(0, io.SeekCurrent); err == nil && size > maxArchive {
		return os.Truncate(s.archivePath(r.ID), 0)
	}
	return nil
}

// archived reads the archive.
func (s *Server) archived(id string, emit func(entry) error) error {
	f, err := os.Open(s.archivePath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	for {
		head, err := in.ReadString('\n')
		if err != nil {
			return nil // the end, or a piece that a crash cut off
		}
		var stamp string
		var stream byte
		var size int
		if n, _ := fmt.Sscanf(head, "%s %d %d", &stamp, &stream, &size); n != 3 || size < 0 || size > 1<<20 {
			return nil
		}
		text := make([]byte, size+1)
		if _, err := io.ReadFull(in, text); err != nil {
			return nil
		}
		at, _ := time.Parse(time.RFC3339Nano, stamp)
		if err := emit(entry{at, stream, text[:size]}); err != nil {
			return err
		}
	}
}

// logQuery is what a client wants of a log.
type logQuery struct {
	stdout, stderr, follow, timestamps bool
	since, until                       time.Time
	tail                               int64 // -1 is all
}

func logQueryOf(r *http.Request) (q logQuery, err error) {
	q = logQuery{stdout: boolean(r, "stdout"), stderr: boolean(r, "stderr"), follow: boolean(r, "follow"), timestamps: boolean(r, "timestamps"), tail: -1}
	if !q.stdout && !q.stderr {
		return q, invalid("Bad parameters: you must choose at least one stream")
	}
	if q.since, err = timeOf(r.FormValue("since")); err != nil {
		return q, err
	}
	if q.until, err = timeOf(r.FormValue("until")); err != nil {
		return q, err
	}
	if t := r.FormValue("tail"); t != "" && t != "all" {
		if q.tail, err = strconv.ParseInt(t, 10, 64); err != nil || q.tail < 0 {
			q.tail = -1
			return q, nil // as docker has it
		}
	}
	return q, nil
}

// errEnough ends a log before its end.
var errEnough = errors.New("enough")

// readLog hands out a container's log as the query says.
func (s *Server) readLog(ctx context.Context, c *container, q logQuery, emit func(entry) error) error {
	pass := func(e entry) error {
		if !q.until.IsZero() && e.at.After(q.until) {
			return errEnough
		}
		if e.at.Before(q.since) || e.stream == 1 && !q.stdout || e.stream == 2 && !q.stderr {
			return nil
		}
		return emit(e)
	}
	err := s.readRuns(ctx, c, q, pass)
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

func (s *Server) readRuns(ctx context.Context, c *container, q logQuery, emit func(entry) error) error {
	r, st := s.recordOf(c), s.current(c)
	tail := q.tail
	if tail >= 0 {
		skip, err := s.countEntries(ctx, &r, st)
		if err != nil {
			return err
		}
		skip = max(0, skip-tail)
		inner := emit
		emit = func(e entry) error {
			if skip > 0 {
				skip--
				return nil
			}
			return inner(e)
		}
	}
	if err := s.archived(r.ID, emit); err != nil {
		return err
	}
	if r.Pod == "" {
		return s.followNext(ctx, c, &r, q, emit)
	}
	if st.run.Restarts > 0 {
		if err := s.nodeLog(ctx, r.Pod, &v1.PodLogOptions{Previous: true}, emit); err != nil && !q.follow {
			return err
		}
	}
	err := s.nodeLog(ctx, r.Pod, &v1.PodLogOptions{Follow: q.follow, SinceTime: sinceTime(q.since)}, emit)
	if err != nil || !q.follow {
		if st.running() {
			return err
		}
		return nil // it has never said anything
	}
	return s.followRestarts(ctx, c, &r, emit)
}

func sinceTime(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: t}
}

// countEntries counts what there is now.
func (s *Server) countEntries(ctx context.Context, r *record, st state) (n int64, err error) {
	count := func(e entry) error {
		n++
		return nil
	}
	if err := s.archived(r.ID, count); err != nil {
		return 0, err
	}
	if r.Pod == "" {
		return n, nil
	}
	if st.run.Restarts > 0 {
		_ = s.nodeLog(ctx, r.Pod, &v1.PodLogOptions{Previous: true}, count) // there may be none
	}
	_ = s.nodeLog(ctx, r.Pod, &v1.PodLogOptions{}, count)
	return n, nil
}

// followNext waits for the first run of a container that was only created.
func (s *Server) followNext(ctx context.Context, c *container, r *record, q logQuery, emit func(entry) error) error {
	if !q.follow || s.current(c).status != types.StateCreated {
		return nil
	}
	st, err := s.await(ctx, c, func(st state, gone bool) bool { return gone || st.running() || st.over() })
	if err != nil || st.status == types.StateCreated {
		return nil
	}
	pod := s.recordOf(c).Pod
	if err := s.nodeLog(ctx, pod, &v1.PodLogOptions{Follow: true}, emit); err != nil {
		return err
	}
	return s.followRestarts(ctx, c, r, emit)
}

// followRestarts reads on when a restart policy brings a container back.
func (s *Server) followRestarts(ctx context.Context, c *container, r *record, emit func(entry) error) error {
	for {
		seen := s.current(c).run.Restarts
		st, err := s.await(ctx, c, func(st state, gone bool) bool {
			return gone || st.over() || st.status == types.StateCreated || st.run.Restarts > seen && st.running()
		})
		if err != nil || !st.running() {
			return nil
		}
		if err := s.nodeLog(ctx, s.recordOf(c).Pod, &v1.PodLogOptions{Follow: true}, emit); err != nil {
			return err
		}
	}
}

func (s *Server) serveLogs(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	q, err := logQueryOf(r)
	if err != nil {
		return err
	}
	rec := s.recordOf(c)
	out := newStreamWriter(w, !rec.Config.Tty)
	w.Header().Set("Content-Type", mediaType(!rec.Config.Tty))
	w.WriteHeader(http.StatusOK)
	flusher := http.NewResponseController(w)
	_ = flusher.Flush()
	err = s.readLog(r.Context(), c, q, func(e entry) error {
		text := e.text
		if q.timestamps {
			text = append([]byte(e.at.UTC().Format("2006-01-02T15:04:05.000000000Z")+" "), text...)
		}
		if err := out.write(e.stream, text); err != nil {
			return err
		}
		return flusher.Flush()
	})
	if err != nil && r.Context().Err() == nil {
		_ = out.write(2, []byte("gantry: read the log: "+err.Error()+"\n"))
	}
	return nil
}
