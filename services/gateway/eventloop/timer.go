package eventloop

import (
	"container/heap"
	"time"
)

// Timeouts limit an exchange; 0 is no limit.
type Timeouts struct {
	Exchange time.Duration // from the request's head to the end of the response
	Attempt  time.Duration // from sending to one backend to the head of its response
	Connect  time.Duration // to one backend; 0 is the group's ConnectTimeout
	Idle     time.Duration // between two parts of a response's body
}

// timers are the clients whose exchange has a time limit, the earliest first. They
// are kept to the millisecond, unlike what a client may wait for (tick).
type timers []*client

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].limit < t[j].limit }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].timer, t[j].timer = i+1, j+1
}

func (t *timers) Push(c any) {
	*t = append(*t, c.(*client))
	(*t)[len(*t)-1].timer = len(*t)
}

func (t *timers) Pop() any {
	last := (*t)[len(*t)-1]
	last.timer = 0
	*t = (*t)[:len(*t)-1]
	return last
}

// limitTo sets the time at which the exchange is given up; 0 is never.
func (c *client) limitTo(at int64) {
	t := &c.loop.timers
	c.limit = at
	switch {
	case at == 0 && c.timer > 0:
		heap.Remove(t, c.timer-1)
	case at == 0:
	case c.timer > 0:
		heap.Fix(t, c.timer-1)
	default:
		heap.Push(t, c)
	}
}

// limitAttempt counts the timeout of an attempt from now.
func (c *client) limitAttempt() {
	at := c.exchangeLimit
	if d := c.timeouts.Attempt; d > 0 {
		if attempt := c.loop.now + int64(d); at == 0 || attempt < at {
			at = attempt
		}
	}
	c.limitTo(at)
}

// pause has the next attempt made after a while.
func (c *client) pause(d time.Duration) {
	at := c.loop.now + int64(d)
	if c.exchangeLimit != 0 {
		at = min(at, c.exchangeLimit)
	}
	c.pausing = true
	c.limitTo(at)
}

// giveUp ends the attempts and exchanges whose time is over.
func (l *loop) giveUp() {
	for len(l.timers) > 0 && l.timers[0].limit <= l.now {
		c := l.timers[0]
		over := c.exchangeLimit != 0 && c.exchangeLimit <= l.now
		c.limitTo(0)
		switch {
		case c.status != 0:
			c.abandon()
		case over:
			c.fail(TimedOut)
		case c.waits:
			c.fail(Waited)
		case c.pausing:
			c.pausing = false
			c.attempt(Paused)
		case c.repeatable():
			c.dropBackend()
			c.attempt(TimedOut)
		default:
			c.fail(TimedOut)
		}
	}
}
