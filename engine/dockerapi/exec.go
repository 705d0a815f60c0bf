package dockerapi

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	types "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/term"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// execTable are the commands that were asked for. The zero value is ready.
type execTable struct {
	mu        sync.Mutex
	byID      map[string]*execution
	terminals map[string]*terminal // of containers and commands
}

type execution struct {
	id        string
	container *container
	request   types.ExecCreateRequest
	keys      []byte // that leave its terminal

	mu      sync.Mutex
	started bool
	running bool
	exit    *int
	endedAt time.Time
}

// execKept is how long a command that has ended can be asked for its exit code.
const execKept = 5 * time.Minute

func (s *Server) serveExecCreate(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	var req types.ExecCreateRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	if len(req.Cmd) == 0 {
		return invalid("No exec command specified")
	}
	if req.Privileged && !s.recordOf(c).HostConfig.Privileged {
		return invalid("exec --privileged is not possible: a command has the rights of its container")
	}
	switch st := s.current(c); {
	case st.paused():
		return conflict("container %s is paused, unpause the container before exec", s.recordOf(c).ID)
	case !st.running():
		return conflict("container %s is not running", s.recordOf(c).ID)
	}
	keys, err := detachKeys(req.DetachKeys)
	if err != nil {
		return err
	}
	x := &execution{id: randomID(), container: c, request: req, keys: keys}
	s.execs.mu.Lock()
	if s.execs.byID == nil {
		s.execs.byID = map[string]*execution{}
	}
	for id, old := range s.execs.byID {
		old.mu.Lock()
		if !old.endedAt.IsZero() && time.Since(old.endedAt) > execKept {
			delete(s.execs.byID, id)
			delete(s.execs.terminals, id)
		}
		old.mu.Unlock()
	}
	s.execs.byID[x.id] = x
	s.execs.mu.Unlock()
	rec := s.recordOf(c)
	s.containerEvent(&rec, events.Action("exec_create: "+strings.Join(req.Cmd, " ")), map[string]string{"execID": x.id})
	answer(w, http.StatusCreated, types.ExecCreateResponse{ID: x.id})
	return nil
}

func (s *Server) findExec(id string) (*execution, error) {
	s.execs.mu.Lock()
	defer s.execs.mu.Unlock()
	if x := s.execs.byID[id]; x != nil {
		return x, nil
	}
	return nil, notFound("No such exec instance: %s", id)
}

func (s *Server) serveExecStart(w http.ResponseWriter, r *http.Request) error {
	x, err := s.findExec(r.PathValue("id"))
	if err != nil {
		return err
	}
	var req types.ExecStartRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	x.mu.Lock()
	if x.started {
		x.mu.Unlock()
		return conflict("exec command %s has already run", x.id)
	}
	x.started, x.running = true, true
	x.mu.Unlock()
	size := x.request.ConsoleSize
	if req.ConsoleSize != nil {
		size = req.ConsoleSize
	}
	if size != nil && size[0] > 0 {
		s.terminalOf(x.id).resize(runtime.Size{Height: uint16(size[0]), Width: uint16(size[1])})
	}
	if req.Detach {
		go func() { _ = s.execute(context.WithoutCancel(r.Context()), x, nil, io.Discard, io.Discard) }() // its exit code can be asked for
		w.WriteHeader(http.StatusOK)
		return nil
	}
	conn, err := hijack(w, r, mediaType(!x.request.Tty))
	if err != nil {
		x.end(126)
		return err
	}
	defer conn.Close()
	out := newStreamWriter(conn, !x.request.Tty)
	var in io.Reader
	if x.request.AttachStdin {
		in = conn
	}
	if left := make(chan struct{}); in != nil && x.request.Tty { // who leaves lets the command go on
		defer close(left)
		in = &detacher{term.NewEscapeProxy(conn, x.keys), func() { out.discard(); conn.Close() }, left}
	}
	if err := s.execute(context.WithoutCancel(r.Context()), x, in, out.to(1), out.to(2)); err != nil {
		_ = out.write(2, []byte("OCI runtime exec failed: exec failed: "+err.Error()+"\r\n"))
	}
	_ = conn.CloseWrite() // the client may have gone first
	return nil
}

// execute runs a command to its end.
func (s *Server) execute(ctx context.Context, x *execution, in io.Reader, stdout, stderr io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rec := s.recordOf(x.container)
	command := strings.Join(x.request.Cmd, " ")
	s.containerEvent(&rec, events.Action("exec_start: "+command), map[string]string{"execID": x.id})
	streams := runtime.Streams{Stdin: in, TTY: x.request.Tty}
	if x.request.AttachStdout || x.request.Tty {
		streams.Stdout = stdout
	}
	if x.request.AttachStderr && !x.request.Tty {
		streams.Stderr = stderr
	}
	if x.request.Tty {
		streams.Resize = s.terminalOf(x.id).listen(ctx)
	}
	env := x.request.Env
	if x.request.Tty {
		env = append([]string{"TERM=xterm"}, env...)
	}
	code, err := s.cfg.Machine.Exec(ctx, Namespace, rec.Pod, x.request.User,
		runtime.Exec{Args: x.request.Cmd, Env: env, Cwd: x.request.WorkingDir}, streams)
	if err != nil {
		code = startExitCode(err.Error())
		if code == 128 {
			code = 126
		}
	}
	x.end(code)
	s.containerEvent(&rec, events.ActionExecDie, map[string]string{"execID": x.id, "exitCode": strconv.Itoa(code)})
	return err
}

func (x *execution) end(code int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.running, x.exit, x.endedAt = false, &code, time.Now()
}

func (s *Server) serveExecResize(w http.ResponseWriter, r *http.Request) error {
	x, err := s.findExec(r.PathValue("id"))
	if err != nil {
		return err
	}
	size, err := sizeOf(r)
	if err != nil {
		return err
	}
	s.terminalOf(x.id).resize(size)
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) serveExecInspect(w http.ResponseWriter, r *http.Request) error {
	x, err := s.findExec(r.PathValue("id"))
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	q := x.request
	privileged := q.Privileged
	return ok(w, types.ExecInspectResponse{
		ID: x.id, Running: x.running, ExitCode: x.exit, OpenStdin: q.AttachStdin, OpenStdout: q.AttachStdout, OpenStderr: q.AttachStderr,
		ContainerID: s.recordOf(x.container).ID, CanRemove: x.exit != nil,
		ProcessConfig: &types.ExecProcessConfig{Tty: q.Tty, Entrypoint: q.Cmd[0], Arguments: q.Cmd[1:], User: q.User, Privileged: &privileged},
	})
}
