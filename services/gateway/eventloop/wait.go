package eventloop

// wait lets the exchange wait for a backend, or returns why it does not.
func (c *client) wait(w Waiter) (otherwise Failure, waits bool) {
	c.waits = true
	c.waited++
	turn := c.waited
	limit, otherwise := w.Wait(cap(c.held), func() {
		c.loop.post(func() {
			if c.waits && c.waited == turn {
				c.resume()
			}
		})
	})
	if limit <= 0 {
		c.waits = false
		return otherwise, false
	}
	c.deadline = 0 // nothing is expected of the client
	at := c.loop.now + int64(limit)
	if c.exchangeLimit != 0 && c.exchangeLimit < at {
		at = c.exchangeLimit
	}
	c.limitTo(at)
	return Waited, true
}

// resume asks for a backend again.
func (c *client) resume() {
	c.waits = false
	c.limitTo(c.exchangeLimit)
	c.progress()
	c.attempt(NoBackend)
}
