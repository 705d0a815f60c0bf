package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/launch"
	"github.com/gantryhq/gantry/engine/node/ocispec"
	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/engine/shim"
	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// drainIdle is how long the output of an ended process may be silent before it
// is given up: a background process can hold it open for ever.
const drainIdle = 500 * time.Millisecond

// execName names the files of one exec in a container's directory.
func (d *Driver) execName() string { return fmt.Sprintf("exec-%d", d.execs.Add(1)) }

// Exec runs a process in a running container and returns its exit code. Ending
// ctx kills the process.
func (d *Driver) Exec(ctx context.Context, id string, e runtime.Exec, s runtime.Streams) (int, error) {
	r, err := d.record(id)
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	code, err := d.exec(ctx, r, e, s)
	if err != nil {
		return 0, fmt.Errorf("exec in container %q: %w", id, err)
	}
	return code, nil
}

func (d *Driver) exec(ctx context.Context, r *record, e runtime.Exec, s runtime.Streams) (int, error) {
	if len(e.Args) == 0 {
		return 0, errors.New("no command was given")
	}
	var size *specs.Box
	if s.TTY {
		size = firstSize(ctx, s.Resize)
	}
	pipes, err := openExecStreams(s)
	if err != nil {
		return 0, err
	}
	defer pipes.close()
	enter := d.enterOCI
	if r.Runtime == Builtin {
		enter = d.enter
	}
	running, err := enter(ctx, r, e, size, pipes)
	if err != nil {
		return 0, err
	}
	defer running.Close()
	pipes.connect(s)
	code, err := running.Wait()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err != nil {
		return 0, err
	}
	pipes.drain()
	return code, nil
}

// enter has the launcher start a process.
func (d *Driver) enter(ctx context.Context, r *record, e runtime.Exec, size *specs.Box, pipes *execStreams) (*shim.Process, error) {
	launcher, err := d.launcher()
	if err != nil {
		return nil, err
	}
	door, err := os.ReadFile(filepath.Join(d.bundle(r.ID), doorName))
	if err != nil {
		return nil, err
	}
	wanted := launch.Exec{Args: e.Args, Env: e.Env, Cwd: e.Cwd, Terminal: pipes.tty}
	if e.User != nil {
		user := ocispec.User(*e.User)
		wanted.User = &user
	}
	if size != nil {
		wanted.Rows, wanted.Cols = size.Height, size.Width
	}
	running, err := launcher.Exec(ctx, r.ID, r.Cgroup, door, wanted, pipes.theirs)
	pipes.closeTheirs()
	if err != nil {
		return nil, err
	}
	pipes.terminal = running.Terminal
	return running, nil
}

// enterOCI has the OCI runtime start a process.
func (d *Driver) enterOCI(ctx context.Context, r *record, e runtime.Exec, size *specs.Box, pipes *execStreams) (*shim.Process, error) {
	base := filepath.Join(d.bundle(r.ID), d.execName())
	files := execFiles{process: base + ".json", pid: base + ".pid", log: base + ".log"}
	defer files.remove()
	first, err := d.process(r)
	if err != nil {
		return nil, err
	}
	process := execProcess(first, e, pipes.tty)
	process.ConsoleSize = size
	if err := os.MkdirAll(d.bundle(r.ID), 0o700); err != nil { // an earlier release made none
		return nil, err
	}
	if err := writeJSON(files.process, process); err != nil {
		return nil, err
	}
	command := append(d.runtimeCommand(r, files.log), "exec", "--detach", "--pid-file", files.pid, "--process", files.process)
	if pipes.tty {
		console := filepath.Base(base) + ".sock"
		if pipes.console, err = protocol.Listen(d.dir(r.ID), console); err != nil {
			return nil, err
		}
		defer os.Remove(filepath.Join(d.dir(r.ID), console))
		command = append(command, "--console-socket", console)
	}
	running, err := d.startExec(ctx, r, protocol.Exec{Command: append(command, r.ID), PIDFile: files.pid, Env: runtimeEnv(r.Runtime)}, pipes)
	if err != nil {
		return nil, explain(err, files.log)
	}
	if pipes.tty {
		if err := pipes.acceptTerminal(); err != nil {
			running.Close()
			return nil, err
		}
	}
	return running, nil
}

// startExec runs the OCI runtime; only this part counts against the bound.
func (d *Driver) startExec(ctx context.Context, r *record, e protocol.Exec, pipes *execStreams) (*shim.Process, error) {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	process, err := d.shim.Exec(ctx, r.ID, e, pipes.theirs)
	pipes.closeTheirs()
	return process, err
}

// execProcess is the container's first process with another command.
func execProcess(first *specs.Process, e runtime.Exec, tty bool) *specs.Process {
	p := *first
	p.Args = e.Args
	p.Env = append(append([]string{}, p.Env...), e.Env...)
	p.Terminal = tty
	if e.Cwd != "" {
		p.Cwd = e.Cwd
	}
	if e.User != nil {
		p.User = ocispec.User(*e.User)
	}
	return &p
}

