package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/events"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// doSandbox makes the sandbox and records it.
func (w *worker) doSandbox() {
	w.mu.Lock()
	pod := w.pod
	w.mu.Unlock()
	w.n.cfg.Driver.Expect() // the containers
	handler, err := w.n.runtimeHandler(w.runCtx, pod)
	var s *sandbox
	if err == nil {
		s, err = w.n.ensureSandbox(w.runCtx, pod, handler)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		if w.runCtx.Err() == nil {
			w.v.Sandbox.failed(err, time.Now(), time.Second, time.Minute)
			w.n.event(pod, "", v1.EventTypeWarning, events.FailedCreatePodSandBox, "Failed to create pod sandbox: %v", err)
		}
		return
	}
	w.sandbox, w.handler = s, handler
	w.v.Sandbox.succeeded()
	w.v.Sandbox.ID, w.v.Sandbox.IPs = s.ID, s.IPs
}

// doVolumes sets all volumes up.
func (w *worker) doVolumes() {
	w.mu.Lock()
	pod := w.pod
	w.mu.Unlock()
	found, err := w.n.volumes.SetUp(w.runCtx, pod)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		if w.runCtx.Err() == nil {
			w.v.Volumes.failed(err, time.Now(), 500*time.Millisecond, 2*time.Minute)
			w.n.event(pod, "", v1.EventTypeWarning, events.FailedMountVolume, "%v", err)
		}
		return
	}
	w.volumes = found
	w.v.Volumes.succeeded()
	for _, v := range found {
		w.refreshAt = earliest(w.refreshAt, v.RefreshAt)
	}
}

// refreshVolumes writes the projected volumes anew.
func (w *worker) refreshVolumes() {
	w.mu.Lock()
	pod := w.pod
	w.refreshAt = time.Time{}
	w.mu.Unlock()
	at, err := w.n.volumes.Refresh(w.runCtx, pod)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && w.runCtx.Err() == nil {
		w.n.event(pod, "", v1.EventTypeWarning, events.FailedMountVolume, "%v", err)
		at = earliest(at, time.Now().Add(time.Minute))
	}
	w.refreshAt = earliest(w.refreshAt, at)
}

// doPull makes a container's image present.
func (w *worker) doPull(name string) {
	w.mu.Lock()
	pod, c := w.pod, w.container(name)
	w.mu.Unlock()
	if c == nil {
		return
	}
	img, reason, err := w.n.ensureImage(w.runCtx, pod, c)
	w.mu.Lock()
	defer w.mu.Unlock()
	cv := w.v.Containers[name]
	if cv.Image.Ref != c.Image || w.runCtx.Err() != nil {
		return // the specification changed meanwhile
	}
	if err != nil {
		now := time.Now()
		cv.Image.failed(err, now, restartDelayBase, restartDelayMax)
		cv.Image.Reason, cv.Image.FailedAt = reason, now
		w.n.event(pod, name, v1.EventTypeWarning, "Failed", "Error: %s", reason)
		return
	}
	cv.Image.succeeded()
	cv.Image.ID = img.RepoDigest()
	w.images[name] = img
}

func (w *worker) container(name string) *v1.Container {
	for c := range containersOf(w.pod) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// doStart creates and starts a container and runs its postStart hook.
func (w *worker) doStart(name string) {
	w.mu.Lock()
	c, cv := w.container(name), w.v.Containers[name]
	if c == nil || w.sandbox == nil {
		w.mu.Unlock()
		return
	}
	b := &build{n: w.n, pod: w.pod, c: c, sandbox: w.sandbox, handler: w.handler, volumes: w.volumes, image: w.images[name]}
	b.attempt = w.nextAttempt(c, cv)
	b.id = containerID(w.uid, name, b.attempt)
	w.mu.Unlock()

	st, err := w.create(b)
	if err != nil {
		w.startFailed(b, err)
		return
	}
	w.started(b, st)
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		w.postStart(b, c.Lifecycle.PostStart)
	}
}

// nextAttempt numbers the run: one more than any run that left a trace.
func (w *worker) nextAttempt(c *v1.Container, cv *containerView) int {
	attempt := 0
	if cv.Last != nil {
		attempt = cv.Last.Attempt + 1
	}
	if old, ok := statusOf(w.pod, c.Name); ok && old.ContainerID != "" {
		attempt = max(attempt, int(old.RestartCount)+1)
	}
	entries, _ := os.ReadDir(w.n.paths.containerLogs(w.pod, c.Name))
	for _, e := range entries {
		num, _, _ := strings.Cut(e.Name(), ".")
		if i, err := strconv.Atoi(num); err == nil {
			attempt = max(attempt, i+1)
		}
	}
	return attempt
}

// create runs the heavy part, of which only so many run at once.
func (w *worker) create(b *build) (runtime.State, error) {
	ctx := w.runCtx
	if b.image == nil {
		return runtime.State{}, fmt.Errorf("image %q is not present", b.c.Image)
	}
	if err := b.admit(ctx); err != nil {
		return runtime.State{}, err
	}
	if err := w.n.heavy.Acquire(ctx, 1); err != nil {
		return runtime.State{}, err
	}
	defer w.n.heavy.Release(1)
	rc, err := b.container(ctx)
	if err == nil {
		if err = os.MkdirAll(filepath.Dir(rc.LogPath), 0o755); err != nil {
			err = &createError{"CreateContainerError", err}
		}
	}
	if err != nil {
		return runtime.State{}, err
	}
	w.n.event(b.pod, b.c.Name, v1.EventTypeNormal, events.CreatedContainer, "Container created")
	return w.n.cfg.Driver.Start(ctx, rc)
}

