// Package logs reads and rotates the log files that a runtime driver writes in
// the CRI format.
//
// Only engine/node imports this package.
package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crilogs "k8s.io/cri-client/pkg/logs"
)

// MaxBytes and MaxFiles bound the log of one run of a container.
const (
	MaxBytes = 10 << 20
	MaxFiles = 5
)

// Read copies the log at path to stdout and stderr as opt says. When following,
// it ends after the log of a container that running reports as ended.
func Read(ctx context.Context, path string, opt *v1.PodLogOptions, running func() bool, stdout, stderr io.Writer) error {
	o := &crilogs.LogOptions{
		TailLines:  opt.TailLines,
		LimitBytes: opt.LimitBytes,
		Follow:     opt.Follow,
		Timestamp:  opt.Timestamps,
		Since:      since(opt),
	}
	return crilogs.ReadLogs(ctx, path, path, o, liveness{running: running}, stdout, stderr)
}

func since(opt *v1.PodLogOptions) time.Time {
	switch {
	case opt.SinceSeconds != nil:
		return metav1.Now().Add(-time.Duration(*opt.SinceSeconds) * time.Second)
	case opt.SinceTime != nil:
		return opt.SinceTime.Time
	}
	return time.Time{}
}

// liveness answers the only question upstream's reader has for a runtime.
type liveness struct {
	cri.RuntimeService
	running func() bool
}

func (l liveness) ContainerStatus(context.Context, string, bool) (*runtimeapi.ContainerStatusResponse, error) {
	state := runtimeapi.ContainerState_CONTAINER_EXITED
	if l.running() {
		state = runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{State: state}}, nil
}

// Tail returns the last lines of the log, at most bytes long.
func Tail(path string, lines int64, bytes int) string {
	var b strings.Builder
	opt := &v1.PodLogOptions{TailLines: &lines}
	if Read(context.Background(), path, opt, func() bool { return false }, &b, &b) != nil {
		return ""
	}
	s := b.String()
	return s[max(0, len(s)-bytes):]
}

// Rotate moves a log that has grown too large out of the way and calls reopen,
// which must make the writer create the file anew. Old parts beyond MaxFiles go.
func Rotate(path string, now time.Time, reopen func() error) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if info.Size() < MaxBytes {
		return nil
	}
	if err := dropOld(path, MaxFiles-2); err != nil {
		return err
	}
	rotated := path + "." + now.Format("20060102-150405.000")
	if err := os.Rename(path, rotated); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if err := reopen(); err != nil {
		// Without a reopened file the writer would go on in the renamed one.
		if back := os.Rename(rotated, path); back != nil {
			return fmt.Errorf("rotate log %s: reopen: %w (and undo: %v)", path, err, back)
		}
		return fmt.Errorf("rotate log %s: reopen: %w", path, err)
	}
	return nil
}

// dropOld removes the oldest rotated parts until keep are left.
func dropOld(path string, keep int) error {
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return fmt.Errorf("list rotated logs: %w", err)
	}
	slices.Sort(old)
	for ; len(old) > keep; old = old[1:] {
		if err := os.Remove(old[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove rotated log: %w", err)
		}
	}
	return nil
}
