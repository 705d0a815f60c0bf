package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/route"
	"github.com/gantryhq/gantry/services/gateway/upstream"
)

var errWaited = errors.New("no endpoint was ready in time")

// knock is how often a request that has waited tries endpoints that do not listen yet,
// although their pods are ready: those without a readiness probe are so from their start.
const knock = 20 * time.Millisecond

// goroutineBytes is what a request that waits in net/http takes of memory, about: its goroutine's
// stack and its connection's buffers.
const goroutineBytes = 16 << 10

// next acquires an endpoint, and waits for one where it may.
func (x *exchange) next(ctx context.Context) (*upstream.Endpoint, error) {
	again := x.attempts.Last() != nil
	var since time.Time
	for {
		if again || !since.IsZero() || !x.pool.Busy() {
			if e := x.attempts.Next(x.pool, x.course.AimOf()); e != nil || again {
				return e, nil
			}
		}
		patience, err := await(ctx, x.pool, &since)
		if err != nil {
			return nil, err
		}
		x.waitsUntil = since.Add(patience)
	}
}

// again decides whether there is another attempt, as ordinaryExchange.again does.
func (x *exchange) again(o upstream.Outcome, status int, repeatable bool) (wait time.Duration, again bool) {
	wait, again = x.attempts.Again(x.pool, o, status, repeatable)
	if !again && o == upstream.NotConnected && time.Now().Before(x.waitsUntil) {
		x.attempts.Reset()
		x.attempts.Begin(x.pool, x.rule.Retry)
		return knock, true
	}
	return wait, again
}

// await returns when it may be worth while to acquire an endpoint again. since is when the request
// began to wait; the zero time when it has not yet. patience is how long it may wait from then on.
func await(ctx context.Context, p *upstream.Pool, since *time.Time) (patience time.Duration, err error) {
	resumed := make(chan struct{})
	w, patience, err := p.Wait(goroutineBytes, !since.IsZero(), func() { close(resumed) })
	if err != nil {
		return 0, err
	}
	timer := time.NewTimer(left(patience, since))
	defer timer.Stop()
	select {
	case <-resumed:
		return patience, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timer.C:
		err = errWaited
	}
	w.Cancel()
	return 0, err
}

// left is what is left of the patience of a request that waits since then, or from now on.
func left(patience time.Duration, since *time.Time) time.Duration {
	if since.IsZero() {
		*since = time.Now()
	}
	return patience - time.Since(*since)
}

// Wait implements eventloop.Waiter.
func (x *ordinaryExchange) Wait(bytes int, resume func()) (time.Duration, eventloop.Failure) {
	if x.admission.refused() {
		return 0, eventloop.NoBackend
	}
	w, patience, err := x.pool.Wait(bytes, x.waiter != nil, resume)
	switch {
	case errors.Is(err, upstream.ErrCrowded):
		return 0, eventloop.Crowded
	case err != nil:
		return 0, eventloop.NoBackend
	}
	x.waiter = w
	rest := left(patience, &x.waitsSince)
	x.waitsUntil = x.waitsSince.Add(patience)
	return rest, eventloop.Waited
}

func crowdedDetail(s route.ServicePort) string {
	return fmt.Sprintf("Service %s has no endpoint free, and as many requests as may already wait for one", s)
}

func waitedDetail(s route.ServicePort) string {
	return fmt.Sprintf("Service %s has no endpoint free, and none became so in time", s)
}
