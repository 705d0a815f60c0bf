package dockerapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	types "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/engine/image"
)

func (s *Server) serveStart(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	if r.FormValue("checkpoint") != "" {
		return serveCheckpoint(w, r)
	}
	switch st := s.current(c); {
	case st.paused():
		return conflict("cannot start a paused container, try unpause instead")
	case st.running():
		return notModified
	}
	if err := s.start(r.Context(), c); err != nil {
		return err
	}
	return noContent(w)
}

// startPatience bounds how long a start waits for the node; an image is there already.
const startPatience = time.Minute

// start runs a container. One that cannot start has ended, so that nobody waits for it.
// The caller holds c.op.
func (s *Server) start(ctx context.Context, c *container) error {
	err := s.startPod(ctx, c)
	if err == nil || s.current(c).running() {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if s.current(c).run.Error == "" { // there was no run that failed
		now := lastRun{ExitCode: 128, FinishedAt: time.Now(), Error: err.Error()}
		if saveErr := s.change(ctx, c, func(rec *record) { rec.Last = now }); saveErr != nil {
			s.log.Warn("docker", "err", saveErr)
		}
	}
	if s.recordOf(c).HostConfig.AutoRemove {
		go s.autoRemove(ctx, c)
	}
	return err
}

// startPod makes the container's pod and waits until it runs, has ended or cannot run.
func (s *Server) startPod(ctx context.Context, c *container) error {
	if err := s.dropPod(ctx, c); err != nil {
		return err
	}
	r := s.recordOf(c)
	if err := s.awaitLayer(ctx, r.ID); err != nil {
		return err
	}
	s.starting.Lock() // ports are chosen by one at a time
	at, err := s.choosePorts(&r)
	if err != nil {
		s.starting.Unlock()
		return err
	}
	pod, err := s.podOf(&r, podName(&r), at)
	if err != nil {
		s.starting.Unlock()
		return err
	}
	err = s.change(ctx, c, func(rec *record) {
		rec.Pod, rec.Stopped, rec.Ports = pod.Name, false, at.told
		rec.Last, rec.Paused = lastRun{}, time.Time{}
	})
	s.starting.Unlock()
	if err == nil {
		err = s.sharePorts(ctx, &r, at.shared)
	}
	if err != nil {
		_ = s.change(context.WithoutCancel(ctx), c, func(rec *record) { rec.Pod = "" })
		return err
	}
	pods := s.client.CoreV1().Pods(Namespace)
	_, err = pods.Create(ctx, pod, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) { // of a container that was renamed
		pod.Name = "container-" + short(r.ID)
		if err = s.change(ctx, c, func(rec *record) { rec.Pod = pod.Name }); err == nil {
			_, err = pods.Create(ctx, pod, metav1.CreateOptions{})
		}
	}
	if err != nil {
		_ = s.change(ctx, c, func(rec *record) { rec.Pod = "" })
		return fmt.Errorf("start container %s: %w", r.Name, err)
	}
	return s.awaitStart(ctx, c, &r)
}

func (s *Server) awaitStart(ctx context.Context, c *container, r *record) error {
	waiting, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	st, err := s.await(waiting, c, func(st state, gone bool) bool {
		return gone || st.running() || st.over() || st.status == types.StateRestarting || st.failed != ""
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("start container %s: it does not run after %v; `kubectl describe pod -n %s %s` tells more", r.Name, startPatience, Namespace, s.recordOf(c).Pod)
	case st.failed != "" && !st.running():
		message := st.failed
		if err := s.dropPod(context.WithoutCancel(ctx), c); err != nil {
			s.log.Warn("docker", "err", err)
		}
		return fmt.Errorf("start container %s: %s", r.Name, message)
	case st.run.Error != "":
		return invalid("failed to create task for container: %s", plainStartError(st.run.Error))
	}
	return nil
}

// plainStartError is without the node's own name of the container.
func plainStartError(text string) string {
	if _, rest, found := strings.Cut(text, "\": "); found && strings.HasPrefix(text, "start container \"") {
		return rest
	}
	return text
}

// dropPod removes the pod of a container that does not run, keeping its log and how it
// ended. The caller holds c.op.
func (s *Server) dropPod(ctx context.Context, c *container) error {
	r := s.recordOf(c)
	if r.Pod == "" {
		return nil
	}
	if err := s.archiveLog(ctx, &r); err != nil {
		return err
	}
	if err := s.deletePod(ctx, c, r.Pod, 1); err != nil {
		return fmt.Errorf("remove the pod of container %s: %w", r.Name, err)
	}
	return nil
}

// deletePod deletes a pod and waits until the node has taken it down.
func (s *Server) deletePod(ctx context.Context, c *container, name string, grace int64) error {
	err := s.client.CoreV1().Pods(Namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
	if apierrors.IsNotFound(err) {
		s.mu.Lock()
		if c.rec.Pod == name {
			c.rec.Last, c.rec.Pod, c.pod = stateOf(&c.rec, c.pod).run, "", nil
			c.wake()
		}
		s.mu.Unlock()
		return nil
	}
	if err != nil {
		return err
	}
	for {
		s.mu.Lock()
		done, changed := c.rec.Pod != name || c.gone, c.changed
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Server) serveStop(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	if st := s.current(c); !st.running() && st.status != types.StateRestarting {
		return notModified
	}
	if err := s.stop(r.Context(), c, r.FormValue("t"), r.FormValue("signal")); err != nil {
		return err
	}
	return noContent(w)
}

// stop sends the stop signal and kills after the timeout. The caller holds c.op.
func (s *Server) stop(ctx context.Context, c *container, timeout, signal string) error {
	r := s.recordOf(c)
	if signal == "" {
		signal = r.Config.StopSignal
	}
	sig, err := parseSignal(signal, unix.SIGTERM)
	if err != nil {
		return err
	}
	seconds := stopTimeout(&r)
	if timeout != "" {
		if seconds, err = strconv.Atoi(timeout); err != nil {
			return invalid("invalid timeout %q", timeout)
		}
	}
	if err := s.change(ctx, c, func(rec *record) { rec.Stopped = true }); err != nil {
		return err
	}
	// Signals go out at once; then the pod ends for good, so that no policy restarts it.
	if seconds != 0 {
		if err := s.signal(ctx, r.Pod, int(sig), false); err != nil {
			return err
		}
		s.containerEvent(&r, events.ActionKill, map[string]string{"signal": strconv.Itoa(int(sig))})
	}
	if s.current(c).paused() { // the signal waits
		if err := s.resume(ctx, c); err != nil {
			return err
		}
	}
	if restartPolicyOf(r.HostConfig.RestartPolicy) != v1.RestartPolicyNever {
		if err := s.endPod(ctx, r.Pod); err != nil {
			return err
		}
	}
	ended := func(st state, gone bool) bool { return gone || st.over() || st.status == types.StateCreated }
	waiting, cancel := ctx, context.CancelFunc(func() {})
	if seconds >= 0 {
		waiting, cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
	}
	_, err = s.await(waiting, c, ended)
	cancel()
	if err != nil && ctx.Err() == nil {
		if err := s.signal(ctx, r.Pod, int(unix.SIGKILL), true); err != nil {
			return err
		}
		_, err = s.await(ctx, c, ended)
	}
	if err != nil {
		return fmt.Errorf("stop container %s: %w", r.Name, err)
	}
	s.containerEvent(&r, events.ActionStop, nil)
	return nil
}

// signal sends a signal to a container; one that has ended meanwhile is no error.
func (s *Server) signal(ctx context.Context, pod string, sig int, all bool) error {
	err := s.cfg.Machine.Signal(ctx, Namespace, pod, sig, all)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (s *Server) serveRestart(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	if st := s.current(c); st.running() || st.status == types.StateRestarting {
		if err := s.stop(r.Context(), c, r.FormValue("t"), r.FormValue("signal")); err != nil {
			return err
		}
	}
	if err := s.start(r.Context(), c); err != nil {
		return err
	}
	rec := s.recordOf(c)
	s.containerEvent(&rec, events.ActionRestart, nil)
	return noContent(w)
}

func (s *Server) serveKill(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	sig, err := parseSignal(r.FormValue("signal"), unix.SIGKILL)
	if err != nil {
		return err
	}
	rec := s.recordOf(c)
	if !s.current(c).running() {
		return conflict("cannot kill container: %s: container %s is not running", r.PathValue("id"), rec.ID)
	}
	if sig == unix.SIGKILL && restartPolicyOf(rec.HostConfig.RestartPolicy) != v1.RestartPolicyNever {
		// As docker has it: who is killed by hand stays dead.
		if err := s.change(r.Context(), c, func(rec *record) { rec.Stopped = true }); err != nil {
			return err
		}
		if err := s.endPod(r.Context(), rec.Pod); err != nil {
			return err
		}
	}
	if err := s.cfg.Machine.Signal(r.Context(), Namespace, rec.Pod, int(sig), false); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("kill container %s: %w", rec.Name, err)
	}
	s.containerEvent(&rec, events.ActionKill, map[string]string{"signal": strconv.Itoa(int(sig))})
	if sig == unix.SIGKILL {
		if s.current(c).paused() {
			if err := s.resume(r.Context(), c); err != nil {
				return err
			}
		}
		if _, err := s.await(r.Context(), c, func(st state, gone bool) bool { return gone || !st.running() }); err != nil {
			return err
		}
	}
	return noContent(w)
}

// parseSignal reads a signal's name or number.
func parseSignal(text string, otherwise unix.Signal) (unix.Signal, error) {
	if text == "" {
		return otherwise, nil
	}
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, invalid("invalid signal: %s", text)
}

// signalName is a signal's name as pods have it.
func signalName(text string) (string, bool) {
	sig, err := parseSignal(text, unix.SIGTERM)
	if err != nil {
		return "", false
	}
	name := unix.SignalName(sig)
	return name, name != ""
}

type removeOptions struct{ force, volumes bool }

func (s *Server) serveRemove(w http.ResponseWriter, r *http.Request) error {
	if boolean(r, "link") {
		return invalid("links are not possible: containers of one user-defined network reach each other by name")
	}
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	if err := s.remove(r.Context(), c, removeOptions{boolean(r, "force"), boolean(r, "v")}); err != nil {
		return err
	}
	return noContent(w)
}

// remove deletes a container with its pod, layer and log.
func (s *Server) remove(ctx context.Context, c *container, o removeOptions) error {
	c.op.Lock()
	defer c.op.Unlock()
	s.mu.Lock()
	r, st, gone := c.rec, stateOf(&c.rec, c.pod), c.gone
	s.mu.Unlock()
	if gone {
		return nil
	}
	alive := st.running() || st.status == types.StateRestarting
	if alive && !o.force {
		return conflict("cannot remove container \"/%s\": container is %s: stop the container before removing or force remove", r.Name, st.status)
	}
	ctx = context.WithoutCancel(ctx) // half removed is worse than late
	if r.Pod != "" {
		if alive {
			// The deletion comes first, so that no policy restarts what is killed.
			s.containerEvent(&r, events.ActionKill, map[string]string{"signal": "9"})
			go s.killSoon(ctx, c, r.Pod)
		}
		if err := s.deletePod(ctx, c, r.Pod, 1); err != nil {
			return fmt.Errorf("remove container %s: %w", r.Name, err)
		}
	}
	if err := s.dropLayer(ctx, r.ID); err != nil {
		return fmt.Errorf("remove container %s: %w", r.Name, err)
	}
	if err := os.RemoveAll(s.containerDir(r.ID)); err != nil {
		return fmt.Errorf("remove container %s: %w", r.Name, err)
	}
	err := s.client.CoreV1().Secrets(Namespace).Delete(ctx, secretName(r.ID), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", r.Name, err)
	}
	s.mu.Lock()
	c.gone = true
	delete(s.containers, r.ID)
	c.wake()
	s.mu.Unlock()
	s.namesChanged(ctx, &r)
	s.unsharePorts(ctx, &r)
	s.containerEvent(&r, events.ActionDestroy, nil)
	if o.volumes {
		s.dropAnonymous(ctx, &r)
	}
	return nil
}

// killSoon kills a container once its pod is being deleted.
func (s *Server) killSoon(ctx context.Context, c *container, pod string) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		s.mu.Lock()
		deleting, done, changed := c.pod != nil && c.pod.DeletionTimestamp != nil, c.rec.Pod != pod, c.changed
		s.mu.Unlock()
		if done {
			return
		}
		if deleting {
			if err := s.signal(ctx, pod, int(unix.SIGKILL), true); err != nil {
				s.log.Warn("kill a container that is removed", "pod", pod, "err", err)
			}
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// layerPatience is how long the node may hold the layer of a container that has ended.
const layerPatience = 30 * time.Second

// awaitLayer waits until the node has let go of a container's writable layer.
func (s *Server) awaitLayer(ctx context.Context, id string) error {
	for deadline := time.Now().Add(layerPatience); ; {
		used, err := s.cfg.Images.InUse(image.KeptName(Namespace, id))
		switch {
		case err != nil || !used:
			return err
		case time.Now().After(deadline):
			return conflict("the container's last run still holds its files after %v", layerPatience)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (s *Server) dropLayer(ctx context.Context, id string) error {
	if err := s.awaitLayer(ctx, id); err != nil {
		return err
	}
	return s.cfg.Images.Drop(ctx, image.KeptName(Namespace, id))
}

func (s *Server) serveRename(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(r.FormValue("name"), "/")
	if !validName.MatchString(name) {
		return invalid("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
	}
	c.op.Lock()
	defer c.op.Unlock()
	if other, err := s.find(name); err == nil && other != c && s.recordOf(other).Name == name {
		return conflict("Conflict. The container name \"/%s\" is already in use by container \"%s\". You have to remove (or rename) that container to be able to reuse that name.", name, s.recordOf(other).ID)
	}
	old := s.recordOf(c).Name
	if err := s.change(r.Context(), c, func(rec *record) { rec.Name = name }); err != nil {
		return err
	}
	rec := s.recordOf(c)
	s.namesChanged(r.Context(), &rec)
	s.containerEvent(&rec, events.ActionRename, map[string]string{"oldName": "/" + old})
	return noContent(w)
}

// serveWait tells how a container ended. The head of the answer is sent at once: clients
// wait before they start.
func (s *Server) serveWait(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	condition := types.WaitCondition(r.FormValue("condition"))
	var cond func(st state, gone bool) bool
	begun := s.current(c).running()
	first := s.current(c).run
	switch condition {
	case "", types.WaitConditionNotRunning:
		cond = func(st state, gone bool) bool {
			return gone || !st.running() && st.status != types.StateRestarting
		}
	case types.WaitConditionNextExit:
		cond = func(st state, gone bool) bool {
			begun = begun || st.running()
			ended := !st.run.FinishedAt.IsZero() && !st.run.FinishedAt.Equal(first.FinishedAt)
			return gone || begun && !st.running() || ended && !st.running() || st.run.Restarts > first.Restarts
		}
	case types.WaitConditionRemoved:
		cond = func(_ state, gone bool) bool { return gone }
	default:
		return invalid("invalid condition: %q", condition)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	st, err := s.await(r.Context(), c, cond)
	if err != nil {
		return nil // the client is gone
	}
	writeJSON(w, types.WaitResponse{StatusCode: int64(st.run.ExitCode)})
	return nil
}
