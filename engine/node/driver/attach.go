package driver

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/engine/shim"
)

// Attach connects to the first process's streams until its output ends or ctx does.
func (d *Driver) Attach(ctx context.Context, id string, s runtime.Streams) error {
	r, err := d.record(id)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	if !r.Stdin && !r.TTY {
		s.Stdin = nil // as with Kubernetes: input nobody can read is ignored
	}
	var theirs shim.Files
	var stdin, stdout, stderr *os.File
	open := func(wanted bool, reader, writer **os.File) {
		if wanted && err == nil {
			*reader, *writer, err = os.Pipe()
		}
	}
	open(s.Stdin != nil, &theirs.Stdin, &stdin)
	open(s.Stdout != nil, &stdout, &theirs.Stdout)
	open(s.Stderr != nil && !r.TTY, &stderr, &theirs.Stderr)
	defer closeFiles(stdin, stdout, stderr)
	if err != nil {
		closeFiles(theirs.Stdin, theirs.Stdout, theirs.Stderr)
		return fmt.Errorf("attach to container %q: %w", id, err)
	}
	detach, err := d.shim.Attach(ctx, id, theirs)
	closeFiles(theirs.Stdin, theirs.Stdout, theirs.Stderr)
	if err != nil {
		return err // it names the container
	}
	defer detach()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.TTY && s.Resize != nil {
		go d.followSize(ctx, id, s.Resize)
	}
	if stdin != nil {
		go func() {
			io.Copy(stdin, s.Stdin)
			stdin.Close()
		}()
	}
	var copies sync.WaitGroup
	copyOut := func(to io.Writer, from *os.File) {
		if from != nil {
			copies.Go(func() { io.Copy(to, from) })
		}
	}
	copyOut(s.Stdout, stdout)
	copyOut(s.Stderr, stderr)
	done := make(chan struct{})
	go func() { copies.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// followSize applies window sizes to the container's terminal.
func (d *Driver) followSize(ctx context.Context, id string, sizes <-chan runtime.Size) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			if err := d.shim.Resize(ctx, id, size.Width, size.Height); err != nil && ctx.Err() == nil {
				d.log.Warn("resize terminal", "container", id, "error", err)
			}
		}
	}
}

func closeFiles(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
