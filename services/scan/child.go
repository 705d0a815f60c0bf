package scan

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/services/scan/report"
)

const (
	startPatience = 5 * time.Minute // it may have to fetch the database
	jobPatience   = 15 * time.Minute
	maxAnswer     = 64 << 20 // bytes of one report
	keptLog       = 4 << 10  // of what the worker writes to standard error
	lowPriority   = 15       // niceness: a build beside it has thirty times as much
	childPatience = 10 * time.Second
)

// child is a running worker. Only the service's loop uses it.
type child struct {
	database string // by digest
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      *bufio.Reader
	said     *tail
	registry *http.Server
	files    []*os.File
}

// startChild starts a worker for one database. It sees no network: the registry
// comes to it through a socket, and only to be read.
func (s *Service) startChild(database string) (*child, error) {
	registry, err := s.serveRegistry()
	if err != nil {
		return nil, fmt.Errorf("start scan worker: %w", err)
	}
	c := &child{database: database, registry: registry, said: &tail{}}
	if err := c.start(append(s.command, "--dir", s.dir, "--database", database)); err != nil {
		return nil, fmt.Errorf("start scan worker: %w", errors.Join(err, registry.Close()))
	}
	if a, err := c.read(startPatience); err != nil || !a.Ready {
		return nil, fmt.Errorf("start scan worker: %s", c.end(err).text)
	}
	return c, nil
}

// start runs the command with low priority, which a child inherits from the thread
// that starts it; the thread ends with its goroutine.
func (c *child) start(command []string) error {
	stdin, in, err := os.Pipe()
	if err != nil {
		return err
	}
	out, stdout, err := os.Pipe()
	if err != nil {
		return errors.Join(err, stdin.Close(), in.Close())
	}
	c.cmd = exec.Command(command[0], command[1:]...)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, stdout, c.said
	c.cmd.Dir = "/"
	c.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		c.cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNET | unix.CLONE_NEWIPC
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()                                  // and never unlocked
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, lowPriority) // of this thread; only politeness
		started <- c.cmd.Start()
	}()
	err = errors.Join(<-started, stdin.Close(), stdout.Close())
	if err != nil {
		return errors.Join(err, in.Close(), out.Close())
	}
	c.in, c.out, c.files = in, bufio.NewReader(out), []*os.File{in, out}
	return nil
}

// scan has one image scanned. After an error the worker must be stopped.
func (c *child) scan(ctx context.Context, image string) (*report.Report, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.cmd.Process.Kill() })
	defer stop()
	if err := json.NewEncoder(c.in).Encode(job{Image: image}); err != nil {
		return nil, c.end(err)
	}
	a, err := c.read(jobPatience)
	if err != nil {
		return nil, c.end(err)
	}
	switch {
	case a.Report == nil && a.Again:
		return nil, errors.New(a.Error)
	case a.Report == nil:
		return nil, &scanError{a.Error}
	}
	return a.Report, nil
}

// read reads one answer.
func (c *child) read(patience time.Duration) (a answer, err error) {
	for _, f := range c.files {
		_ = f.SetDeadline(time.Now().Add(patience)) // pipes have deadlines
	}
	line, err := readLine(c.out, maxAnswer)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(line, &a)
}

// scanError is what is wrong with an image, rather than with the worker.
type scanError struct{ text string }

func (e *scanError) Error() string { return e.text }

// workerError is the end of the worker, which an image may have caused.
type workerError struct{ text string }

func (e *workerError) Error() string { return "the scan worker ended: " + e.text }

// end stops the worker and returns what it said last, or else why it is stopped.
func (c *child) end(err error) *workerError {
	c.stop()
	if said := c.said.String(); said != "" {
		return &workerError{said}
	}
	return &workerError{fmt.Sprint(err)}
}

// readLine reads a line of at most so many bytes.
func readLine(r *bufio.Reader, most int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if len(line) > most {
			return nil, fmt.Errorf("its answer has more than %d MB", most>>20)
		}
	}
}

// stop ends the worker: it leaves when its input ends, or is killed. It may be
// called again.
func (c *child) stop() {
	if c.cmd == nil {
		return
	}
	_ = c.in.Close() // it may be gone already
	kill := time.AfterFunc(childPatience, func() { _ = c.cmd.Process.Kill() })
	_ = c.cmd.Wait() // how it ended is said where it matters
	kill.Stop()
	for _, f := range c.files {
		_ = f.Close()
	}
	_ = c.registry.Close()
	c.cmd = nil
}

// serveRegistry lets the worker read the registry through a socket.
func (s *Service) serveRegistry() (*http.Server, error) {
	// A worker that was killed may have left files.
	own := filepath.Join(s.dir, workerDir)
	if err := errors.Join(os.RemoveAll(own), os.MkdirAll(own, 0o700)); err != nil {
		return nil, err
	}
	path := filepath.Join(own, workerSocket)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Chown(own, nobody, nobody), os.Chown(path, nobody, nobody)); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: s.scheme, Host: s.registry})
		},
		Transport: s.transport, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	server := &http.Server{ReadHeaderTimeout: childPatience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "only reading is allowed", http.StatusMethodNotAllowed)
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(l) }() // ends when it is closed
	return server, nil
}

// tail keeps the end of what is written to it.
type tail struct{ buf bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if extra := t.buf.Len() - keptLog; extra > 0 {
		t.buf.Next(extra)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(t.buf.String()) }