// sizeWait is how long a program is held back for the size of its terminal,
// which clients send as soon as they are connected.
const sizeWait = 200 * time.Millisecond

// firstSize is the size that the terminal has from the start: a program that
// asks for it at once must not be told that there is none.
func firstSize(ctx context.Context, sizes <-chan runtime.Size) *specs.Box {
	if sizes == nil {
		return nil
	}
	select {
	case size, ok := <-sizes:
		if ok {
			return &specs.Box{Width: uint(size.Width), Height: uint(size.Height)}
		}
	case <-time.After(sizeWait):
	case <-ctx.Done():
	}
	return nil
}

type execFiles struct{ process, pid, log string }

func (f execFiles) remove() {
	for _, path := range []string{f.process, f.pid, f.log} {
		os.Remove(path)
	}
}

// execStreams are both ends of an exec's streams.
type execStreams struct {
	tty            bool
	theirs         shim.Files
	stdin          *os.File // our ends, or nil
	stdout, stderr *os.File
	console        *net.UnixListener
	terminal       *os.File

	copies sync.WaitGroup // of output
	ended  chan struct{}  // closed when the process has ended
}

func openExecStreams(s runtime.Streams) (*execStreams, error) {
	x := &execStreams{tty: s.TTY, ended: make(chan struct{})}
	if s.TTY {
		return x, nil
	}
	var err error
	open := func(wanted bool, reader, writer **os.File) {
		if wanted && err == nil {
			*reader, *writer, err = os.Pipe()
		}
	}
	open(s.Stdin != nil, &x.theirs.Stdin, &x.stdin)
	open(s.Stdout != nil, &x.stdout, &x.theirs.Stdout)
	open(s.Stderr != nil, &x.stderr, &x.theirs.Stderr)
	if err != nil {
		x.close()
	}
	return x, err
}

// connect begins to copy once the process runs.
func (x *execStreams) connect(s runtime.Streams) {
	if x.terminal != nil {
		x.stdin, x.stdout = x.terminal, x.terminal
		go x.resize(s.Resize)
	}
	if s.Stdin != nil {
		go func() {
			io.Copy(x.stdin, s.Stdin)
			if x.terminal == nil {
				x.stdin.Close()
			} else {
				x.terminal.Write([]byte{4}) // end of file, as a person types it
			}
		}()
	}
	x.copyOut(x.stdout, s.Stdout)
	x.copyOut(x.stderr, s.Stderr)
}

func (x *execStreams) acceptTerminal() (err error) {
	x.console.SetDeadline(time.Now().Add(10 * time.Second))
	x.terminal, err = protocol.AcceptTerminal(x.console)
	return err
}

// resize applies window sizes until the process ended.
func (x *execStreams) resize(sizes <-chan runtime.Size) {
	for {
		select {
		case <-x.ended:
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			raw, err := x.terminal.SyscallConn()
			if err != nil {
				return
			}
			raw.Control(func(fd uintptr) {
				unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
			})
		}
	}
}

// copyOut copies output until its end, or after the process ended until it is silent.
func (x *execStreams) copyOut(from *os.File, to io.Writer) {
	if from == nil || to == nil {
		return
	}
	x.copies.Add(1)
	go func() {
		defer x.copies.Done()
		b := make([]byte, 32<<10)
		for {
			n, err := from.Read(b)
			if n > 0 {
				if _, writeErr := to.Write(b[:n]); writeErr != nil {
					return
				}
			}
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded) && n == 0 && x.silent(from):
				return
			case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
				return
			}
		}
	}()
}

// silent extends the deadline that drain has set; false means something came.
func (x *execStreams) silent(from *os.File) bool {
	readable := false
	raw, err := from.SyscallConn()
	if err != nil {
		return true
	}
	raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		readable = err == nil && n > 0
	})
	from.SetReadDeadline(time.Now().Add(drainIdle))
	return !readable
}

// drain waits for the rest of the output of a process that has ended.
func (x *execStreams) drain() {
	close(x.ended)
	for _, f := range []*os.File{x.stdout, x.stderr} {
		if f != nil {
			f.SetReadDeadline(time.Now().Add(drainIdle))
		}
	}
	x.copies.Wait()
}

func (x *execStreams) closeTheirs() {
	for _, f := range []*os.File{x.theirs.Stdin, x.theirs.Stdout, x.theirs.Stderr} {
		if f != nil {
			f.Close()
		}
	}
	x.theirs = shim.Files{}
}

func (x *execStreams) close() {
	x.closeTheirs()
	for _, f := range []*os.File{x.stdin, x.stdout, x.stderr, x.terminal} {
		if f != nil {
			f.Close()
		}
	}
	if x.console != nil {
		x.console.Close()
	}
}
