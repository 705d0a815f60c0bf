package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

const (
	// maxLog bounds the log of one Build; the end of a longer one is missing, but for
	// its last words, for which lastWords are kept free.
	maxLog    = 4 << 20
	lastWords = 64 << 10
)

// logs are the logs of all Builds, one file each.
type logs struct {
	dir string

	mu   sync.Mutex
	open map[string]*buildLog // guarded by mu; those that are written
}

func newLogs(dir string) *logs { return &logs{dir: dir, open: map[string]*buildLog{}} }

func (l *logs) path(namespace, name string) string {
	return filepath.Join(l.dir, namespace, name+".log")
}

// buildLog is a log that is being written. It is safe for concurrent use.
type buildLog struct {
	mu      sync.Mutex
	file    *os.File
	written int
	full    bool
	changed chan struct{} // closed and replaced at every write, closed at the end
	ended   bool
}

// create begins the log of a Build, anew when there is one.
func (l *logs) create(namespace, name string) (*buildLog, error) {
	path := l.path(namespace, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("write the log: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write the log: %w", err)
	}
	b := &buildLog{file: f, changed: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[path] = b
	return b, nil
}

// end closes a log: who follows it has read it all.
func (l *logs) end(namespace, name string) {
	l.mu.Lock()
	path := l.path(namespace, name)
	b := l.open[path]
	delete(l.open, path)
	l.mu.Unlock()
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	close(b.changed)
	_ = b.file.Close() // a log that is cut short is no reason to fail
}

// remove forgets a log.
func (l *logs) remove(namespace, name string) {
	l.end(namespace, name)
	_ = os.Remove(l.path(namespace, name)) // there may be none
}

// Write never fails: a build does not fail for want of a log.
func (b *buildLog) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || b.full {
		return len(p), nil
	}
	if b.written+len(p) > maxLog-lastWords {
		b.full = true
		b.append([]byte("\n... the log is too long; the rest is missing ...\n"))
		return len(p), nil
	}
	b.append(p)
	return len(p), nil
}

// last writes words that are there even when the log is full.
func (b *buildLog) last(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.append([]byte(text[:min(len(text), lastWords/2)]))
	}
}

func (b *buildLog) append(p []byte) {
	n, _ := b.file.Write(p) // a full disk takes the log, not the build
	b.written += n
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *buildLog) printf(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }

// errNoLog says that there is no log, of a Build that did not start or was long ago.
var errNoLog = errors.New("there is no log of this Build: it has not started, or it is too old")

// copy writes a log to w from an offset on, and what comes when it is followed, until
// the Build or ctx ends.
func (l *logs) copy(ctx context.Context, w io.Writer, namespace, name string, offset int64, follow bool) error {
	path := l.path(namespace, name)
	l.mu.Lock()
	b := l.open[path]
	l.mu.Unlock()
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errNoLog
	}
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	for {
		var changed chan struct{}
		ended := true
		if b != nil {
			b.mu.Lock()
			changed, ended = b.changed, b.ended
			b.mu.Unlock()
		}
		if _, err := io.Copy(w, f); err != nil {
			return err
		}
		if !follow || ended {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}
