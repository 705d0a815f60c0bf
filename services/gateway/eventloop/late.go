package eventloop

// When many events come at once, what is small is sent after all of them have been
// looked at: reading, deciding and sending, each for many connections in a row, find
// their code and data in the processor's caches, and the other side is woken up once
// for several messages instead of for each.

const (
	// lateFrom is how many events are many.
	lateFrom = 4
	// lateSize is what is small: it has room in a buffer that the loop lends.
	lateSize = 4 << 10
)

// late is what is to be sent after the events of a batch.
type late struct {
	on       bool
	requests []*backendConn // whose clients hold them
	answers  []*client      // which keep them in out
}

// sendLate sends what was put off.
func (l *loop) sendLate() {
	l.late.on = false
	for i, b := range l.late.requests {
		l.late.requests[i] = nil
		if b.dead || !b.late {
			continue
		}
		b.late = false
		if to, c := b.to, b.client; !b.ask() {
			l.connect(to, c)
		}
	}
	l.late.requests = l.late.requests[:0]
	for i, c := range l.late.answers {
		l.late.answers[i] = nil
		if c.dead || len(c.out) == 0 {
			continue
		}
		c.sendKept()
	}
	l.late.answers = l.late.answers[:0]
}

// writeLate sends p to the client, now or after the events of this batch.
func (c *client) writeLate(p []byte) bool {
	if !c.loop.late.on || len(p) > lateSize || len(c.out) > 0 {
		return c.write(p)
	}
	c.retain(p)
	c.loop.late.answers = append(c.loop.late.answers, c)
	return true
}
