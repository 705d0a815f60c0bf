package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/kubelet/events"

	"github.com/gantryhq/gantry/engine/node/logs"
	"github.com/gantryhq/gantry/engine/node/runtime"
)

const (
	// leastGrace is what a container gets between its stop signal and the kill
	// even when the hook has used up the grace period.
	leastGrace = 2 * time.Second

	// killRetry is how long the agent waits for a killed process to vanish
	// before it looks again.
	killRetry = 10 * time.Second
)

// doKill stops a container: hook, stop signal, kill after the grace period.
func (w *worker) doKill(s step) {
	w.mu.Lock()
	pod, c, cv := w.pod, w.container(s.Container), w.v.Containers[s.Container]
	hurry := w.kills[s.Container]
	if c == nil || !cv.running() {
		w.mu.Unlock()
		return
	}
	last := cv.Last
	exit := w.exits[last.ID]
	w.mu.Unlock()

	message := s.Reason
	if message == "" {
		message = "Stopping container " + s.Container
	}
	w.n.event(pod, s.Container, v1.EventTypeNormal, events.KillingContainer, "%s", message)
	end := time.Now().Add(s.Grace)
	begun := time.Now()
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		end = w.preStop(pod, c, last.ID, end, exit, hurry)
	}
	if pod.DeletionTimestamp != nil {
		w.drain(begun, s.Grace, exit, hurry)
	}
	grace := max(time.Until(end), leastGrace)
	if w.signal(last.ID, w.stopSignal(c, last), false) && w.await(exit, grace, hurry) {
		return
	}
	for w.n.ctx.Err() == nil {
		if !w.signal(last.ID, int(unix.SIGKILL), true) || w.await(exit, killRetry, nil) {
			return
		}
		w.log.Warn("container does not die of SIGKILL, trying again", "container", s.Container)
	}
}

// signal reports whether the container is still known to the driver. One that is
// not has ended without trace.
func (w *worker) signal(id string, sig int, all bool) bool {
	err := w.n.cfg.Driver.Signal(w.n.ctx, id, sig, all)
	if errors.Is(err, fs.ErrNotExist) {
		w.mu.Lock()
		w.exited(runtime.State{ID: id, ExitCode: 137, FinishedAt: time.Now()})
		w.mu.Unlock()
		return false
	}
	if err != nil && w.n.ctx.Err() == nil {
		w.log.Warn("signal container", "id", id, "signal", sig, "error", err)
	}
	return true
}

// await reports whether the container ended within grace, which hurry shortens.
func (w *worker) await(exit <-chan struct{}, grace time.Duration, hurry <-chan time.Duration) bool {
	end := time.Now().Add(grace)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	for {
		select {
		case <-exit:
			return true
		case <-w.n.ctx.Done():
			return true // the successor goes on
		case <-timer.C:
			return false
		case shorter := <-hurry:
			if shorter = max(shorter, leastGrace); time.Now().Add(shorter).Before(end) {
				timer.Reset(shorter)
			}
		}
	}
}

// stopSignal is what the pod, else the image names, else SIGTERM.
func (w *worker) stopSignal(c *v1.Container, last *instance) int {
	name := ""
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		name = string(*c.Lifecycle.StopSignal)
	} else if img, err := w.n.cfg.Images.Get(w.n.ctx, last.Image); err == nil {
		name = img.Config.Config.StopSignal
	}
	var num int
	if _, err := fmt.Sscanf(name, "%d", &num); err == nil && num > 0 {
		return num
	}
	if name != "" && !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return int(sig)
	}
	return int(unix.SIGTERM)
}

// exited records the end of a container and reports whether the container is
// known and ran. The caller holds the lock.
func (w *worker) exited(st runtime.State) (known bool) {
	for _, cv := range w.v.Containers {
		for _, i := range []*instance{cv.Last, cv.Previous} {
			if i == nil || i.ID != st.ID || !i.Running {
				continue
			}
			w.fillExit(i, st)
			cv.Ready, cv.Kill, cv.KillGrace = false, "", 0
			if ch := w.exits[st.ID]; ch != nil {
				close(ch)
				delete(w.exits, st.ID)
			}
			w.start("unmount/"+st.ID, func() { w.unmount(st.ID) })
			w.wake()
			known = true
		}
	}
	return known
}

// unmount frees the root directory of an ended container: its exit code and log
// are all that is still wanted of it.
func (w *worker) unmount(id string) {
	ctx := context.WithoutCancel(w.runCtx)
	if err := w.n.cfg.Images.Unmount(ctx, id); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.log.Warn("unmount root of an ended container", "id", id, "error", err)
	}
}

