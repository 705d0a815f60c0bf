package node

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// view is everything a worker knows about its pod besides the specification.
// It is the observed half of the input of [next] and [podStatus].
type view struct {
	Now       time.Time
	FirstSeen time.Time // when this process took the pod over

	DeletionSeen time.Time // when this process learned that the pod is to be deleted

	// Crowded is set while many pods are on their way at once, so that each takes longer.
	Crowded bool

	Removed bool     // the API has no such pod any more
	Verdict *verdict // not nil: the pod must not run

	Sandbox    sandboxView
	Volumes    attempt
	Containers map[string]*containerView

	Busy      map[string]bool // operations under way, by [step.key]
	TornDown  bool            // no container, volume or network of the pod is left
	Published bool            // the API has the status that follows from this view
}

// verdict is why a pod was refused or evicted. It becomes the pod's reason.
type verdict struct {
	Reason, Message string
	Evicted         bool // by resource pressure: containers get one second
}

// attempt is something that must succeed once and is retried until it does.
type attempt struct {
	Ready    bool
	Err      error
	Failures int
	RetryAt  time.Time // no sooner than this; zero means now
}

// failed records a failure and when to try again: after base, doubling to limit.
func (a *attempt) failed(err error, now time.Time, base, limit time.Duration) {
	a.Ready, a.Err = false, err
	a.RetryAt = now.Add(doubled(base, a.Failures, limit))
	a.Failures++
}

func (a *attempt) succeeded() { *a = attempt{Ready: true} }

func doubled(base time.Duration, times int, limit time.Duration) time.Duration {
	for d := base; ; d *= 2 {
		if d >= limit {
			return limit
		}
		if times == 0 {
			return d
		}
		times--
	}
}

type sandboxView struct {
	attempt
	ID  string   // changes when the namespaces were made anew
	IPs []string // first is the pod's primary address
}

// containerView is what is known about one container of the pod.
type containerView struct {
	Last     *instance // latest run; nil when it never ran
	Previous *instance // the finished run before Last
	Image    imageView
	Create   createView
	Resize   attempt // of the running instance to the resources the pod wants
	Restart  restartDelay

	StartupPassed bool          // the startup probe succeeded, or there is none
	Ready         bool          // the readiness probe's result; true when there is none
	Kill          string        // not "": why the running instance must be stopped and perhaps restarted
	KillGrace     time.Duration // for Kill; zero is the pod's grace period
}

// instance is one run of a container.
type instance struct {
	ID         string
	Attempt    int    // 0 for the first run; the pod's restartCount
	Sandbox    string // sandboxView.ID it ran in
	Image      string
	ImageID    string
	Running    bool
	Resources  v1.ResourceRequirements // what it runs with
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int
	Reason     string // overrides the reason that follows from the exit code
	Message    string // termination message
}

// imageView is the state of a container's image.
type imageView struct {
	attempt
	Ref      string // the image this is about: a changed one starts anew
	ID       string // digest reference of the image when Ready
	FailedAt time.Time
	Reason   string // ErrImagePull, ErrImageNeverPull, InvalidImageName
}

// createView is why the container could not be created or started.
type createView struct {
	attempt
	Reason string // CreateContainerConfigError, CreateContainerError, RunContainerError, ImageRefused
}

const (
	restartDelayBase = 10 * time.Second
	restartDelayMax  = 5 * time.Minute
)

// restartDelay is the exponential back-off of restarts: none for the first,
// then 10 s doubling to 5 min, forgotten after 10 min without a restart.
type restartDelay struct {
	Delay time.Duration
	At    time.Time // when Delay was set
}

// until returns when an instance that finished at t may be started again.
func (r restartDelay) until(t time.Time) time.Time {
	if r.expired(t) {
		return t
	}
	return t.Add(r.Delay)
}

func (r restartDelay) expired(t time.Time) bool {
	return r.Delay == 0 || t.Sub(r.At) > 2*restartDelayMax
}

// next returns the delay after a restart at now of an instance that finished at t.
func (r restartDelay) next(t, now time.Time) restartDelay {
	if r.expired(t) {
		return restartDelay{Delay: restartDelayBase, At: now}
	}
	return restartDelay{Delay: min(2*r.Delay, restartDelayMax), At: now}
}