// startFailed records why there is no container, or that it died in the start:
// then it counts as a run, so that the restart policy decides.
func (w *worker) startFailed(b *build, err error) {
	ctx := context.WithoutCancel(w.runCtx)
	if uerr := w.n.cfg.Images.Unmount(ctx, b.id); uerr != nil && !errors.Is(uerr, fs.ErrNotExist) {
		w.log.Warn("unmount root of a container that did not start", "container", b.c.Name, "error", uerr)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.runCtx.Err() != nil {
		return
	}
	w.n.event(b.pod, b.c.Name, v1.EventTypeWarning, events.FailedToStartContainer, "Error: %v", err)
	cv, now := w.v.Containers[b.c.Name], time.Now()
	var ce *createError
	if errors.As(err, &ce) {
		cv.Create.failed(err, now, restartDelayBase, restartDelayMax)
		cv.Create.Reason = ce.Reason
		if errors.Is(err, fs.ErrNotExist) {
			cv.Image.Ready = cv.Image.Ready && b.image != nil && w.n.hasImage(b.image.Name)
		}
		return
	}
	w.noteRun(cv, &instance{
		ID: b.id, Attempt: b.attempt, Sandbox: b.sandbox.ID, Image: b.c.Image, ImageID: imageID(b.image),
		StartedAt: now, FinishedAt: now, ExitCode: 128, Reason: "StartError", Message: err.Error(),
	})
}

// started records a container that runs.
func (w *worker) started(b *build, st runtime.State) {
	w.n.event(b.pod, b.c.Name, v1.EventTypeNormal, events.StartedContainer, "Container started")
	w.mu.Lock()
	defer w.mu.Unlock()
	cv := w.v.Containers[b.c.Name]
	cv.Create, cv.Resize = createView{}, attempt{}
	cv.Kill = ""
	cv.StartupPassed = b.c.StartupProbe == nil
	cv.Ready = b.c.ReadinessProbe == nil
	i := &instance{
		ID: b.id, Attempt: b.attempt, Sandbox: b.sandbox.ID, Image: b.c.Image, ImageID: b.image.RepoDigest(),
		Running: true, StartedAt: st.StartedAt, Resources: b.c.Resources,
	}
	if i.StartedAt.IsZero() {
		i.StartedAt = time.Now()
	}
	w.owned[b.id] = true
	w.exits[b.id] = make(chan struct{})
	w.noteRun(cv, i)
	// With policy Always the image is looked at again before the next start.
	if b.c.ImagePullPolicy == v1.PullAlways {
		cv.Image = imageView{Ref: b.c.Image}
	}
	if early, ok := w.n.takeEarlyExit(b.id); ok {
		w.exited(early)
	}
	w.wake()
}

// doResize gives a running container the limits that the pod has now.
func (w *worker) doResize(name string) {
	w.mu.Lock()
	pod, c, cv := w.pod, w.container(name), w.v.Containers[name]
	if c == nil || !cv.running() {
		w.mu.Unlock()
		return
	}
	run := cv.Last
	w.mu.Unlock()
	err := w.n.cfg.Driver.Update(w.runCtx, run.ID, w.n.resources(pod, c))
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		if w.runCtx.Err() == nil && run.Running {
			cv.Resize.failed(err, time.Now(), restartDelayBase, restartDelayMax)
			w.n.event(pod, name, v1.EventTypeWarning, events.ResizeError, "Error resizing container %s: %v", name, err)
		}
		return
	}
	cv.Resize = attempt{}
	run.Resources = c.Resources
	w.n.event(pod, name, v1.EventTypeNormal, events.ResizeCompleted, "Container %s resized", name)
}

// noteRun makes i the latest run and drops the run before the previous one.
func (w *worker) noteRun(cv *containerView, i *instance) {
	if last := cv.Last; last != nil {
		cv.Restart = cv.Restart.next(last.FinishedAt, time.Now())
		if old := cv.Previous; old != nil && old.ID != "" {
			name := w.nameOf(cv)
			w.start("drop/"+old.ID, func() { w.dropRun(name, old) })
		}
	}
	cv.Previous, cv.Last = cv.Last, i
	if cv.Restart.Delay > 0 && !i.Running {
		w.n.event(w.pod, w.nameOf(cv), v1.EventTypeWarning, events.BackOffStartContainer, "Back-off restarting failed container")
	}
}

func (w *worker) nameOf(cv *containerView) string {
	for name, c := range w.v.Containers {
		if c == cv {
			return name
		}
	}
	return ""
}

// dropRun removes what is left of an old run, its log included.
func (w *worker) dropRun(container string, i *instance) {
	ctx := context.WithoutCancel(w.runCtx)
	if err := w.n.removeContainer(ctx, i.ID); err != nil {
		w.log.Warn("remove old container", "container", container, "error", err)
		return
	}
	w.mu.Lock()
	delete(w.owned, i.ID)
	delete(w.exits, i.ID)
	pod := w.pod
	w.mu.Unlock()
	_ = os.Remove(w.n.paths.terminationLog(w.uid, i.ID))
	parts, _ := filepath.Glob(w.n.paths.log(pod, container, i.Attempt) + "*")
	for i, p := range parts {
		if i == 0 {
			w.n.cfg.BeforeLogsGo(p)
		}
		_ = os.Remove(p)
	}
}
