package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/progress/progressui"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/gantryhq/gantry/internal/hint"
)

// logLines is how many of a failed step's last lines an error shows.
const logLines = 20

// Error is a build that failed because of what is in the Dockerfile or of what
// a step did.
type Error struct {
	File        string   // the Dockerfile's name, or "" when the place is unknown
	Line        int      // first line of the instruction, from 1
	Instruction string   // that line
	Log         []string // the end of the failed step's output
	Err         error
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		fmt.Fprintf(&b, "%s:%d: ", e.File, e.Line)
		if e.Instruction != "" {
			fmt.Fprintf(&b, "%s: ", e.Instruction)
		}
	}
	b.WriteString(e.Err.Error())
	for _, line := range e.Log {
		b.WriteString("\n  | ")
		b.WriteString(line)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// watcher passes on what a running build says and keeps the end of each step's
// output for the error.
type watcher struct {
	opt   Options
	logs  map[digest.Digest]*bytes.Buffer
	names map[digest.Digest]string
	state map[digest.Digest]Step // last one reported
}

func newWatcher(opt Options) *watcher {
	return &watcher{
		opt:   opt,
		logs:  map[digest.Digest]*bytes.Buffer{},
		names: map[digest.Digest]string{},
		state: map[digest.Digest]Step{},
	}
}

// follow reads updates until the build ends. It must read all of them: the
// build waits for its reader.
func (w *watcher) follow(updates <-chan *bkclient.SolveStatus) error {
	mode := progressui.QuietMode
	if w.opt.Display != nil {
		mode = progressui.AutoMode
		if w.opt.Plain {
			mode = progressui.PlainMode
		}
	}
	display, err := progressui.NewDisplay(w.opt.Display, mode)
	if err != nil {
		display, _ = progressui.NewDisplay(nil, progressui.QuietMode) // never fails
	}
	shown := make(chan *bkclient.SolveStatus)
	var g errgroup.Group
	g.Go(func() error {
		// The display ends when the build does: its last lines tell how.
		_, err := display.UpdateFrom(context.Background(), shown)
		return err
	})
	for u := range updates {
		w.note(u)
		shown <- u
	}
	close(shown)
	return g.Wait()
}

func (w *watcher) note(u *bkclient.SolveStatus) {
	for _, v := range u.Vertexes {
		w.names[v.Digest] = v.Name
		if w.opt.Progress == nil || v.Started == nil {
			continue
		}
		step := Step{Name: v.Name, Completed: v.Completed != nil, Cached: v.Cached, Error: v.Error}
		if w.state[v.Digest] != step {
			w.state[v.Digest] = step
			w.opt.Progress(step)
		}
	}
	for _, l := range u.Logs {
		buf := w.logs[l.Vertex]
		if buf == nil {
			buf = &bytes.Buffer{}
			w.logs[l.Vertex] = buf
		}
		buf.Write(l.Data)
		if extra := buf.Len() - 64<<10; extra > 0 {
			buf.Next(extra)
		}
	}
}

// explain finds the place in the Dockerfile and the output that belong to err.
func (w *watcher) explain(err error) error {
	e := &Error{Err: plain(err)}
	if sources := errdefs.Sources(err); len(sources) > 0 {
		src := sources[len(sources)-1] // the innermost
		if src.Info != nil && len(src.Ranges) > 0 && src.Ranges[0].Start != nil {
			e.File = src.Info.Filename
			e.Line = int(src.Ranges[0].Start.Line)
			if lines := strings.Split(string(src.Info.Data), "\n"); e.Line >= 1 && e.Line <= len(lines) {
				e.Instruction = strings.TrimSpace(lines[e.Line-1])
			}
		}
	}
	var vertex *errdefs.VertexError
	if errors.As(err, &vertex) {
		e.Log = w.lastLines(digest.Digest(vertex.Vertex.Digest))
	}
	return w.remedy(e)
}

// remedy adds what to do about failures that every newcomer meets.
func (w *watcher) remedy(e *Error) error {
	text := e.Err.Error()
	if strings.Contains(text, "failed to push ") && strings.Contains(text, "dial tcp") {
		return hint.Wrap(e, "is the registry running? The built-in one runs with `gantry serve`")
	}
	if !strings.Contains(text, "failed to resolve source metadata for ") || !strings.Contains(text, "dial tcp") {
		return e
	}
	if strings.Contains(text, "metadata for docker.io/") {
		return hint.Wrap(e, "docker.io cannot be reached from here: `gantry base debian` makes a base image out of Debian packages; "+
			"start FROM ${%s}/base/debian:12 after a first line ARG %s", RegistryArg, RegistryArg)
	}
	return hint.Wrap(e, "check the registry's name and port, and that it is running")
}

func (w *watcher) lastLines(step digest.Digest) []string {
	buf := w.logs[step]
	if buf == nil {
		return nil
	}
	text := strings.TrimRight(strings.ReplaceAll(buf.String(), "\r\n", "\n"), "\n")
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	return lines[max(0, len(lines)-logLines):]
}

// plain drops BuildKit's own prefixes, which name its internals.
func plain(err error) error {
	text := err.Error()
	for _, prefix := range []string{"failed to solve: ", "rpc error: code = Unknown desc = ", "dockerfile parse error on "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return rephrased{err, text}
}

type rephrased struct {
	error
	text string
}

func (r rephrased) Error() string { return r.text }
func (r rephrased) Unwrap() error { return r.error }
