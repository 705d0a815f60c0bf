package restart

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Outcome is how the requests of one kind went.
type Outcome struct {
	Kind     string
	Times    []time.Duration // of the requests that succeeded
	Failures []string        // when and why
	// Held are requests that were due and not sent, since too many waited for an answer.
	Held int
}

// load sends requests at a fixed rate, whether or not earlier ones were answered, as
// clients that know nothing of each other do; but no more than a second's wait for an
// answer. Beyond what the machine can carry at all, the queue, which is in this process, would
// grow until every request in it was older than one limit or another, which tells nothing of
// whether one was lost.
type load struct {
	kind    string
	rate    int // per second
	request func(context.Context) error
}

// requestTimeout tells what is lost from what waits on a busy machine.
const requestTimeout = 30 * time.Second

// run sends until ctx ends and waits for the answers to what was sent.
func (l load) run(ctx context.Context) *Outcome {
	out := &Outcome{Kind: l.kind}
	var mu sync.Mutex
	var running sync.WaitGroup
	var waiting atomic.Int64
	one := func() {
		defer waiting.Add(-1)
		began := time.Now()
		request, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()
		err := l.request(request)
		took := time.Since(began)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			out.Failures = append(out.Failures, fmt.Sprintf("%s after %v: %v", began.Format("15:04:05.000"), took.Round(time.Millisecond), err))
			return
		}
		out.Times = append(out.Times, took)
	}
	began, sent := time.Now(), 0
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			running.Wait()
			return out
		case <-tick.C:
			for due := int(time.Since(began).Seconds() * float64(l.rate)); sent < due; sent++ {
				if waiting.Load() >= int64(l.rate) {
					mu.Lock()
					out.Held++
					mu.Unlock()
					continue
				}
				waiting.Add(1)
				running.Go(one)
			}
		}
	}
}

// requests is how many were sent.
func (o *Outcome) requests() int { return len(o.Times) + len(o.Failures) }

// quantile is the time that this part of the successful requests took at most.
func (o *Outcome) quantile(part float64) time.Duration {
	if len(o.Times) == 0 {
		return 0
	}
	slices.Sort(o.Times)
	return o.Times[min(int(part*float64(len(o.Times))), len(o.Times)-1)]
}