// fillExit turns i into an ended run.
func (w *worker) fillExit(i *instance, st runtime.State) {
	i.Running = false
	i.ExitCode, i.FinishedAt = st.ExitCode, st.FinishedAt
	if i.FinishedAt.IsZero() {
		i.FinishedAt = time.Now()
	}
	if i.StartedAt.IsZero() {
		i.StartedAt = i.FinishedAt
	}
	if st.OOMKilled {
		i.Reason = "OOMKilled"
	}
	i.Message = w.terminationMessage(i, st)
}

const (
	maxTerminationMessage = 4096
	fallbackLines         = 80
	fallbackBytes         = 2048
)

func (w *worker) terminationMessage(i *instance, st runtime.State) string {
	if st.Message != "" {
		return st.Message
	}
	name := st.Labels[labelContainer]
	if name == "" {
		for n, cv := range w.v.Containers {
			if cv.Last == i || cv.Previous == i {
				name = n
			}
		}
	}
	message := readHead(w.n.paths.terminationLog(w.uid, i.ID), maxTerminationMessage)
	c := w.container(name)
	if message != "" || c == nil || i.ExitCode == 0 || c.TerminationMessagePolicy != v1.TerminationMessageFallbackToLogsOnError {
		return message
	}
	return logs.Tail(w.n.paths.log(w.pod, name, i.Attempt), fallbackLines, fallbackBytes)
}

func readHead(path string, limit int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	buf := make([]byte, limit)
	n, _ := f.Read(buf)
	return strings.ToValidUTF8(string(buf[:max(n, 0)]), "�")
}

// doTeardown removes containers, volumes and sandbox.
func (w *worker) doTeardown() {
	w.mu.Lock()
	pod := w.pod
	ids := make([]string, 0, len(w.owned))
	for id := range w.owned {
		ids = append(ids, id)
	}
	w.mu.Unlock()
	err := w.n.tearDown(w.n.ctx, pod, ids)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.teardown.failed(err, time.Now(), time.Second, time.Minute)
		w.log.Warn("tear pod down", "error", err)
		time.AfterFunc(time.Until(w.teardown.RetryAt), w.wake)
		return
	}
	w.owned = map[string]bool{}
	w.v.TornDown = true
	w.v.Sandbox.Ready = false
}

// tearDown removes everything of a pod but its logs.
func (n *Node) tearDown(ctx context.Context, pod *v1.Pod, ids []string) error {
	var images []string
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Image != nil {
			images = append(images, pod.Spec.Volumes[i].Name)
		}
	}
	var parts errgroup.Group
	parts.Go(func() error {
		var containers errgroup.Group
		for _, id := range ids {
			containers.Go(func() error { return n.removeContainer(ctx, id) })
		}
		if err := containers.Wait(); err != nil {
			return err
		}
		return n.volumes.TearDown(ctx, pod.UID, images)
	})
	parts.Go(func() error { return n.disconnect(ctx, pod.UID) })
	if err := parts.Wait(); err != nil {
		return err
	}
	return n.removeSandbox(pod.UID)
}

// removeContainer removes a container and its root directory.
func (n *Node) removeContainer(ctx context.Context, id string) error {
	if err := n.cfg.Driver.Remove(ctx, id); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if err := n.cfg.Images.Unmount(ctx, id); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmount root of container %s: %w", id, err)
	}
	return nil
}

// doDelete deletes the API object: the pod's graceful end.
func (w *worker) doDelete() {
	w.mu.Lock()
	pod := w.pod
	w.mu.Unlock()
	opts := metav1.NewDeleteOptions(0)
	opts.Preconditions = metav1.NewUIDPreconditions(string(pod.UID))
	err := w.n.client.CoreV1().Pods(pod.Namespace).Delete(w.n.ctx, pod.Name, *opts)
	switch {
	case err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		w.mu.Lock()
		w.v.Removed = true
		w.mu.Unlock()
	case w.n.ctx.Err() == nil:
		w.log.Warn("delete pod", "error", err)
		w.await(nil, time.Second, nil)
	}
}

// doForget removes the last traces and ends the worker.
func (w *worker) doForget() {
	w.mu.Lock()
	pod := w.pod
	w.mu.Unlock()
	w.n.cfg.BeforeLogsGo(w.n.paths.podLogs(pod))
	for _, dir := range []string{w.n.paths.pod(w.uid), w.n.paths.podLogs(pod)} {
		if err := os.RemoveAll(dir); err != nil {
			w.log.Warn("remove pod directory", "error", err)
		}
	}
	w.mu.Lock()
	w.v.Busy[forgottenKey] = true
	w.mu.Unlock()
	w.n.forget(w)
}
