package node

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/gantryhq/gantry/engine/node/logs"
	"github.com/gantryhq/gantry/engine/node/runtime"
)

// KeptRootAnnotation names the kept root that the only container of a pod runs on,
// instead of a fresh one: what it writes outlives the pod. The root must exist and
// belongs to the pod's namespace (image.KeptName).
const KeptRootAnnotation = "gantry.dev/kept-root"

// What follows is for callers in this process that offer more than the Kubernetes API
// has words for. Who calls it has authorized the request.

// current returns the worker of a pod and the latest run of its first container. Of pods
// of one name the newest is meant: a former one may still be on its way out.
func (n *Node) current(namespace, pod string) (found *worker, latest *instance, err error) {
	var created time.Time
	for _, w := range n.allWorkers() {
		w.mu.Lock()
		is := w.pod.Namespace == namespace && w.pod.Name == pod && !w.v.Removed && len(w.pod.Spec.Containers) > 0
		at := w.pod.CreationTimestamp.Time // in whole seconds
		if is && (found == nil || at.After(created) || at.Equal(created) && w.pod.DeletionTimestamp == nil) {
			found, latest, created = w, nil, at
			if cv := w.v.Containers[w.pod.Spec.Containers[0].Name]; cv != nil {
				latest = cv.Last
			}
		}
		w.mu.Unlock()
	}
	if found == nil {
		return nil, nil, fmt.Errorf("pod %s/%s is not on this node: %w", namespace, pod, fs.ErrNotExist)
	}
	return found, latest, nil
}

// runningIn is current for a container that runs.
func (n *Node) runningIn(namespace, pod string) (*worker, string, error) {
	w, run, err := n.current(namespace, pod)
	if err != nil {
		return nil, "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if run == nil || !run.Running {
		return nil, "", fmt.Errorf("the container of pod %s/%s is not running: %w", namespace, pod, fs.ErrNotExist)
	}
	return w, run.ID, nil
}

// Attach connects to the first container of a pod until its output ends.
func (n *Node) Attach(ctx context.Context, namespace, pod string, s runtime.Streams) error {
	_, id, err := n.runningIn(namespace, pod)
	if err != nil {
		return err
	}
	return n.cfg.Driver.Attach(ctx, id, s)
}

// Exec runs a process in the first container of a pod and returns its exit code. A
// user is a name or a number of the container, with a group or without; "" is the
// container's own.
func (n *Node) Exec(ctx context.Context, namespace, pod, user string, e runtime.Exec, s runtime.Streams) (int, error) {
	_, id, err := n.runningIn(namespace, pod)
	if err != nil {
		return 0, err
	}
	if user != "" {
		found, err := n.User(fmt.Sprintf("/proc/%d/root", n.PID(ctx, namespace, pod)), user)
		if err != nil {
			return 0, err
		}
		e.User = &found
	}
	return n.cfg.Driver.Exec(ctx, id, e, s)
}

// Signal sends a signal to the first process of the first container, or to all of its
// processes.
func (n *Node) Signal(ctx context.Context, namespace, pod string, signal int, all bool) error {
	_, id, err := n.runningIn(namespace, pod)
	if err != nil {
		return err
	}
	return n.cfg.Driver.Signal(ctx, id, signal, all)
}

// Pause stops the processes of the first container, and returns when none runs any more.
// The pod goes on counting as running; what probes it fails.
func (n *Node) Pause(ctx context.Context, namespace, pod string) error {
	_, id, err := n.runningIn(namespace, pod)
	if err != nil {
		return err
	}
	return n.cfg.Driver.Pause(ctx, id)
}

// Resume lets the processes of a paused first container run again.
func (n *Node) Resume(ctx context.Context, namespace, pod string) error {
	_, id, err := n.runningIn(namespace, pod)
	if err != nil {
		return err
	}
	return n.cfg.Driver.Resume(ctx, id)
}

// LimitProcesses changes how many processes and threads the first container may have;
// -1 is any number.
func (n *Node) LimitProcesses(ctx context.Context, namespace, pod string, limit int64) error {
	_, id, err := n.runningIn(namespace, pod)
	if err != nil {
		return err
	}
	return n.cfg.Driver.Update(ctx, id, runtime.Resources{PidsLimit: limit})
}

// Stats reads the control group of the first container.
func (n *Node) Stats(ctx context.Context, namespace, pod string) (runtime.Stats, error) {
	_, id, err := n.runningIn(namespace, pod)
	if err != nil {
		return runtime.Stats{}, err
	}
	return n.cfg.Driver.Stats(ctx, id)
}

// PID is the first process of the first container, 0 when there is none.
func (n *Node) PID(ctx context.Context, namespace, pod string) int {
	w, _, err := n.runningIn(namespace, pod)
	if err != nil {
		return 0
	}
	w.mu.Lock()
	uid, name := w.uid, w.pod.Spec.Containers[0].Name
	w.mu.Unlock()
	return n.pidOf(uid, name)
}

// Log copies the log of the latest run of the first container, or of the run before
// it, with both streams apart. Each entry is one Write.
func (n *Node) Log(ctx context.Context, namespace, pod string, opt *v1.PodLogOptions, stdout, stderr io.Writer) error {
	w, _, err := n.current(namespace, pod)
	if err != nil {
		return err
	}
	w.mu.Lock()
	name := w.pod.Spec.Containers[0].Name
	w.mu.Unlock()
	path, running, err := w.logFile(name, opt.Previous)
	if err != nil {
		return err
	}
	if opt.Follow && !opt.Previous {
		defer w.wakeFollower(ctx, path)()
	}
	return logs.Read(ctx, path, opt, running, stdout, stderr)
}

// wakeFollower has who follows a log look at once, and not within a second, whether the
// container still runs when it has ended.
func (w *worker) wakeFollower(ctx context.Context, path string) (stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	cv := w.v.Containers[w.pod.Spec.Containers[0].Name]
	if cv == nil || cv.Last == nil {
		return func() {}
	}
	exit, done := w.exits[cv.Last.ID], make(chan struct{})
	go func() {
		select {
		case <-exit:
			if info, err := os.Stat(path); err == nil {
				_ = os.Chmod(path, info.Mode()) // readers of the file hear of it, nothing changes
			}
		case <-ctx.Done():
		case <-done:
		}
	}()
	return func() { close(done) }
}

// User resolves a user, and a group after a colon, by the files below a root directory.
func (n *Node) User(rootfs, spec string) (runtime.User, error) {
	found, err := lookUp(rootfs, spec)
	if err != nil {
		return runtime.User{}, err
	}
	u := runtime.User{UID: uint32(found.Uid), GID: uint32(found.Gid)}
	for _, g := range found.Sgids {
		u.AdditionalGroups = append(u.AdditionalGroups, uint32(g))
	}
	return u, nil
}
