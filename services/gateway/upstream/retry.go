package upstream

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

const (
	defaultRetries = 2 // where a retry is asked for without a number
	firstBackoff   = 25 * time.Millisecond
	longestBackoff = 2 * time.Second
)

// Attempts is the course of one request's attempts at a pool. Its zero value is before
// the first one.
type Attempts struct {
	Tried []*Endpoint // since the last round began, the latest one last
	made  int
	again *route.Retry // in force, or nil
}

// Begin sets what governs the attempts: what the rule says, or else the pool's policy.
func (a *Attempts) Begin(p *Pool, rule *route.Retry) {
	if a.again = rule; rule == nil {
		a.again = p.Policy().Retry
	}
}

// Reset makes it the zero value, and keeps memory.
func (a *Attempts) Reset() {
	clear(a.Tried)
	*a = Attempts{Tried: a.Tried[:0]}
}

// Last is the endpoint of the latest attempt, or nil.
func (a *Attempts) Last() *Endpoint {
	if len(a.Tried) == 0 {
		return nil
	}
	return a.Tried[len(a.Tried)-1]
}

// Next acquires the endpoint for the next attempt, or returns nil.
func (a *Attempts) Next(p *Pool, aim *Aim) *Endpoint {
	e := p.Acquire(a.Tried, aim)
	if e == nil && a.again != nil && len(a.Tried) > 0 {
		// All were tried: a new round.
		clear(a.Tried)
		a.Tried = a.Tried[:0]
		e = p.Acquire(nil, aim)
	}
	if e != nil {
		a.made++
		a.Tried = append(a.Tried, e)
	}
	return e
}

// Again decides whether there is another attempt after the latest one, and how long to
// wait before it. repeatable says that the request may be sent although a backend may
// have acted on it. For Answered it is about the status, which is delivered otherwise.
func (a *Attempts) Again(p *Pool, o Outcome, status int, repeatable bool) (wait time.Duration, again bool) {
	if !a.allowed(o, status, repeatable) {
		return 0, false
	}
	elsewhere := p.hasOther(a.Tried)
	if !elsewhere && a.again == nil {
		return 0, false
	}
	// Where nothing was sent, nobody has more to do than with the first attempt.
	if o != NotConnected && !p.budget.take(time.Now(), uint32(p.requests.Load()), &p.Policy().Budget) {
		p.counts.overBudget.Add(1)
		return 0, false
	}
	p.counts.retries[o].Add(1)
	if a.again == nil || o == NotConnected && elsewhere {
		return 0, true
	}
	return backoff(a.again.Backoff, a.made), true
}

// allowed tells whether the rules provide for another attempt.
func (a *Attempts) allowed(o Outcome, status int, repeatable bool) bool {
	limit := MaxAttempts
	if a.again != nil {
		limit = 1 + max(0, cmp.Or(a.again.Attempts, defaultRetries))
	}
	switch {
	case a.made >= limit:
		return false
	case o == NotConnected:
		return true
	case !repeatable:
		return false
	case o == Answered:
		return a.again != nil && slices.Contains(a.again.Codes, status)
	case o == TimedOut:
		return a.again != nil
	}
	return true
}

// Judges tells whether any answer may be followed by another attempt.
func (a *Attempts) Judges() bool { return a.again != nil && len(a.again.Codes) > 0 }

// hasOther tells whether there is an endpoint that was not tried.
func (p *Pool) hasOther(tried []*Endpoint) bool {
	return slices.ContainsFunc(p.now().open, func(e *Endpoint) bool { return !slices.Contains(tried, e) })
}

// backoff is at least base before the second attempt and doubles from there; half as
// much again at random keeps clients from coming back all at once.
func backoff(base time.Duration, made int) time.Duration {
	base = cmp.Or(base, firstBackoff)
	d := max(base, min(base<<min(max(made-1, 0), 16), longestBackoff))
	return d + rand.N(d/2+1)
}

// budgetWindow is the time in which retries are compared with requests.
const budgetWindow = 10 * time.Second

// budget bounds the retries of a pool by its requests. It is worked out only when
// there is a retry: what happened since the last one counts as evenly spread.
type budget struct {
	mu                sync.Mutex
	at                time.Time
	seen              uint32 // requests at that time
	requests, retries float64
}

// take tells whether a retry is within the budget, and counts it. requests is how many
// there have been ever; it may wrap around.
func (b *budget) take(now time.Time, requests uint32, rules *route.RetryBudget) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	fresh := float64(max(0, int32(requests-b.seen))) // two may come in the wrong order
	switch passed := now.Sub(b.at); {
	case b.at.IsZero():
		b.requests = fresh
	case passed >= budgetWindow:
		b.requests, b.retries = fresh*float64(budgetWindow)/float64(passed), 0
	default:
		left := 1 - float64(passed)/float64(budgetWindow)
		b.requests, b.retries = b.requests*left+fresh, b.retries*left
	}
	b.at, b.seen = now, requests
	percent, least := max(0, cmp.Or(rules.Percent, 20)), max(0, cmp.Or(rules.MinPerSecond, 3))
	allowed := b.requests*float64(percent)/100 + float64(least)*budgetWindow.Seconds()
	if b.retries+1 > allowed {
		return false
	}
	b.retries++
	return true
}
