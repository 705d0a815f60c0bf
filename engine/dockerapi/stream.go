package dockerapi

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	apitypes "github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

func mediaType(multiplexed bool) string {
	if multiplexed {
		return apitypes.MediaTypeMultiplexedStream
	}
	return apitypes.MediaTypeRawStream
}

func writeJSON(w io.Writer, v any) {
	_ = json.NewEncoder(w).Encode(v) // the client is gone: nobody to tell
}

// streamWriter writes output, with both streams apart when multiplexed: each piece has a
// head of eight bytes with the stream and the length.
type streamWriter struct {
	mu          sync.Mutex
	w           io.Writer
	multiplexed bool
}

func newStreamWriter(w io.Writer, multiplexed bool) *streamWriter {
	return &streamWriter{w: w, multiplexed: multiplexed}
}

func (s *streamWriter) write(stream byte, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.multiplexed {
		_, err := s.w.Write(p)
		return err
	}
	piece := make([]byte, 8+len(p))
	piece[0] = stream
	binary.BigEndian.PutUint32(piece[4:], uint32(len(p)))
	copy(piece[8:], p)
	_, err := s.w.Write(piece)
	return err
}

// discard drops what is written from now on.
func (s *streamWriter) discard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w = io.Discard
}

// to is the writer for one stream.
func (s *streamWriter) to(stream byte) io.Writer { return oneStream{s, stream} }

type oneStream struct {
	s      *streamWriter
	stream byte
}

func (o oneStream) Write(p []byte) (int, error) {
	if err := o.s.write(o.stream, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// connection is a request that has become a connection of bytes in both directions.
type connection struct {
	net.Conn
	in *bufio.Reader
}

func (c *connection) Read(p []byte) (int, error) { return c.in.Read(p) }

// CloseWrite tells the client that there is no more output, where the transport can.
func (c *connection) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Close()
}

// hangUpCheck is how often it is seen whether a client that listens is still there.
const hangUpCheck = 2 * time.Second

// watch calls gone when the client has closed both halves of its connection: who only
// listens to a container that says nothing would not be missed otherwise.
func (c *connection) watch(ctx context.Context, gone func()) {
	socket, is := c.Conn.(syscall.Conn)
	if !is {
		return // under TLS the next write tells
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(hangUpCheck):
		}
		hungUp := false
		err := raw.Control(func(fd uintptr) {
			at := []unix.PollFd{{Fd: int32(fd)}}
			n, err := unix.Poll(at, 0)
			hungUp = err == nil && n > 0 && at[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		})
		if err != nil || hungUp {
			gone()
			return
		}
	}
}

// hijack takes the connection of a request over.
func hijack(w http.ResponseWriter, r *http.Request, contentType string) (*connection, error) {
	upgrade := r.Header.Get("Upgrade")
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take the connection over: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + contentType + "\r\n\r\n"
	if upgrade != "" {
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + contentType + "\r\nConnection: Upgrade\r\nUpgrade: " + upgrade + "\r\n\r\n"
	}
	if _, err := conn.Write([]byte(head)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &connection{conn, buf.Reader}, nil
}

func (s *Server) streamRoutes() map[string]handler {
	return map[string]handler{
		"POST /containers/{id}/attach":  s.serveAttach,
		"POST /containers/{id}/resize":  s.serveResize,
		"GET /containers/{id}/logs":     s.serveLogs,
		"POST /containers/{id}/exec":    s.serveExecCreate,
		"POST /exec/{id}/start":         s.serveExecStart,
		"POST /exec/{id}/resize":        s.serveExecResize,
		"GET /exec/{id}/json":           s.serveExecInspect,
		"GET /containers/{id}/archive":  s.serveArchiveGet,
		"HEAD /containers/{id}/archive": s.serveArchiveHead,
		"PUT /containers/{id}/archive":  s.serveArchivePut,
		"GET /containers/{id}/export":   s.serveExport,
		"GET /containers/{id}/changes":  s.serveChanges,
		"GET /containers/{id}/attach/ws": func(http.ResponseWriter, *http.Request) error {
			return unavailable("attach by WebSocket is not possible here: use POST /containers/{id}/attach")
		},
	}
}

// serveAttach connects a client with a container's streams. Clients attach before they
// start, so it waits for the start; of a container without input all output is delivered,
// from the log.
func (s *Server) serveAttach(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	rec := s.recordOf(c)
	if s.current(c).paused() {
		return conflict("container %s is paused, unpause the container before attach", rec.ID)
	}
	stdin, stdout, stderr := boolean(r, "stdin"), boolean(r, "stdout"), boolean(r, "stderr")
	stream, logs := boolean(r, "stream"), boolean(r, "logs")
	keys, err := detachKeys(r.FormValue("detachKeys"))
	if err != nil {
		return err
	}
	conn, err := hijack(w, r, mediaType(!rec.Config.Tty))
	if err != nil {
		return err
	}
	defer conn.Close()
	out := newStreamWriter(conn, !rec.Config.Tty)
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	go conn.watch(ctx, cancel)
	emit := func(e entry) error { return out.write(e.stream, e.text) }
	interactive := (rec.Config.OpenStdin || rec.Config.Tty) && stream
	defer s.reading(c)()
	if logs {
		err = s.readLog(ctx, c, logQuery{stdout: stdout, stderr: stderr, tail: -1}, emit)
	}
	switch {
	case err != nil || !stream:
	case interactive:
		err = s.attach(ctx, c, conn, out, attachment{stdin, stdout, stderr, keys})
	default:
		err = s.attachOutput(ctx, c, logQuery{stdout: stdout, stderr: stderr, follow: true, tail: 0}, emit)
	}
	if err != nil && ctx.Err() == nil {
		_ = out.write(2, []byte("gantry: "+err.Error()+"\r\n"))
	}
	_ = conn.CloseWrite() // the client may have gone first
	return nil
}

// reading keeps a container that removes itself until its output has been read.
func (s *Server) reading(c *container) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.readers++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		c.readers--
		c.wake()
	}
}

