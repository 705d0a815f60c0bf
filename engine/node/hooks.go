package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/events"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// postStart runs the hook of a container that has just started. When it fails
// the container is killed and the restart policy decides.
func (w *worker) postStart(b *build, hook *v1.LifecycleHandler) {
	err := w.hook(w.runCtx, b.c, b.id, b.sandbox.IPs, hook)
	if err == nil || w.runCtx.Err() != nil {
		return
	}
	w.n.event(b.pod, b.c.Name, v1.EventTypeWarning, events.FailedPostStartHook, "PostStartHook failed: %v", err)
	w.mu.Lock()
	defer w.mu.Unlock()
	if cv := w.v.Containers[b.c.Name]; cv.running() && cv.Last.ID == b.id {
		cv.Kill = "FailedPostStartHook"
	}
}

// preStop runs the hook for as long as the grace period lasts and returns when
// that is over, which a shorter deletion may have brought forward.
func (w *worker) preStop(pod *v1.Pod, c *v1.Container, id string, end time.Time, exit <-chan struct{}, hurry <-chan time.Duration) time.Time {
	ctx, cancel := context.WithDeadline(w.n.ctx, end)
	defer cancel()
	done := make(chan error, 1)
	w.mu.Lock()
	ips := w.v.Sandbox.IPs
	w.mu.Unlock()
	go func() { done <- w.hook(ctx, c, id, ips, c.Lifecycle.PreStop) }()
	for {
		select {
		case err := <-done:
			if err != nil && w.n.ctx.Err() == nil {
				w.n.event(pod, c.Name, v1.EventTypeWarning, events.FailedPreStopHook, "PreStopHook failed: %v", err)
			}
			return end
		case <-exit:
			return end
		case <-w.n.ctx.Done():
			return end
		case grace := <-hurry:
			if at := time.Now().Add(grace); at.Before(end) {
				end = at
				time.AfterFunc(grace, cancel)
			}
		}
	}
}

// hook runs a lifecycle handler once.
func (w *worker) hook(ctx context.Context, c *v1.Container, id string, podIPs []string, h *v1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		code, out, err := w.n.execOutput(ctx, id, h.Exec.Command)
		if err != nil {
			return err
		}
		if code != 0 {
			return fmt.Errorf("command %q exited with %d: %s", h.Exec.Command, code, out)
		}
		return nil
	case h.HTTPGet != nil:
		return w.httpHook(ctx, c, podIPs, h.HTTPGet)
	case h.Sleep != nil:
		t := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("invalid handler: neither exec, httpGet nor sleep")
}

func (w *worker) httpHook(ctx context.Context, c *v1.Container, podIPs []string, get *v1.HTTPGetAction) error {
	ip := ""
	if len(podIPs) > 0 {
		ip = podIPs[0]
	}
	req, err := httpprobe.NewRequestForHTTPGetAction(get, c, ip, "lifecycle")
	if err != nil {
		return err
	}
	resp, err := w.n.hookClient.Do(req.WithContext(ctx))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 10<<10))
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("hook answered %s", resp.Status)
	}
	return nil
}

// execOutputLimit bounds what a probe or hook may say.
const execOutputLimit = 10 << 10

// execOutput runs a command in a container and returns its exit code and the
// beginning of what it wrote.
func (n *Node) execOutput(ctx context.Context, id string, command []string) (int, string, error) {
	out := &limitedBuffer{left: execOutputLimit}
	code, err := n.cfg.Driver.Exec(ctx, id, runtime.Exec{Args: command}, runtime.Streams{Stdout: out, Stderr: out})
	return code, out.b.String(), err
}

// limitedBuffer keeps the beginning and drops the rest. The driver writes to it
// from one goroutine per stream.
type limitedBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	left int
}

func (l *limitedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	take := min(len(p), l.left)
	l.b.Write(p[:take])
	l.left -= take
	return len(p), nil
}
