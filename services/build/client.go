package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/hint"
)

const (
	startPatience = 30 * time.Second
	startPoll     = 20 * time.Millisecond
	logTail       = 2048 // bytes of the worker's log that an error shows
)

// ClientConfig says whose worker a client uses.
type ClientConfig struct {
	DataDir string

	// Command starts the worker: a program that calls [Worker] with the same
	// DataDir. Nil means this executable's hidden `build-worker` command.
	Command []string
}

// Client builds images, starting the worker when there is none. It is safe for
// concurrent use.
type Client struct {
	dataDir string
	command []string
	paths   paths
}

// NewClient returns a client. It starts nothing before the first build.
func NewClient(cfg ClientConfig) (*Client, error) {
	abs, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("data directory %q: %w", cfg.DataDir, err)
	}
	c := &Client{dataDir: abs, command: cfg.Command, paths: pathsOf(abs)}
	if c.command == nil {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the program that builds: %w", err)
		}
		c.command = []string{self, "build-worker", "--data-dir", abs}
	}
	return c, nil
}

// connect returns a connection to a worker that answers.
func (c *Client) connect(ctx context.Context) (*bkclient.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	var started *process
	for {
		conn, err := c.dial(ctx)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("start build worker: it did not answer within %v%s", startPatience, c.whatItSaid())
		}
		if started == nil {
			if started, err = c.start(); err != nil {
				return nil, err
			}
		}
		select {
		case <-ctx.Done():
		case err := <-started.ended:
			if err != nil {
				return nil, fmt.Errorf("start build worker: %w%s", err, c.whatItSaid())
			}
			// Another worker had the lock: it is starting, or about to end.
			started = nil
			pause(ctx, startPoll)
		case <-time.After(startPoll):
		}
	}
}

// Socket is the unix socket of a worker that answers: BuildKit's API, for clients
// that speak it themselves. The worker does not end while a call is in progress.
func (c *Client) Socket(ctx context.Context) (string, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return "", err
	}
	return c.paths.socket, conn.Close()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// dial connects to a worker that is there.
func (c *Client) dial(ctx context.Context) (*bkclient.Client, error) {
	if _, err := os.Stat(c.paths.socket); err != nil {
		return nil, err
	}
	conn, err := bkclient.New(ctx, "unix://"+c.paths.socket)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Info(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// process is a worker we started.
type process struct{ ended chan error }

// start runs the worker in a session of its own, so that it outlives us.
func (c *Client) start() (*process, error) {
	if os.Geteuid() != 0 {
		return nil, hint.Wrap(errors.New("start build worker: building needs root"), "run the command with sudo")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		return nil, hint.Wrap(fmt.Errorf("start build worker: %w", err), "apt-get install runc")
	}
	for _, dir := range []string{c.paths.dir, c.paths.tmp} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("start build worker: %w", err)
		}
	}
	log, err := os.OpenFile(c.paths.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start build worker: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(c.command[0], c.command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	// The worker outlives its starter, whose temporary directory may not. Libraries
	// look it up before main runs, so it must be right from the start.
	cmd.Env = append(os.Environ(), "TMPDIR="+c.paths.tmp)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start build worker: %w", err)
	}
	p := &process{ended: make(chan error, 1)}
	go func() { p.ended <- cmd.Wait() }()
	return p, nil
}

// whatItSaid is the end of the worker's log, for an error about it.
func (c *Client) whatItSaid() string {
	log, err := os.ReadFile(c.paths.log)
	if err != nil || len(bytes.TrimSpace(log)) == 0 {
		return ""
	}
	if len(log) > logTail {
		log = log[len(log)-logTail:]
	}
	return "; its log " + c.paths.log + " ends with:\n" + strings.TrimSpace(string(log))
}

// Stop ends the worker of a data directory, if one runs, and removes what it
// may have left in the kernel. The cache stays.
func (c *Client) Stop(ctx context.Context) error {
	signal, patience := unix.SIGTERM, time.Now().Add(2*stopPatience)
	for {
		unlock, err := lockDir(c.paths.lock)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = removeLeftovers(c.dataDir)
			unlock()
			if err != nil {
				return fmt.Errorf("stop build worker: %w", err)
			}
			return nil
		}
		if !errors.Is(err, errLocked) {
			return fmt.Errorf("stop build worker: %w", err)
		}
		// The id is valid: whoever wrote it holds the lock.
		blob, err := os.ReadFile(c.paths.lock)
		if err != nil {
			return fmt.Errorf("stop build worker: %w", err)
		}
		if pid, err := strconv.Atoi(string(blob)); err == nil {
			if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("stop build worker: %w", err)
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("stop build worker: %w", ctx.Err())
		}
		if time.Now().After(patience) {
			signal = unix.SIGKILL
		}
		pause(ctx, 5*startPoll)
	}
}

// Prune empties the build cache, starting a worker when none runs, and returns
// how many bytes it freed.
func (c *Client) Prune(ctx context.Context) (freed int64, err error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	records := make(chan bkclient.UsageInfo)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r := range records {
			freed += r.Size
		}
	}()
	err = conn.Prune(ctx, records, bkclient.PruneAll)
	close(records)
	<-done
	if err != nil {
		return freed, fmt.Errorf("prune build cache: %w", err)
	}
	return freed, nil
}
