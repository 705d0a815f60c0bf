package upstream

import (
	"errors"
	"testing"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

var errTest = errors.New("test")

func TestWhatIsTriedAgain(t *testing.T) {
	twice := &route.Retry{Attempts: 1, Codes: []int{503}, Backoff: 40 * time.Millisecond}
	for _, c := range []struct {
		name       string
		endpoints  int
		rule       *route.Retry
		o          Outcome
		status     int
		repeatable bool
		attempts   int // in all, with the same outcome each time
		waits      bool
	}{
		{"nothing was sent", 3, nil, NotConnected, 0, false, 3, false},
		{"nothing was sent, to many", 9, nil, NotConnected, 0, false, MaxAttempts, false},
		{"nothing was sent, to the only one", 1, nil, NotConnected, 0, false, 1, false},
		{"the connection broke", 3, nil, Broken, 0, true, 3, false},
		{"the connection broke, and it may have been done", 3, nil, Broken, 0, false, 1, false},
		{"too slow, without a rule", 3, nil, TimedOut, 0, true, 1, false},
		{"too slow", 3, twice, TimedOut, 0, true, 2, true},
		{"a status without a rule", 3, nil, Answered, 503, true, 1, false},
		{"a status that is listed", 3, twice, Answered, 503, true, 2, true},
		{"a status that is listed, of the only one", 1, twice, Answered, 503, true, 2, true},
		{"a status that is listed, and it may have been done", 3, twice, Answered, 503, false, 1, false},
		{"a status that is not listed", 3, twice, Answered, 500, true, 1, false},
		{"nothing was sent, with a rule", 3, twice, NotConnected, 0, false, 2, false},
		{"nothing was sent, to the only one, with a rule", 1, twice, NotConnected, 0, false, 2, true},
		{"a rule that wants none", 3, &route.Retry{Attempts: -1}, NotConnected, 0, true, 1, false},
		{"a rule without a number", 3, &route.Retry{Codes: []int{503}}, Answered, 503, true, 3, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPooled(t, c.endpoints, nil)
			var a Attempts
			a.Begin(p.Pool, c.rule)
			attempts, waited := 0, false
			for {
				e := a.Next(p.Pool, nil)
				if e == nil {
					break
				}
				e.Release()
				attempts++
				wait, again := a.Again(p.Pool, c.o, c.status, c.repeatable)
				if !again {
					break
				}
				if waited = waited || wait > 0; wait > 0 && c.rule.Backoff > 0 && wait < c.rule.Backoff {
					t.Errorf("waits for %s, want at least %s", wait, c.rule.Backoff)
				}
			}
			if attempts != c.attempts || waited != c.waits {
				t.Errorf("%d attempts, waited %v; want %d, %v", attempts, waited, c.attempts, c.waits)
			}
		})
	}
}

func TestBackoffDoubles(t *testing.T) {
	for made, want := range map[int]time.Duration{1: 100, 2: 200, 3: 400, 9: 2000, 100: 2000} {
		for range 50 {
			if got := backoff(100*time.Millisecond, made); got < want*time.Millisecond || got > want*time.Millisecond*3/2 {
				t.Fatalf("after %d attempts the wait is %s, want %dms and up to half more", made, got, want)
			}
		}
	}
	if got := backoff(5*time.Second, 1); got < 5*time.Second {
		t.Errorf("the wait is %s, less than what the rule wants", got)
	}
}

// An outage: everything fails, at 1,000 requests a second, and every one of them would
// be tried again.
func TestTheBudgetKeepsRetriesFromAmplifyingAnOutage(t *testing.T) {
	for _, c := range []struct {
		name     string
		rules    route.RetryBudget
		perTick  int // requests in a tenth of a second
		min, max int // retries in ten seconds
	}{
		{"by default", route.RetryBudget{}, 100, 1700, 2100},
		{"with few requests", route.RetryBudget{}, 1, 25, 55},
		{"half of the requests", route.RetryBudget{Percent: 50}, 100, 4500, 5100},
		{"none", route.RetryBudget{Percent: -1, MinPerSecond: -1}, 100, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b budget
			now, requests, taken := time.Unix(1000, 0), uint32(1<<32-500), 0 // which wraps around
			b.seen = requests
			measured := 0
			for tick := range 300 {
				now = now.Add(100 * time.Millisecond)
				for range c.perTick {
					requests++
					if b.take(now, requests, &c.rules) {
						taken++
					}
				}
				if tick == 199 {
					measured = taken
				}
			}
			if got := taken - measured; got < c.min || got > c.max {
				t.Errorf("%d retries in ten seconds, want %d to %d", got, c.min, c.max)
			}
		})
	}
}

func TestTheBudgetOfCalmTimesIsNotSaved(t *testing.T) {
	var b budget
	now := time.Unix(1000, 0)
	b.take(now, 0, &route.RetryBudget{})
	now, taken := now.Add(time.Hour), 0
	for range 10_000 {
		if b.take(now, 3_600_000, &route.RetryBudget{}) { // 1,000 a second for an hour
			taken++
		}
	}
	if taken > 2100 {
		t.Errorf("%d retries at once after a calm hour", taken)
	}
}
