// Package logs reads the log files that a runtime driver writes in the CRI format.
// The driver keeps them within their bounds.
//
// Only engine/node imports this package.
package logs

import (
	"context"
	"io"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crilogs "k8s.io/cri-client/pkg/logs"
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