// begun waits until a container runs, or has run since.
func (s *Server) begun(ctx context.Context, c *container) (state, error) {
	first := s.current(c).run.FinishedAt
	return s.await(ctx, c, func(st state, gone bool) bool {
		return gone || st.running() || !st.run.FinishedAt.IsZero() && !st.run.FinishedAt.Equal(first)
	})
}

// attachOutput delivers what a container says from now on, all of it if it is yet to start.
func (s *Server) attachOutput(ctx context.Context, c *container, q logQuery, emit func(entry) error) error {
	if s.current(c).running() {
		return s.readLog(ctx, c, q, emit)
	}
	if _, err := s.begun(ctx, c); err != nil {
		return err
	}
	r := s.recordOf(c)
	pass := func(e entry) error {
		if e.stream == 1 && q.stdout || e.stream == 2 && q.stderr {
			return emit(e)
		}
		return nil
	}
	if err := s.nodeLog(ctx, r.Pod, &v1.PodLogOptions{Follow: true}, pass); err != nil {
		if s.current(c).run.Error != "" {
			return nil // it never began, and the start says why
		}
		return err
	}
	return s.followRestarts(ctx, c, &r, pass)
}

// attachment is which streams of a container a client wants, and the keys that leave them.
type attachment struct {
	stdin, stdout, stderr bool
	keys                  []byte
}

// attach waits until a container runs and connects it.
func (s *Server) attach(ctx context.Context, c *container, conn *connection, out *streamWriter, a attachment) error {
	st, err := s.begun(ctx, c)
	if err != nil {
		return err
	}
	rec := s.recordOf(c)
	begun := time.Now()
	if st.running() {
		streams := runtime.Streams{TTY: rec.Config.Tty}
		if a.stdin {
			streams.Stdin = conn
		}
		if a.stdout {
			streams.Stdout = out.to(1)
		}
		if a.stderr && !rec.Config.Tty {
			streams.Stderr = out.to(2)
		}
		sizes := s.terminalOf(rec.ID)
		streams.Resize = sizes.listen(ctx)
		served, end := detachable(ctx, &streams, a.keys)
		err = s.cfg.Machine.Attach(served, Namespace, rec.Pod, streams)
		end()
		if ctx.Err() == nil && errors.Is(err, context.Canceled) {
			s.containerEvent(&rec, events.ActionDetach, nil)
			return nil
		}
		if err == nil || time.Since(begun) > time.Second || !strings.Contains(err.Error(), "not running") && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// It was over before we came: what it said is in its log.
	q := logQuery{stdout: a.stdout, stderr: a.stderr, tail: -1, since: st.run.StartedAt}
	return s.readLog(ctx, c, q, func(e entry) error { return out.write(e.stream, e.text) })
}

// terminal is the size of a terminal: what was last asked for, and those who want to know.
type terminal struct {
	mu        sync.Mutex
	size      runtime.Size
	listeners map[chan runtime.Size]bool
}

func (s *Server) terminalOf(id string) *terminal {
	s.execs.mu.Lock()
	defer s.execs.mu.Unlock()
	if s.execs.terminals == nil {
		s.execs.terminals = map[string]*terminal{}
	}
	t := s.execs.terminals[id]
	if t == nil {
		t = &terminal{listeners: map[chan runtime.Size]bool{}}
		s.execs.terminals[id] = t
	}
	return t
}

// listen tells the size now, if it is known, and every change until ctx ends.
func (t *terminal) listen(ctx context.Context) <-chan runtime.Size {
	ch := make(chan runtime.Size, 8)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.size != (runtime.Size{}) {
		ch <- t.size
	}
	t.listeners[ch] = true
	context.AfterFunc(ctx, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.listeners, ch)
		close(ch)
	})
	return ch
}

func (t *terminal) resize(size runtime.Size) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.size = size
	for ch := range t.listeners {
		select {
		case ch <- size:
		default: // the next one counts
		}
	}
}

func sizeOf(r *http.Request) (runtime.Size, error) {
	h, err := strconv.ParseUint(r.FormValue("h"), 10, 16)
	if err != nil {
		return runtime.Size{}, invalid("invalid resize height %q", r.FormValue("h"))
	}
	w, err := strconv.ParseUint(r.FormValue("w"), 10, 16)
	if err != nil {
		return runtime.Size{}, invalid("invalid resize width %q", r.FormValue("w"))
	}
	return runtime.Size{Width: uint16(w), Height: uint16(h)}, nil
}

func (s *Server) serveResize(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	size, err := sizeOf(r)
	if err != nil {
		return err
	}
	s.terminalOf(s.recordOf(c).ID).resize(size)
	w.WriteHeader(http.StatusOK)
	return nil
}
