package proxy

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// challengePath is where certificate authorities ask whether a host is ours
// (RFC 8555, section 8.3).
const challengePath = "/.well-known/acme-challenge/"

// Challenges are the answers to certificate authorities that are waited for at
// the moment. On ports without TLS they come before all routes.
type Challenges struct {
	pending atomic.Int32 // so that requests need no lock while there are none
	mu      sync.Mutex
	answers map[string]string // guarded by mu; by token
}

// Offer makes the answer to a token be served until Withdraw.
func (c *Challenges) Offer(token, answer string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answers == nil {
		c.answers = map[string]string{}
	}
	c.answers[token] = answer
	c.pending.Store(int32(len(c.answers)))
}

// Withdraw takes an answer back.
func (c *Challenges) Withdraw(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.answers, token)
	c.pending.Store(int32(len(c.answers)))
}

// asked tells whether a path may be a question.
func (c *Challenges) asked(path string) bool {
	return c.pending.Load() > 0 && strings.HasPrefix(path, challengePath)
}

// serve answers a question, and reports whether it was one.
func (c *Challenges) serve(w http.ResponseWriter, path string) bool {
	if !c.asked(path) {
		return false
	}
	c.mu.Lock()
	answer, ok := c.answers[strings.TrimPrefix(path, challengePath)]
	c.mu.Unlock()
	if ok {
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = io.WriteString(w, answer)
	}
	return ok
}
